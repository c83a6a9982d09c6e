use std::net::IpAddr;

use serde_json::json;

use super::{ANNOUNCEMENT_LAG_NS, Inventory, Kind, Object, RETENTION_NS};
use crate::trajectory::model::{Directory, Owner};

const SECOND: u64 = 1_000_000_000;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pod(name: &str, uid: &str, ip: &str) -> Object {
    pod_with(name, uid, ip, "Running", false)
}

fn pod_with(name: &str, uid: &str, ip: &str, phase: &str, host_network: bool) -> Object {
    Object::Pod(Box::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default", "uid": uid},
            "spec": {"nodeName": "node-1", "hostNetwork": host_network, "containers": []},
            "status": {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}]},
        }))
        .unwrap(),
    ))
}

fn node(name: &str, ip: &str) -> Object {
    Object::Node(Box::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "annotations": {"projectcalico.org/IPv4IPIPTunnelAddr": "10.244.9.1"}},
            "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
        }))
        .unwrap(),
    ))
}

fn service(ports: serde_json::Value) -> Object {
    Object::Service(Box::new(
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "s"},
            "spec": {"clusterIPs": ["10.96.0.9", "fd00:96::9"], "ports": ports, "externalIPs": ["192.0.2.7"]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.8"}]}},
        }))
        .unwrap(),
    ))
}

fn slice(uid: &str, family: &str, addresses: &[&str], port: u16) -> Object {
    let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    Object::EndpointSlice(Box::new(
        serde_json::from_value(json!({
            "addressType": family, "endpoints": endpoints,
            "metadata": {"name": uid, "namespace": "default", "uid": uid,
                         "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "http", "port": port, "protocol": "TCP"},
                      {"name": "dns", "port": 5353, "protocol": "UDP"}],
        }))
        .unwrap(),
    ))
}

fn owner_name(inventory: &Inventory, ip: &str, at_ns: u64) -> String {
    match inventory.owner(address(ip), at_ns) {
        Owner::Pod { pod, .. } => pod.name.clone(),
        Owner::Service(service) => format!("service {}", service.name),
        Owner::Node(node) => format!("node {node}"),
        Owner::Unknown => "unknown".to_owned(),
    }
}

#[test]
fn an_address_that_moves_to_another_pod_belongs_to_each_in_its_time() {
    let mut inventory = Inventory::new();
    inventory.apply(&pod("old", "u1", "10.0.0.1"), 0).unwrap();
    inventory.delete(&pod("old", "u1", "10.0.0.1"), 100 * SECOND);
    inventory.apply(&pod("new", "u2", "10.0.0.1"), 105 * SECOND).unwrap();

    assert_eq!(owner_name(&inventory, "10.0.0.1", 99 * SECOND), "old");
    assert_eq!(owner_name(&inventory, "10.0.0.1", 102 * SECOND), "new", "the gap is the newcomer's");
    assert_eq!(owner_name(&inventory, "10.0.0.1", 106 * SECOND), "new");
}

#[test]
fn a_deleted_pod_is_remembered_for_the_retention_and_then_forgotten() {
    let mut inventory = Inventory::new();
    inventory.apply(&pod("old", "u1", "10.0.0.1"), 0).unwrap();
    let gone = 100 * SECOND;
    inventory.delete(&pod("old", "u1", "10.0.0.1"), gone);

    assert_eq!(owner_name(&inventory, "10.0.0.1", gone + RETENTION_NS), "old");
    assert_eq!(owner_name(&inventory, "10.0.0.1", gone + RETENTION_NS + 1), "unknown");
    inventory.apply(&node("node-1", "192.168.0.1"), gone + 2 * RETENTION_NS).unwrap();
    assert!(inventory.tenures.is_empty(), "memory is given back");
}

#[test]
fn a_pod_owns_its_address_a_little_before_the_api_told_so() {
    let mut inventory = Inventory::new();
    let told = 1000 * SECOND;
    inventory.apply(&pod("new", "u1", "10.0.0.1"), told).unwrap();

    assert_eq!(owner_name(&inventory, "10.0.0.1", told - ANNOUNCEMENT_LAG_NS), "new");
    assert_eq!(owner_name(&inventory, "10.0.0.1", told - ANNOUNCEMENT_LAG_NS - 1), "unknown");
}

#[test]
fn a_finished_pod_gives_its_address_back_and_a_host_network_pod_never_has_one() {
    let mut inventory = Inventory::new();
    inventory.apply(&node("node-1", "192.168.0.1"), 0).unwrap();
    inventory.apply(&pod_with("job", "u1", "10.0.0.1", "Succeeded", false), 0).unwrap();
    inventory.apply(&pod_with("proxy", "u2", "192.168.0.1", "Running", true), 0).unwrap();

    assert_eq!(owner_name(&inventory, "10.0.0.1", 0), "unknown");
    assert_eq!(owner_name(&inventory, "192.168.0.1", 0), "node node-1");
    assert!(inventory.pod_at(address("192.168.0.1")).is_none());
}

#[test]
fn a_node_owns_its_tunnel_addresses_unless_two_nodes_have_the_same() {
    let mut inventory = Inventory::new();
    inventory.apply(&node("node-1", "192.168.0.1"), 0).unwrap();
    inventory.add_node_address("node-1", address("10.244.0.0"));
    inventory.add_node_address("node-1", address("172.17.0.1"));
    inventory.add_node_address("node-2", address("172.17.0.1"));

    assert_eq!(owner_name(&inventory, "10.244.9.1", 0), "node node-1", "from the CNI's annotation");
    assert_eq!(owner_name(&inventory, "10.244.0.0", 0), "node node-1");
    assert_eq!(owner_name(&inventory, "172.17.0.1", 0), "unknown");
    let all = ["192.168.0.1", "10.244.9.1", "10.244.0.0"].map(address);
    assert_eq!(inventory.node_addresses("node-1"), all);
}

#[test]
fn service_addresses_belong_to_the_service_and_a_nodes_address_stays_the_nodes() {
    let mut inventory = Inventory::new();
    inventory.apply(&service(json!([{"name": "http", "port": 80}])), 0).unwrap();
    for ip in ["10.96.0.9", "fd00:96::9", "192.0.2.7", "192.0.2.8"] {
        assert_eq!(owner_name(&inventory, ip, 0), "service web");
    }
    inventory.apply(&node("node-1", "192.0.2.8"), 0).unwrap();

    assert_eq!(owner_name(&inventory, "192.0.2.8", 0), "node node-1");
}

#[test]
fn a_translation_is_known_by_address_port_protocol_and_slice() {
    let mut inventory = Inventory::new();
    inventory
        .apply(
            &service(json!([
                {"name": "http", "port": 80, "nodePort": 30080, "targetPort": "web"},
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
            ])),
            0,
        )
        .unwrap();
    inventory.apply(&slice("v4-a", "IPv4", &["10.0.0.1"], 8080), 0).unwrap();
    inventory.apply(&slice("v4-b", "IPv4", &["10.0.0.2"], 9090), 0).unwrap();
    inventory.apply(&slice("v6", "IPv6", &["fd00::1"], 8080), 0).unwrap();
    inventory.apply(&node("node-1", "192.168.0.1"), 0).unwrap();
    let known = |protocol, from: (&str, u16), to: (&str, u16)| {
        inventory.is_service_translation(protocol, (address(from.0), from.1), (address(to.0), to.1))
    };

    assert!(known(6, ("10.96.0.9", 80), ("10.0.0.1", 8080)));
    assert!(known(6, ("10.96.0.9", 80), ("10.0.0.2", 9090)), "the second slice has another target port");
    assert!(!known(6, ("10.96.0.9", 80), ("10.0.0.2", 8080)));
    assert!(known(6, ("fd00:96::9", 80), ("fd00::1", 8080)), "dual stack");
    assert!(known(6, ("192.168.0.1", 30080), ("10.0.0.1", 8080)), "node port");
    assert!(!known(6, ("192.168.0.9", 30080), ("10.0.0.1", 8080)), "not a node");
    assert!(known(17, ("10.96.0.9", 53), ("10.0.0.1", 5353)));
    assert!(!known(6, ("10.96.0.9", 53), ("10.0.0.1", 5353)), "wrong protocol");
    assert!(!known(6, ("10.96.0.9", 80), ("10.0.0.3", 8080)), "no endpoint");
    assert!(!known(6, ("10.96.0.9", 81), ("10.0.0.1", 8080)), "no port of the Service");
}

#[test]
fn an_endpoint_that_is_gone_is_still_known_as_a_translation_for_a_while() {
    let mut inventory = Inventory::new();
    inventory.apply(&service(json!([{"name": "http", "port": 80}])), 0).unwrap();
    inventory.apply(&slice("a", "IPv4", &["10.0.0.1", "10.0.0.2"], 8080), 0).unwrap();
    inventory.apply(&slice("a", "IPv4", &["10.0.0.2"], 8080), 10 * SECOND).unwrap();
    let known = |inventory: &Inventory, ip: &str| {
        inventory.is_service_translation(6, (address("10.96.0.9"), 80), (address(ip), 8080))
    };

    assert!(known(&inventory, "10.0.0.1"));
    inventory.apply(&node("node-1", "192.168.0.1"), 11 * SECOND + RETENTION_NS).unwrap();
    assert!(!known(&inventory, "10.0.0.1"));
    assert!(known(&inventory, "10.0.0.2"));
}

#[test]
fn a_list_replaces_everything_of_its_kind_and_tells_what_it_refused() {
    let mut inventory = Inventory::new();
    inventory.apply(&pod("gone", "u1", "10.0.0.1"), 0).unwrap();
    inventory.apply(&pod("stays", "u2", "10.0.0.2"), 0).unwrap();

    let refused = inventory.reset(
        Kind::Pod,
        &[pod("stays", "u2", "10.0.0.2"), pod("odd", "u3", "not-an-ip"), pod("new", "u4", "10.0.0.4")],
        50 * SECOND,
    );

    let names: Vec<_> = inventory.pods().map(|entry| entry.pod.name.as_str()).collect();
    assert_eq!(names, ["stays", "new"]);
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].0, 1);
    assert_eq!(refused[0].1.field, "status.podIPs[0].ip");
    assert_eq!(owner_name(&inventory, "10.0.0.1", 49 * SECOND), "gone");
    assert_eq!(owner_name(&inventory, "10.0.0.2", 49 * SECOND), "stays");
}

#[test]
fn memory_stays_bounded_while_pods_come_and_go() {
    let mut inventory = Inventory::new();
    for round in 0..2000_u64 {
        let ip = format!("10.0.{}.{}", round / 200, round % 200);
        let object = pod("churn", &format!("u{round}"), &ip);
        inventory.apply(&object, round * SECOND).unwrap();
        inventory.delete(&object, round * SECOND + SECOND / 2);
    }

    let remembered: usize = inventory.tenures.values().map(Vec::len).sum();
    assert!(remembered as u64 <= RETENTION_NS / SECOND + 2, "{remembered} tenures");
}
