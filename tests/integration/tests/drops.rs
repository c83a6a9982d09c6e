//! What the kernel throws away is told with its reason and its place. Of a kernel that gives no reasons the point of
//! loss is told.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::SocketAddr;
use std::time::Duration;

use tracer_integration::{Tracer, Verdict, fact, kernel_version, lab, patient};
use tracer_lab::{Fault, Flood, Topology};

const NODE_1: &str = "telekom-xwkb3";
const PORT: u16 = 9000;

/// Linux 5.17 brought reasons, the next one that of nftables.
fn names_netfilter() -> bool {
    kernel_version() >= (5, 18)
}

#[test]
fn a_packet_that_a_firewall_rule_drops_is_told_with_reason_node_and_function() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let (curl, server) = (lab.pod("curl"), lab.pod("httpbin"));
    let _fault = lab.inject(NODE_1, Fault::DropRule { port: PORT }).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let follow = tracer.follow(&["--pod", "curl", "--to", "httpbin", "--protocol", "udp"]).unwrap();

    let flood = Flood { packets: 1, payload: 64, rate: None };
    curl.udp_flood(SocketAddr::new(server.ipv4().into(), PORT), flood).unwrap();

    let is_told = |told: &[tracer_integration::Trajectory]| !told.is_empty();
    follow.eventually(patient(Duration::from_secs(10)), "the packet is told", is_told).unwrap();
    let report = follow.stop().unwrap();
    let told = &report.trajectories[0];
    let detail = told.verdict_detail.as_ref().unwrap();
    fact("drop reasons", if names_netfilter() { "by name" } else { "none" });
    if !names_netfilter() {
        assert_eq!(told.verdict, Verdict::Lost, "{told}");
        return;
    }
    assert_eq!(told.verdict, Verdict::Dropped, "{told}");
    assert_eq!(detail.reason.as_deref(), Some("NETFILTER_DROP"), "{told}");
    let drop = detail.drop.as_ref().unwrap();
    assert_eq!((drop.node.as_str(), drop.pod.as_deref()), (NODE_1, None), "{drop:?}");
    assert_eq!(drop.function.as_deref(), Some("nf_hook_slow"), "{drop:?}");
    assert!(drop.device.is_some(), "{drop:?}");
    assert!(!report.summary().losses.is_any());
}
