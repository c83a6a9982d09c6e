//! For TCP, UDP and ICMP over IPv4 and IPv6, in every topology: every hop, in order, both directions, with the right
//! device, direction, addresses, TTL and encapsulation. What is told is compared with a capture on every device packet
//! by packet, and with the path that stands in the test.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

mod bridge;
mod cilium;
mod cilium_host_routing;
mod geneve;
mod ipip;
mod kube_proxy;
mod netkit;
mod routed;
mod wireguard;

use std::net::SocketAddr;
use std::process::Command;

use tracer_integration::{Watch, Watched, Way, fact};
use tracer_lab::{Lab, RecordType, Topology};

/// A name that the lab's DNS has, under both types.
const NAME: &str = "kube-dns.kube-system.svc.cluster.local";

/// What is sent to Services.
const WEB: &[&str] = &["tcp IPv4", "tcp IPv6"];
const DNS: &[&str] = &["udp IPv4", "udp IPv6"];

/// Whether this kernel can do a topology that needs devices of `kind`. Where it cannot, `ip` cannot make one either, and
/// the lab says so.
fn can_build(topology: Topology, kind: &str) -> bool {
    let add = format!("ip link add try0 type {kind}");
    let has_it = Command::new("unshare").args(["--net", "sh", "-c", &add]).output().unwrap().status.success();
    let lacking = topology.lacking().unwrap();
    assert_eq!(lacking.is_none(), has_it, "{lacking:?}");
    if let Some(lacking) = lacking {
        let error = format!("{:#}", Lab::build(topology).err().unwrap());
        assert!(error.starts_with(&format!("cannot build topology {topology}: ")), "{error}");
        assert!(error.ends_with(&lacking), "{error}");
        fact(&told_of(topology), "no such devices");
    }
    has_it
}

/// One lab, and a follow for each server: all that [`watch_server`] sends goes by `ways`, and what is told is what was
/// captured. Gives what was seen of each.
#[track_caller]
fn assert_every_way<'a>(lab: &'a Lab, ways: &[Way<'_>]) -> [Watched<'a>; 2] {
    let watched = ["httpbin", "httpbin-local"].map(|server| {
        let watched = watch_server(lab, server);
        assert_ways_to(&watched, server, ways);
        watched
    });
    if ways.iter().any(|way| way.to == "svc/kube-dns") {
        assert_ways_to(&watch_kube_dns(lab), "kube-dns", ways);
    }
    fact(&told_of(lab.topology()), "yes");
    watched
}

/// What is known of a kernel when the test of a topology has passed.
fn told_of(topology: Topology) -> String {
    format!("every hop is told: {topology}")
}

#[track_caller]
fn assert_ways_to(watched: &Watched<'_>, server: &str, ways: &[Way<'_>]) {
    let is_to = |way: &&Way<'_>| way.to.strip_prefix("svc/").unwrap_or(way.to) == server;
    let ways: Vec<_> = ways.iter().filter(is_to).copied().collect();
    watched.assert_ways("curl", &ways);
    watched.assert_told_is_true();
}

/// HTTP, DNS and echo requests from curl to a pod and HTTP requests to its Service, over both families.
fn watch_server<'a>(lab: &'a Lab, name: &str) -> Watched<'a> {
    let (curl, server) = (lab.pod("curl"), lab.pod(name));
    let web = server.serve_http(80).unwrap();
    let dns = server.serve_dns(53, lab.dns_records()).unwrap();
    let watch = Watch::start(lab, "curl", &format!("svc/{name}")).unwrap();

    for ip in server.ips() {
        assert_eq!(curl.curl(&format!("http://{}/", SocketAddr::new(ip, 80))).unwrap().status, 200);
        assert_eq!(curl.dns_query(SocketAddr::new(ip, 53), NAME, RecordType::A).unwrap().len(), 1);
        assert_eq!(curl.ping(ip, 3).unwrap().received, 3);
    }
    ask_web_service(lab, name);
    drop((web, dns));

    watch.stop().unwrap()
}

/// An HTTP request from curl to a Service, over each family.
fn ask_web_service(lab: &Lab, service: &str) {
    for ip in lab.service(service).cluster_ips() {
        let url = format!("http://{}/", SocketAddr::new(ip, 8000));
        assert_eq!(lab.pod("curl").curl(&url).unwrap().status, 200);
    }
}

/// DNS queries from curl to kube-dns, over both families.
fn watch_kube_dns(lab: &Lab) -> Watched<'_> {
    let _dns = lab.pod("coredns").serve_dns(53, lab.dns_records()).unwrap();
    let watch = Watch::start(lab, "curl", "kube-dns.kube-system").unwrap();

    for ip in lab.service("kube-dns").cluster_ips() {
        for kind in [RecordType::A, RecordType::Aaaa] {
            let answer = lab.pod("curl").dns_query(SocketAddr::new(ip, 53), NAME, kind).unwrap();
            assert_eq!(answer.len(), 1);
        }
    }

    watch.stop().unwrap()
}
