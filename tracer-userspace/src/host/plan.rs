//! Which devices a follow observes.
//!
//! Of every node involved: its NICs, bridges, tunnel devices, and the other devices through which CNIs lead packets
//! (cilium_host, bpfin.cali); of every pod involved: its own interface and that interface's other end on the node.
//! Left out, unless all devices are asked for: loopback, devices that are down, other pods' interfaces, and devices
//! that no forwarded packet passes (dummy, kube-ipvs0, ifb).
//!
//! What a NIC is: a device towards other machines. That is a hardware device, or one stacked on such (bond, VLAN,
//! macvlan, ipvlan). A veth or TAP whose other end is not a pod's may lead anywhere: to a pod that the inventory does
//! not know, or to another machine, as in labs and in kind. It is a NIC if it has one of the addresses that the Node
//! object lists, or if a default route leads through it; pods' interfaces on a node have neither. A veth with both
//! ends in the node's own namespace belongs to the CNI.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::links::Link;
use super::netns::{Netns, NetnsId};
use super::survey::{LocalNode, LocalPod, Survey};
use crate::trajectory::model::{DeviceRole, PodRef};

#[cfg(test)]
mod tests;

/// What a follow, or a look at all points, is about.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Pods whose interfaces are observed; `None`: all that are here.
    pub pods: Option<BTreeSet<PodRef>>,
    /// Nodes whose shared devices are observed; `None`: all that are here.
    pub nodes: Option<BTreeSet<Arc<str>>>,
    /// Also the devices that are left out otherwise.
    pub all_devices: bool,
}

impl Scope {
    /// Everything that is here.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// Nothing at all.
    #[must_use]
    pub fn nothing() -> Self {
        Self { pods: Some(BTreeSet::new()), nodes: Some(BTreeSet::new()), all_devices: false }
    }

    /// Whether it is [`Scope::nothing`].
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        let is_empty = |pods: &BTreeSet<PodRef>| pods.is_empty();
        self.pods.as_ref().is_some_and(is_empty) && self.nodes.as_ref().is_some_and(BTreeSet::is_empty)
    }

    fn has_pod(&self, pod: &PodRef) -> bool {
        self.pods.as_ref().is_none_or(|pods| pods.contains(pod))
    }

    fn has_node(&self, name: &str) -> bool {
        self.nodes.as_ref().is_none_or(|nodes| nodes.contains(name))
    }
}

/// A device whose hooks are to be observed, both directions.
#[derive(Clone, Debug)]
pub struct PlannedDevice {
    pub netns: Netns,
    pub node: Arc<str>,
    /// The pod whose device or veth peer this is.
    pub pod: Option<Arc<PodRef>>,
    pub link: Link,
    pub role: DeviceRole,
    /// Why it has this role, and how the pod's namespace was found.
    pub evidence: String,
}

impl PlannedDevice {
    /// What identifies the device while it lives; an ifindex alone is unique in its namespace only.
    #[must_use]
    pub fn key(&self) -> (NetnsId, u32) {
        (self.netns.id(), self.link.ifindex)
    }
}

/// Chooses the devices, node by node: first the shared ones, then those of the pods.
#[must_use]
pub fn plan_points(survey: &Survey, scope: &Scope) -> Vec<PlannedDevice> {
    let mut planned = Vec::new();
    for node in survey.nodes.iter().filter(|node| scope.has_node(&node.name)) {
        let pods = survey.pods.iter().filter(|pod| pod.node == node.name);
        let peers: HashMap<u32, &LocalPod> = pods.filter_map(|pod| Some((pod.peer?, pod))).collect();
        for link in &node.snapshot.links {
            if let Some(device) = plan_node_device(node, link, &peers, scope) {
                planned.push(device);
            }
        }
    }
    for pod in survey.pods.iter().filter(|pod| scope.has_pod(&pod.pod)) {
        // A pod with hostNetwork has no interface of its own.
        let Some(interface) = &pod.interface else { continue };
        if !interface.up && !scope.all_devices {
            continue;
        }
        planned.push(PlannedDevice {
            netns: pod.netns.clone(),
            node: Arc::clone(&pod.node),
            pod: Some(Arc::clone(&pod.pod)),
            link: interface.clone(),
            role: DeviceRole::PodInterface,
            evidence: pod.evidence.clone(),
        });
    }
    planned.sort_by(|one, other| one.node.cmp(&other.node));
    planned
}

fn plan_node_device(
    node: &LocalNode,
    link: &Link,
    peers: &HashMap<u32, &LocalPod>,
    scope: &Scope,
) -> Option<PlannedDevice> {
    let device = |pod: Option<&LocalPod>, role, evidence| PlannedDevice {
        netns: node.netns.clone(),
        node: Arc::clone(&node.name),
        pod: pod.map(|pod| Arc::clone(&pod.pod)),
        link: link.clone(),
        role,
        evidence,
    };
    if !link.up && !scope.all_devices {
        return None;
    }
    if let Some(pod) = peers.get(&link.ifindex) {
        if !scope.has_pod(&pod.pod) && !scope.all_devices {
            return None;
        }
        let interface = pod.interface.as_ref().map_or("", |interface| &*interface.name);
        let evidence =
            format!("the other end of {interface} in the pod's network namespace, which {}", pod.evidence);
        return Some(device(Some(pod), DeviceRole::PodPeer, evidence));
    }
    match classify(node, link) {
        Use::Observe(role, evidence) => Some(device(None, role, evidence)),
        Use::Skip(evidence) if scope.all_devices => Some(device(None, DeviceRole::Other, evidence)),
        Use::Skip(_) => None,
    }
}

/// Whether forwarded packets pass a device, and as what.
enum Use {
    Observe(DeviceRole, String),
    Skip(String),
}

/// Whether devices of this link kind put packets into others.
#[must_use]
pub fn is_tunnel(kind: &str) -> bool {
    matches!(
        kind,
        "vxlan"
            | "geneve"
            | "ipip"
            | "sit"
            | "ip6tnl"
            | "gre"
            | "gretap"
            | "ip6gre"
            | "ip6gretap"
            | "erspan"
            | "ip6erspan"
            | "vti"
            | "vti6"
            | "xfrm"
            | "wireguard"
            | "bareudp"
            | "gtp"
    )
}

/// Devices that are no pod's.
fn classify(node: &LocalNode, link: &Link) -> Use {
    let of_kind = |role| Use::Observe(role, format!("a {} device", link.kind));
    if link.loopback {
        return Use::Skip("loopback".to_owned());
    }
    match &*link.kind {
        "bridge" | "openvswitch" => of_kind(DeviceRole::Bridge),
        kind if is_tunnel(kind) => of_kind(DeviceRole::Tunnel),
        "" => Use::Observe(DeviceRole::Nic, "a hardware device".to_owned()),
        "bond" | "team" | "vlan" | "macvlan" | "ipvlan" | "macsec" | "ipoib" | "hsr" => {
            of_kind(DeviceRole::Nic)
        }
        "dummy" | "ifb" | "nlmon" | "vcan" | "vxcan" | "macvtap" | "ipvtap" | "netdevsim" => {
            Use::Skip(format!("no forwarded packet passes a {} device", link.kind))
        }
        "veth" | "netkit" | "tun" => classify_by_use(node, link),
        _ => of_kind(DeviceRole::Other),
    }
}

/// Devices whose kind does not tell where they lead.
fn classify_by_use(node: &LocalNode, link: &Link) -> Use {
    if let Some(address) = link.addresses.iter().find(|address| node.addresses.contains(address)) {
        return Use::Observe(DeviceRole::Nic, format!("has the node's address {address}"));
    }
    if node.snapshot.default_route_devices.contains(&link.ifindex) {
        return Use::Observe(DeviceRole::Nic, "a default route leads through it".to_owned());
    }
    if link.is_pair() {
        // Without a namespace number the other end is in the same namespace.
        return match (link.peer_ifindex, link.peer_netns_id) {
            (Some(_), None) => {
                Use::Observe(DeviceRole::Other, format!("a {} with both ends on the node", link.kind))
            }
            _ => Use::Skip(format!("a {} that leads to no pod of the inventory", link.kind)),
        };
    }
    if link.addresses.iter().any(|address| !is_link_local(*address)) {
        return Use::Observe(DeviceRole::Tunnel, "a tun device with an address of its own".to_owned());
    }
    Use::Skip("a tun device without an address, as virtual machines have".to_owned())
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
