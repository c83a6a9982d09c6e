//! kube-proxy's modes: however the node translates a Service's address, packets show it at the same hops.

use std::net::SocketAddr;
use std::process::Command;

use tracer_integration::{Watch, Way, fact};
use tracer_lab::{KubeProxy, Lab, Protocol, RecordType, ServicePort, Topology};

use crate::NAME;

/// Of a Service whose pod is httpbin.
const THERE: &[&str] = &[
    "default/curl     eth0             egress   curl > svc/both  ttl 64",
    "telekom-xwkb3    cali2fec8217514  ingress  curl > svc/both  ttl 64",
    "telekom-xwkb3    vxlan.calico     egress   curl > httpbin   ttl 63",
    "telekom-xwkb3    eth0             egress   curl > httpbin   ttl 63  vxlan 4096 telekom-xwkb3 > telekom-xwkb8",
    "telekom-xwkb8    eth0             ingress  curl > httpbin   ttl 63  vxlan 4096 telekom-xwkb3 > telekom-xwkb8",
    "telekom-xwkb8    vxlan.calico     ingress  curl > httpbin   ttl 63",
    "telekom-xwkb8    calib5e64782955  egress   curl > httpbin   ttl 62",
    "default/httpbin  eth0             ingress  curl > httpbin   ttl 62",
];

const BACK: &[&str] = &[
    "default/httpbin  eth0             egress   httpbin > curl   ttl 64",
    "telekom-xwkb8    calib5e64782955  ingress  httpbin > curl   ttl 64",
    "telekom-xwkb8    vxlan.calico     egress   httpbin > curl   ttl 63",
    "telekom-xwkb8    eth0             egress   httpbin > curl   ttl 63  vxlan 4096 telekom-xwkb8 > telekom-xwkb3",
    "telekom-xwkb3    eth0             ingress  httpbin > curl   ttl 63  vxlan 4096 telekom-xwkb8 > telekom-xwkb3",
    "telekom-xwkb3    vxlan.calico     ingress  httpbin > curl   ttl 63",
    "telekom-xwkb3    cali2fec8217514  egress   svc/both > curl  ttl 62",
    "default/curl     eth0             ingress  svc/both > curl  ttl 62",
];

#[test]
fn every_hop_to_a_service_is_told_with_iptables_over_nftables() {
    assert_service_is_told(KubeProxy::IptablesNft, "iptables-nft -t nat -S && ip6tables-nft -t nat -S");
}

#[test]
fn every_hop_to_a_service_is_told_with_legacy_iptables() {
    assert_service_is_told(
        KubeProxy::IptablesLegacy,
        "iptables-legacy -t nat -S && ip6tables-legacy -t nat -S",
    );
}

#[test]
fn every_hop_to_a_service_is_told_with_ipvs() {
    assert_service_is_told(KubeProxy::Ipvs, "ipvsadm -L -n && ipset list");
}

/// Where the kernel cannot do the mode, `check` fails too, and the lab says so.
#[track_caller]
fn assert_service_is_told(mode: KubeProxy, check: &str) {
    let has_it =
        Command::new("unshare").args(["--net", "sh", "-c", check]).output().unwrap().status.success();
    let lacking = mode.lacking().unwrap();
    assert_eq!(lacking.is_none(), has_it, "{lacking:?}");
    if !has_it {
        let error = format!("{:#}", Lab::build_with(Topology::RoutedVxlan, mode).err().unwrap());
        assert!(error.starts_with(&format!("cannot do Services in kube-proxy's mode {mode}: ")), "{error}");
        fact(&format!("every hop is told: Services by {mode}"), "no such tables");
        return;
    }
    let mut lab = Lab::build_with(Topology::RoutedVxlan, mode).unwrap();
    let ports = vec![
        ServicePort { name: "http", protocol: Protocol::Tcp, port: 8000, target_port: 80 },
        ServicePort { name: "dns", protocol: Protocol::Udp, port: 53, target_port: 53 },
    ];
    let service = lab.add_service("both", 0x88, ports, &["httpbin"]).unwrap();
    let (curl, server) = (lab.pod("curl"), lab.pod("httpbin"));
    let web = server.serve_http(80).unwrap();
    let dns = server.serve_dns(53, lab.dns_records()).unwrap();
    let watch = Watch::start(&lab, "curl", "svc/both").unwrap();

    for ip in service.cluster_ips() {
        assert_eq!(curl.curl(&format!("http://{}/", SocketAddr::new(ip, 8000))).unwrap().status, 200);
        assert_eq!(curl.dns_query(SocketAddr::new(ip, 53), NAME, RecordType::A).unwrap().len(), 1);
    }
    drop((web, dns));

    let watched = watch.stop().unwrap();
    let kinds = &["tcp IPv4", "tcp IPv6", "udp IPv4", "udp IPv6"];
    watched.assert_ways("curl", &[Way { to: "svc/both", kinds, there: THERE, back: BACK }]);
    watched.assert_told_is_true();
    fact(&format!("every hop is told: Services by {mode}"), "yes");
}
