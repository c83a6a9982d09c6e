//! Pods on netkit pairs whose programs redirect what the pods send: the host side never receives it, and is seen all the
//! same, because we sit on the pair itself.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::time::Duration;

use tracer_integration::{Tracer, Trajectory};
use tracer_lab::Direction::Ingress;
use tracer_lab::{Lab, Topology};

const NODE_1: &str = "telekom-xwkb3";
const NODE_2: &str = "telekom-xwkb8";
const SOON: Duration = Duration::from_secs(10);
const ICMP: [&str; 6] = ["--pod", "curl", "--to", "httpbin", "--protocol", "icmp"];
const PINGS: u32 = 5;

/// The lab; nothing where the kernel has no netkit, which the lab finds by trying. What tracer then says is asserted in
/// tests/kernel.rs.
fn lab() -> Option<Lab> {
    match Topology::CiliumNetkit.lacking().unwrap() {
        None => Some(Lab::build(Topology::CiliumNetkit).unwrap()),
        Some(lack) => {
            assert!(lack.contains("netkit"), "{lack}");
            assert!(Lab::build(Topology::CiliumNetkit).is_err());
            None
        }
    }
}

/// Pings and gives what was told of them.
fn follow_pings(lab: &Lab, attach: &str, assert_while: impl FnOnce(&Tracer)) -> Vec<Trajectory> {
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let tracer = Tracer::new(lab).unwrap();
    let follow = tracer.follow(&[&ICMP[..], &["--attach", attach]].concat()).unwrap();
    assert_eq!(curl.ping(httpbin.ipv4().into(), PINGS).unwrap().received, PINGS);
    let told = follow.eventually(SOON, "all pings", |told| told.len() as u32 == 2 * PINGS);
    assert_while(&tracer);
    assert!(follow.stop().unwrap().exit.success());
    assert!(tracer.hooked().ours.is_empty(), "nothing of ours is left");
    told
}

#[test]
fn what_a_pod_sends_through_netkit_is_seen_at_the_host_side_though_it_is_redirected_there() {
    let Some(lab) = lab() else { return };
    lab.let_netkit_pass().unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));

    let told = follow_pings(&lab, "tcx", |tracer| {
        let point = tracer.hook(NODE_1, curl.host_device(), Ingress);
        assert_eq!((point.attached, point.mechanism.as_str(), point.place), (true, "netkit", Some(1)));
        let others = point.others();
        assert_eq!(others.len(), 1, "{point:?}");
        assert_eq!(
            (others[0].name.as_str(), others[0].mechanism.as_str()),
            ("cil_from_container", "netkit-peer")
        );
        assert_eq!(point.blind, None);
    });

    let way = |from: (&str, String, &str), to: (&str, String, &str)| {
        vec![
            (from.1.clone(), "eth0".to_owned(), "egress"),
            (from.0.to_owned(), from.2.to_owned(), "ingress"),
            (from.0.to_owned(), "cilium_vxlan".to_owned(), "egress"),
            (from.0.to_owned(), "eth0".to_owned(), "egress"),
            (to.0.to_owned(), "eth0".to_owned(), "ingress"),
            (to.0.to_owned(), "cilium_vxlan".to_owned(), "ingress"),
            (to.1, "eth0".to_owned(), "ingress"),
        ]
    };
    let one = (NODE_1, curl.label(), curl.host_device());
    let other = (NODE_2, httpbin.label(), httpbin.host_device());
    let (there, back) = (way(one.clone(), other.clone()), way(other, one));
    for told in told {
        let expected = if told.src.pod.as_deref() == Some("curl") { &there } else { &back };
        let path: Vec<_> =
            told.path().into_iter().map(|(place, device, way)| (place, device.to_owned(), way)).collect();
        // Each hop once: what is redirected is not seen a second time behind the pair.
        assert_eq!(&path, expected, "{told}");
        assert!(told.is_complete() && told.ambiguous.is_none(), "{told}");
    }
}

/// A program of ours alone on such a pair would let pass what the kernel drops.
#[test]
fn a_pair_that_drops_what_no_program_passes_is_left_alone_and_we_say_what_hides_its_packets() {
    assert_hidden_behind_the_pair("tcx");
}

#[test]
fn a_legacy_filter_behind_netkits_programs_says_that_it_is_blind() {
    assert_hidden_behind_the_pair("clsact");
}

#[track_caller]
fn assert_hidden_behind_the_pair(attach: &str) {
    let Some(lab) = lab() else { return };
    let curl = lab.pod("curl");

    let told = follow_pings(&lab, attach, |tracer| {
        let point = tracer.hook(NODE_1, curl.host_device(), Ingress);
        assert_eq!((point.mechanism.as_str(), point.place), (attach, Some(2)));
        let blind = point.blind.unwrap();
        assert!(blind.starts_with("cil_from_container runs on the netkit pair, before tracer"), "{blind}");
    });

    for told in told {
        let hidden =
            told.missing.iter().any(|missing| missing.reason.starts_with("hidden by cil_from_container"));
        assert!(hidden, "{told}: {:?}", told.missing);
        assert!(told.missing.iter().all(|missing| missing.explained), "{:?}", told.missing);
    }
}
