//! Topologies and kube-proxy's modes that not every kernel can do: where it can, everything goes through; where it cannot,
//! the lab names what is lacking, and an independent tool agrees that it is. They need root.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tracer_lab::{KubeProxy, Lab, Pod, RecordType, Topology};

/// When to give up waiting for a pod to answer.
const REACHABLE: Duration = Duration::from_secs(60);

/// The lab, or nothing if the kernel has no devices of `kind` and says so to `ip` as well.
fn build(topology: Topology, kind: &str, named: &str) -> Option<Lab> {
    let device = format!("ip link add try0 type {kind}");
    let has_it = Command::new("unshare").args(["--net", "sh", "-c", &device]).output().unwrap();
    match topology.lacking().unwrap() {
        None => {
            assert!(has_it.status.success(), "{}", said(&has_it));
            Some(Lab::build(topology).unwrap())
        }
        Some(lack) => {
            assert!(!has_it.status.success(), "the kernel can: {device}");
            let error = format!("{:#}", Lab::build(topology).err().unwrap());
            assert!(lack.contains(named), "{lack}");
            assert!(error.contains(what(&lack)) && error.contains(topology.name()), "{error}");
            None
        }
    }
}

/// Without the kernel's or the tool's own words, which may name the namespace of the try.
fn what(lack: &str) -> &str {
    lack.split_once(": ").map_or(lack, |(what, _)| what)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// HTTP, DNS and ping over both families, to pods and through Services.
fn assert_everything_goes_through(lab: &Lab) {
    let curl = lab.pod("curl");
    let coredns = lab.pod("coredns");
    let _dns = coredns.serve_dns(53, lab.dns_records()).unwrap();
    coredns.ips().into_iter().for_each(|ip| wait_until_reachable(&curl, ip));
    for name in ["httpbin", "httpbin-local"] {
        let (server, service) = (lab.pod(name), lab.service(name));
        let _web = server.serve_http(80).unwrap();
        server.ips().into_iter().for_each(|ip| wait_until_reachable(&curl, ip));
        let bare = server.ips().map(|ip| SocketAddr::new(ip, 80));
        let by_service = service.cluster_ips().map(|ip| SocketAddr::new(ip, 8000));
        for address in bare.into_iter().chain(by_service) {
            let answer = curl.curl(&format!("http://{address}/bytes/20000")).unwrap();
            assert_eq!((answer.status, answer.body.len()), (200, 20_000), "{address}");
        }
        for ip in server.ips() {
            assert_eq!(curl.ping(ip, 2).unwrap().received, 2, "{ip}");
        }
    }
    for ip in lab.service("kube-dns").cluster_ips() {
        let name = "kube-dns.kube-system.svc.cluster.local";
        assert_eq!(curl.dns_query(SocketAddr::new(ip, 53), name, RecordType::A).unwrap().len(), 1);
    }
}

/// In an emulated machine the first look for neighbours may take longer than the kernel waits for it.
fn wait_until_reachable(curl: &Pod, ip: IpAddr) {
    let started = Instant::now();
    loop {
        let answered = curl.ping(ip, 1);
        if answered.as_ref().is_ok_and(|answered| answered.received == 1) {
            return;
        }
        assert!(started.elapsed() < REACHABLE, "{ip} does not answer: {answered:?}");
    }
}

#[test]
fn ipip_needs_its_devices_and_carries_everything() {
    if let Some(lab) = build(Topology::CalicoIpip, "ipip local 10.0.0.1 remote 10.0.0.2", "ipip") {
        assert_everything_goes_through(&lab);
    }
}

#[test]
fn wireguard_needs_its_devices_and_carries_everything() {
    if let Some(lab) = build(Topology::CalicoWireguard, "wireguard", "wireguard") {
        assert_everything_goes_through(&lab);
    }
}

#[test]
fn geneve_needs_its_devices_and_carries_everything() {
    if let Some(lab) = build(Topology::CiliumGeneve, "geneve external", "geneve") {
        assert_everything_goes_through(&lab);
    }
}

#[test]
fn netkit_needs_its_devices_and_carries_everything() {
    if let Some(lab) = build(Topology::CiliumNetkit, "netkit", "netkit") {
        assert_everything_goes_through(&lab);
    }
}

#[test]
fn services_go_through_in_every_mode_of_kube_proxy_that_the_kernel_can_do() {
    for (mode, check) in [
        (KubeProxy::IptablesNft, "iptables-nft -t nat -S && ip6tables-nft -t nat -S"),
        (KubeProxy::IptablesLegacy, "iptables-legacy -t nat -S && ip6tables-legacy -t nat -S"),
        (KubeProxy::Ipvs, "ipvsadm -L && ipset list"),
    ] {
        let has_it = Command::new("unshare").args(["--net", "sh", "-c", check]).output().unwrap();
        let Some(lack) = mode.lacking().unwrap() else {
            assert!(has_it.status.success(), "{mode}: {}", said(&has_it));
            let mut lab = Lab::build_with(Topology::RoutedVxlan, mode).unwrap();
            assert_everything_goes_through(&lab);
            // A pod behind its own Service needs masquerading.
            let port = lab.service("httpbin").ports[0].clone();
            let own = lab.add_service("own", 0x77, vec![port], &["curl"]).unwrap();
            let _web = lab.pod("curl").serve_http(80).unwrap();
            for ip in own.cluster_ips() {
                let url = format!("http://{}/", SocketAddr::new(ip, 8000));
                assert_eq!(lab.pod("curl").curl(&url).unwrap().status, 200, "{mode} {url}");
            }
            continue;
        };
        assert!(!has_it.status.success(), "{mode}: {check} works");
        let error = format!("{:#}", Lab::build_with(Topology::RoutedVxlan, mode).err().unwrap());
        assert!(error.contains(what(&lack)) && error.contains(mode.name()), "{error}");
    }
}
