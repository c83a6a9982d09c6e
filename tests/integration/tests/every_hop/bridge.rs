use tracer_lab::Topology;

use crate::{assert_kube_dns_is_reached, assert_pod_is_reached, assert_web_service_is_reached};

const TOPOLOGY: Topology = Topology::BridgeVxlan;

#[test]
fn every_hop_to_a_pod_on_another_node_is_told() {
    assert_pod_is_reached(TOPOLOGY, "httpbin", &[], &[]);
}

#[test]
fn every_hop_to_a_pod_on_the_same_node_is_told() {
    assert_pod_is_reached(TOPOLOGY, "httpbin-local", &[], &[]);
}

#[test]
fn every_hop_to_a_service_on_another_node_is_told() {
    assert_web_service_is_reached(TOPOLOGY, "httpbin", &[], &[]);
}

#[test]
fn every_hop_to_a_service_on_the_same_node_is_told() {
    assert_web_service_is_reached(TOPOLOGY, "httpbin-local", &[], &[]);
}

#[test]
fn every_hop_to_kube_dns_is_told() {
    assert_kube_dns_is_reached(TOPOLOGY, &[], &[]);
}
