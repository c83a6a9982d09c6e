//! Calico's IPIP: `tunl0`, whose packets have no Ethernet header, and a route for each other node's pods with the node
//! itself as next hop. IPIP carries IPv4 only. Calico's IPv6 pools know IPIP's mode `Never` alone: pods' IPv6 packets
//! go bare from node to node, by routes that BGP brings.

use anyhow::Result;

use super::TUNNEL;
use super::routed::Routed;
use crate::lab::Node;
use crate::netlink::{self, Route};

/// The kernel's own device for any peer, which Calico takes.
const DEVICE: &str = "tunl0";

/// The wire's, less 20 bytes of outer header.
const MTU: u32 = 1480;

pub(super) fn build(nodes: &[Node]) -> Result<Routed> {
    for node in nodes.iter().filter(|node| node.is_here()) {
        // Where the module was loaded before, every namespace has it from its beginning.
        let there = node.netns().ifindex(DEVICE).ok();
        let tunnel = there.unwrap_or(TUNNEL);
        netlink::in_netns(node.netns(), async |link| {
            if there.is_none() {
                link.add_ipip(DEVICE, TUNNEL).await?;
            }
            link.set_mtu(tunnel, MTU).await?;
            link.set_up(tunnel).await?;
            link.add_address(tunnel, node.plan.gateway, 32).await?;
            for other in nodes.iter().filter(|other| other.name() != node.name()) {
                let plan = &other.plan;
                let ipv4 = Route::to(plan.pod_net_ipv4(), 24, tunnel).via(plan.ipv4);
                link.add_route(ipv4.onlink()).await?;
                link.add_route(Route::to(plan.pod_net_ipv6(), 64, node.nic).via(plan.ipv6)).await?;
            }
            Ok(())
        })?;
    }
    Ok(Routed { mtu: MTU })
}
