use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{PlannedDevice, Scope, plan_points};
use crate::host::links::{Link, Snapshot};
use crate::host::netns::Netns;
use crate::host::survey::{LocalNode, LocalPod, Survey};
use crate::trajectory::model::{DeviceRole, PodRef};

fn link(ifindex: u32, name: &str, kind: &str) -> Link {
    Link {
        ifindex,
        name: name.into(),
        kind: kind.into(),
        peer_ifindex: None,
        peer_netns_id: None,
        master: None,
        mac: vec![2, 0, 0, 0, 0, 1],
        mtu: 1500,
        up: true,
        loopback: false,
        has_ethernet_header: true,
        addresses: Vec::new(),
        vxlan: None,
        passes_from_peer: false,
    }
}

/// One end of a veth whose other end has `peer` in the namespace `netns_id`, or in the same.
fn veth(ifindex: u32, name: &str, peer: u32, netns_id: Option<i32>) -> Link {
    Link { peer_ifindex: Some(peer), peer_netns_id: netns_id, ..link(ifindex, name, "veth") }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pod(name: &str) -> Arc<PodRef> {
    Arc::new(PodRef { namespace: "default".to_owned(), name: name.to_owned(), uid: name.to_owned() })
}

fn local_pod(name: &str, peer: u32) -> LocalPod {
    LocalPod {
        pod: pod(name),
        node: "node-1".into(),
        netns: Netns::own().unwrap(),
        host_network: false,
        interface: Some(veth(2, "eth0", peer, Some(0))),
        peer: Some(peer),
        evidence: "has the pod's IP".to_owned(),
    }
}

/// A node with one device of each kind, and two pods.
fn survey() -> Survey {
    let links = vec![
        Link { loopback: true, ..link(1, "lo", "") },
        Link { addresses: vec![address("10.135.0.11")], ..veth(2, "eth0", 7, Some(3)) },
        link(3, "ens5", ""),
        Link { up: false, ..link(4, "ens6", "") },
        link(5, "cni0", "bridge"),
        link(6, "flannel.1", "vxlan"),
        Link { has_ethernet_header: false, ..link(7, "tunl0", "ipip") },
        veth(8, "cilium_host", 9, None),
        veth(9, "cilium_net", 8, None),
        link(10, "kube-ipvs0", "dummy"),
        veth(11, "lxccurl", 2, Some(0)),
        veth(12, "lxcother", 2, Some(1)),
        veth(13, "lxc_health", 2, Some(2)),
        link(14, "wire0", "tun"),
        link(15, "vnet0", "tun"),
    ];
    let node = LocalNode {
        name: "node-1".into(),
        netns: Netns::own().unwrap(),
        snapshot: Snapshot { links, default_route_devices: vec![14] },
        addresses: vec![address("10.135.0.11")],
        evidence: String::new(),
    };
    Survey {
        nodes: vec![node],
        pods: vec![local_pod("curl", 11), local_pod("other", 12)],
        problems: Vec::new(),
    }
}

fn names(planned: &[PlannedDevice]) -> Vec<(&str, DeviceRole)> {
    planned.iter().map(|device| (&*device.link.name, device.role)).collect()
}

fn scope_of(name: &str) -> Scope {
    Scope {
        pods: Some(BTreeSet::from([(*pod(name)).clone()])),
        nodes: Some(BTreeSet::from(["node-1".into()])),
        all_devices: false,
    }
}

#[test]
fn a_follow_observes_shared_devices_and_those_of_its_own_pods_only() {
    let planned = plan_points(&survey(), &scope_of("curl"));

    assert_eq!(
        names(&planned),
        [
            ("eth0", DeviceRole::Nic),
            ("ens5", DeviceRole::Nic),
            ("cni0", DeviceRole::Bridge),
            ("flannel.1", DeviceRole::Tunnel),
            ("tunl0", DeviceRole::Tunnel),
            ("cilium_host", DeviceRole::Other),
            ("cilium_net", DeviceRole::Other),
            ("lxccurl", DeviceRole::PodPeer),
            ("wire0", DeviceRole::Nic),
            ("eth0", DeviceRole::PodInterface),
        ]
    );
    assert_eq!(planned[7].pod.as_deref(), Some(&*pod("curl")));
    assert_eq!(planned[9].pod.as_deref(), Some(&*pod("curl")));
}

#[test]
fn everything_includes_all_pods_and_all_devices_also_the_useless_ones() {
    let of_all_pods = plan_points(&survey(), &Scope::everything());
    assert!(names(&of_all_pods).contains(&("lxcother", DeviceRole::PodPeer)));
    assert!(
        !names(&of_all_pods)
            .iter()
            .any(|(name, _)| matches!(*name, "lo" | "kube-ipvs0" | "ens6" | "lxc_health"))
    );

    let of_all_devices = plan_points(&survey(), &Scope { all_devices: true, ..Scope::everything() });
    assert_eq!(of_all_devices.len(), 15 + 2);
    assert!(names(&of_all_devices).contains(&("lo", DeviceRole::Other)));
}

#[test]
fn a_node_outside_the_scope_is_left_alone() {
    let scope = Scope { nodes: Some(BTreeSet::from(["node-2".into()])), ..scope_of("curl") };

    assert_eq!(names(&plan_points(&survey(), &scope)), [("eth0", DeviceRole::PodInterface)]);
}
