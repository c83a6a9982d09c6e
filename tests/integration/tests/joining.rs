//! Ends that are rewritten on the way, and ends that are no pods: what is joined is what a capture saw.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::SocketAddr;

use tracer_integration::{Trajectory, Watch, lab};
use tracer_lab::Topology;

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
