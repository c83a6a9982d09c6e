//! For TCP, UDP and ICMP over IPv4 and IPv6, in every topology: every hop, in order, both directions, with the right
//! device, direction, addresses, TTL and encapsulation. What is told is compared with a capture on every device packet
//! by packet, and with the path that stands in the test.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

mod bridge;
mod cilium;
mod cilium_host_routing;
mod routed;

use std::net::SocketAddr;

use tracer_integration::{Watch, Watched, lab};
use tracer_lab::{Lab, RecordType, Topology};

/// A name that the lab's DNS has, under both types.
const NAME: &str = "kube-dns.kube-system.svc.cluster.local";

/// HTTP, DNS and echo requests from curl to a pod, over both families, go by `there` and are answered by `back`.
#[track_caller]
fn assert_pod_is_reached(topology: Topology, pod: &str, there: &[&str], back: &[&str]) {
    let lab = lab(topology).unwrap();
    let (curl, server) = (lab.pod("curl"), lab.pod(pod));
    let web = server.serve_http(80).unwrap();
    let dns = server.serve_dns(53, lab.dns_records()).unwrap();
    let watch = Watch::start(&lab, "curl", pod).unwrap();

    for ip in server.ips() {
        assert_eq!(curl.curl(&format!("http://{}/", SocketAddr::new(ip, 80))).unwrap().status, 200);
        assert_eq!(curl.dns_query(SocketAddr::new(ip, 53), NAME, RecordType::A).unwrap().len(), 1);
        assert_eq!(curl.ping(ip, 3).unwrap().received, 3);
    }
    drop((web, dns));

    let watched = watch.stop().unwrap();
    assert_way(
        &watched,
        &["icmp IPv4", "icmpv6 IPv6", "tcp IPv4", "tcp IPv6", "udp IPv4", "udp IPv6"],
        there,
        back,
    );
}

/// HTTP requests from curl to a Service, over both families, go by `there` and are answered by `back`.
#[track_caller]
fn assert_web_service_is_reached(topology: Topology, service: &str, there: &[&str], back: &[&str]) {
    let lab = lab(topology).unwrap();
    assert_way(&watch_web_service(&lab, service), &["tcp IPv4", "tcp IPv6"], there, back);
}

/// An HTTP request from curl to a Service, over each family.
fn watch_web_service<'a>(lab: &'a Lab, service: &str) -> Watched<'a> {
    let (curl, server, service) = (lab.pod("curl"), lab.pod(service), lab.service(service));
    let web = server.serve_http(80).unwrap();
    let watch = Watch::start(lab, "curl", &format!("svc/{}", service.name)).unwrap();

    for ip in service.cluster_ips() {
        assert_eq!(curl.curl(&format!("http://{}/", SocketAddr::new(ip, 8000))).unwrap().status, 200);
    }
    drop(web);
    watch.stop().unwrap()
}

/// DNS queries from curl to kube-dns, over both families, go by `there` and are answered by `back`.
#[track_caller]
fn assert_kube_dns_is_reached(topology: Topology, there: &[&str], back: &[&str]) {
    let lab = lab(topology).unwrap();
    let _dns = lab.pod("coredns").serve_dns(53, lab.dns_records()).unwrap();
    let watch = Watch::start(&lab, "curl", "kube-dns.kube-system").unwrap();

    for ip in lab.service("kube-dns").cluster_ips() {
        for kind in [RecordType::A, RecordType::Aaaa] {
            let answer = lab.pod("curl").dns_query(SocketAddr::new(ip, 53), NAME, kind).unwrap();
            assert_eq!(answer.len(), 1);
        }
    }

    assert_way(&watch.stop().unwrap(), &["udp IPv4", "udp IPv6"], there, back);
}

#[track_caller]
fn assert_way(watched: &Watched<'_>, kinds: &[&str], there: &[&str], back: &[&str]) {
    watched.assert_told_is_true();
    let both_ways = kinds.iter().flat_map(|kind| ["back", "there"].map(|way| format!("{kind} {way}")));
    assert_eq!(watched.kinds("curl"), both_ways.collect::<Vec<_>>());
    watched.assert_paths("curl", there, back);
}
