//! How pods are attached to a node and nodes to each other: one file per kind of CNI.

mod bridge;
mod cilium;
mod ipip;
mod netkit;
mod overlay;
mod routed;
mod wireguard;

use anyhow::Result;

use crate::lab::{Node, Pod};
use crate::netlink::{self, End};
use crate::options::{StandIns, Topology};

/// MTU inside the VXLAN overlay: the wire's, less 50 bytes of outer headers.
const OVERLAY_MTU: u32 = 1450;

/// Interface index of the tunnel device on every node.
const TUNNEL: u32 = 21;

/// A CNI, as far as the lab is concerned. Adding a topology means writing another one of these.
pub(crate) trait Datapath: Send {
    /// Attaches a pod, whose namespace is empty, to its node.
    fn add_pod(&mut self, node: &Node, pod: &Pod) -> Result<()>;

    /// Forgets a pod whose devices are about to go.
    fn remove_pod(&mut self, _node: &Node, _pod: &Pod) -> Result<()> {
        Ok(())
    }

    /// How often the datapath's program of that name ran on a node; `None` when it has no such program.
    fn program_runs(&self, _node: usize, _program: &str) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// Sets the nodes up and returns what will attach pods to them.
pub(crate) fn build(topology: Topology, stand_ins: StandIns, nodes: &[Node]) -> Result<Box<dyn Datapath>> {
    Ok(match topology {
        Topology::RoutedVxlan => Box::new(routed::Routed::over_vxlan(nodes)?),
        Topology::CalicoIpip => Box::new(ipip::build(nodes)?),
        Topology::CalicoWireguard => Box::new(wireguard::build(nodes)?),
        Topology::BridgeVxlan => Box::new(bridge::Bridged::build(nodes)?),
        Topology::CiliumLegacyRouting
        | Topology::CiliumHostRouting
        | Topology::CiliumGeneve
        | Topology::CiliumNetkit => {
            Box::new(cilium::Cilium::build(nodes, cilium::Shape::of(topology), stand_ins)?)
        }
    })
}

/// Makes the veth pair of a pod. Both ends are down.
fn add_pod_veth(node: &Node, pod: &Pod, mtu: u32) -> Result<()> {
    let [host, inside] = pod_ends(node, pod, mtu);
    netlink::in_netns(node.netns(), async |link| link.add_veth(&host, &inside).await)
}

/// Makes the netkit pair of a pod. Both ends are down.
fn add_pod_netkit(node: &Node, pod: &Pod, mtu: u32) -> Result<()> {
    let [host, inside] = pod_ends(node, pod, mtu);
    netlink::in_netns(node.netns(), async |link| link.add_netkit(&host, &inside).await)
}

/// The node's end of a pod's pair, and the pod's own.
fn pod_ends<'a>(node: &'a Node, pod: &'a Pod, mtu: u32) -> [End<'a>; 2] {
    let plan = &pod.plan;
    let host = End {
        netns: node.netns(),
        name: &plan.host_device,
        ifindex: plan.host_ifindex,
        mac: plan.host_mac,
        mtu,
        gso_max_segs: None,
    };
    let inside = End {
        netns: pod.netns(),
        name: "eth0",
        ifindex: plan.ifindex,
        mac: plan.mac,
        mtu,
        gso_max_segs: None,
    };
    [host, inside]
}
