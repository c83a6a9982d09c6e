//! flannel's shape: pods on bridge `cni0`, VXLAN 1 between nodes.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};

use super::overlay::Overlay;
use super::{Datapath, OVERLAY_MTU, add_pod_veth};
use crate::lab::{Node, Pod};
use crate::netlink::{self, Route};
use crate::plan::{Mac, NodePlan};

/// Interface index of `cni0` on every node.
const BRIDGE: u32 = 22;

pub(super) struct Bridged;

impl Bridged {
    pub(super) fn build(nodes: &[Node]) -> Result<Self> {
        Overlay { device: "flannel.1", vni: 1, port: 8472 }.build(nodes)?;
        for node in nodes.iter().filter(|node| node.is_here()) {
            let (ipv4, ipv6) = gateway(&node.plan);
            let mac = Mac([0x5a, 0x0a, 0xf4, 0x00, node.plan.number, 0x01]);
            netlink::in_netns(node.netns(), async |link| {
                link.add_bridge("cni0", BRIDGE, mac, OVERLAY_MTU).await?;
                link.set_up(BRIDGE).await?;
                link.add_address(BRIDGE, ipv4, 24).await?;
                link.add_address(BRIDGE, ipv6, 64).await
            })?;
            // br_netfilter hands a packet to the port itself only while the kernel is sure of the neighbour; after half a
            // minute it is not, and packets go another way. On a slow machine a test takes longer than that. A namespace
            // has no `default` of its own for this.
            node.netns().set_sysctls(&[
                ("net/ipv4/neigh/cni0/base_reachable_time_ms", A_DAY_MS),
                ("net/ipv6/neigh/cni0/base_reachable_time_ms", A_DAY_MS),
            ])?;
            // Answers of a Service's pod on the same bridge must pass netfilter, or nobody translates them back.
            node.netns()
                .set_sysctls(&[
                    ("net/bridge/bridge-nf-call-iptables", "1"),
                    ("net/bridge/bridge-nf-call-ip6tables", "1"),
                ])
                .context("bridged pods need br_netfilter: modprobe br_netfilter")?;
        }
        Ok(Self)
    }
}

impl Datapath for Bridged {
    fn add_pod(&mut self, node: &Node, pod: &Pod) -> Result<()> {
        let plan = &pod.plan;
        let (gateway_ipv4, gateway_ipv6) = gateway(&node.plan);
        add_pod_veth(node, pod, OVERLAY_MTU)?;
        netlink::in_netns(node.netns(), async |link| {
            link.set_controller(plan.host_ifindex, BRIDGE).await?;
            // A pod that calls its own Service gets its packets back through the port that they came from.
            link.set_hairpin(plan.host_ifindex).await?;
            link.set_up(plan.host_ifindex).await
        })?;
        netlink::in_netns(pod.netns(), async |link| {
            let eth0 = plan.ifindex;
            link.set_up(eth0).await?;
            link.add_address(eth0, plan.ipv4, 24).await?;
            link.add_address(eth0, plan.ipv6, 64).await?;
            link.add_route(Route::default_like(plan.ipv4.into(), eth0).via(gateway_ipv4)).await?;
            link.add_route(Route::default_like(plan.ipv6.into(), eth0).via(gateway_ipv6)).await
        })
    }
}

/// How long a neighbour counts as known.
const A_DAY_MS: &str = "86400000";

/// The bridge's own addresses, the pods' next hop.
fn gateway(node: &NodePlan) -> (Ipv4Addr, Ipv6Addr) {
    let (net4, net6) = (node.pod_net_ipv4().octets(), node.pod_net_ipv6().segments());
    (
        Ipv4Addr::new(net4[0], net4[1], net4[2], 1),
        Ipv6Addr::new(net6[0], net6[1], net6[2], net6[3], 0, 0, 0, 1),
    )
}
