//! Ends that are rewritten on the way, and ends that are no pods: what is joined is what a capture saw.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::SocketAddr;
use std::time::Duration;

use tracer_integration::{Report, Tracer, Trajectory, Verdict, Watch, lab};
use tracer_lab::{Lab, Topology};

const SOON: Duration = Duration::from_secs(20);

fn tcp(told: &[Trajectory]) -> impl Iterator<Item = &Trajectory> {
    told.iter().filter(|told| told.protocol == "tcp")
}

fn places(told: &Trajectory) -> Vec<(String, &str)> {
    told.hops.iter().map(|hop| (hop.place(), hop.direction.as_str())).collect()
}

#[test]
fn a_pod_that_calls_its_own_service_is_joined_through_both_rewrites() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let pod = lab.pod("httpbin");
    let node = lab.node_of(&pod);
    let web = pod.serve_http(80).unwrap();
    let service = lab.service("httpbin").cluster_ipv4;
    let watch = Watch::start_among(&lab, "httpbin", "svc/httpbin", &[node.ipv4().into()]).unwrap();

    let url = format!("http://{}/bytes/100", SocketAddr::new(service.into(), 8000));
    assert_eq!(pod.curl(&url).unwrap().body.len(), 100);
    drop(web);

    let mut watched = watch.stop().unwrap();
    // The node tells the pod of a shorter way (ICMP redirect), and NAT drops that before any hook: a true story of its own.
    watched.trajectories.retain(|told| told.protocol == "tcp");
    watched.assert_told_is_true();
    // Out of the pod, and back into it by the same devices.
    let (inside, outside) = (pod.label(), node.name().to_owned());
    let expected =
        [(inside.clone(), "egress"), (outside.clone(), "ingress"), (outside, "egress"), (inside, "ingress")];
    assert!(!watched.trajectories.is_empty());
    for told in &watched.trajectories {
        assert_eq!(places(told), expected, "{told}");
        let (first, last) = (&told.hops[0], &told.hops[3]);
        assert!(first.src != last.src && first.dst != last.dst, "{told}");
    }
}

#[test]
fn a_pod_that_is_called_by_its_service_is_followed_under_the_services_address_too() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let service = lab.service("httpbin").cluster_ipv4;
    for selection in [
        &["--pod", "curl", "--to", "httpbin"][..],
        &["--pod", "curl", "--to", "httpbin", "--port", "80"],
        &["--pod", "httpbin", "--to", "curl"],
        &["--pod", "httpbin"],
    ] {
        let report = call_by_service(&lab, selection);

        for told in tcp(&report.trajectories) {
            assert_ne!(told.verdict, Verdict::Lost, "{selection:?}: {told}");
            if selection.len() == 2 {
                // Whoever the peer is: its own devices are not observed, so nobody can say whether it got the packet.
                continue;
            }
            let is_there = told.src.ip == lab.pod("curl").ipv4();
            let outside = if is_there { told.hops.first() } else { told.hops.last() }.unwrap();
            let as_the_client_knows_it = if is_there { outside.dst.ip } else { outside.src.ip };
            assert_eq!(as_the_client_knows_it, service, "{selection:?}: {told}");
            assert!(told.is_complete(), "{selection:?}: {told}");
        }
    }
}

/// What is told while curl gets a page from httpbin by its Service. Where a port is asked for, it also gets one from the
/// port of the pod that has the number of the Service's, which nobody asked for.
fn call_by_service(lab: &Lab, selection: &[&str]) -> Report {
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let web = httpbin.serve_http(80).unwrap();
    let other = httpbin.serve_http(8000).unwrap();
    let tracer = Tracer::new(lab).unwrap();
    let follow = tracer.follow(selection).unwrap();
    let by_service = SocketAddr::new(lab.service("httpbin").cluster_ipv4.into(), 8000);
    assert_eq!(curl.curl(&format!("http://{by_service}/bytes/100")).unwrap().body.len(), 100);
    if selection.contains(&"--port") {
        let directly = SocketAddr::new(httpbin.ipv4().into(), 8000);
        assert_eq!(curl.curl(&format!("http://{directly}/bytes/100")).unwrap().body.len(), 100);
    }
    drop((web, other));
    // Handshake, request, answer and end, each packet with what it is acknowledged by.
    follow.eventually(SOON, "a connection is told", |told| tcp(told).count() >= 8);
    follow.stop().unwrap()
}

#[test]
fn a_host_network_client_is_its_node() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let pod = lab.pod("httpbin-local");
    let node = lab.node_of(&pod);
    let web = pod.serve_http(80).unwrap();
    let to = node.ipv4().to_string();
    let watch = Watch::start_among(&lab, "httpbin-local", &to, &[node.ipv4().into()]).unwrap();

    let url = format!("http://{}/bytes/100", SocketAddr::new(pod.ipv4().into(), 80));
    let answer = node.netns().command("curl").args(["-sS", "--max-time", "10", &url]).output().unwrap();
    assert!(answer.status.success(), "{answer:?}");
    assert_eq!(answer.stdout.len(), 100);
    drop(web);

    let watched = watch.stop().unwrap();
    watched.assert_told_is_true();
    let from_node = watched.trajectories.iter().filter(|told| told.src.ip == node.ipv4());
    for told in from_node.clone() {
        assert_eq!(told.src.node.as_deref(), Some(node.name()));
        assert_eq!(places(told), [(node.name().to_owned(), "egress"), (pod.label(), "ingress")], "{told}");
    }
    assert!(from_node.count() > 0);
}
