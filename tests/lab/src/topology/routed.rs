//! Calico's shape: every pod on a routed veth of its own; with VXLAN, VXLAN 4096 between nodes.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::overlay::Overlay;
use super::{Datapath, OVERLAY_MTU, add_pod_veth};
use crate::lab::{Node, Pod};
use crate::netlink::{self, Route};

/// The pods' next hop. No device has it: the node answers ARP for every address (proxy_arp).
const GATEWAY_IPV4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The pods' IPv6 next hop: the link-local address that the host side's MAC ee:ee:ee:ee:ee:ee gives.
const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// Calico's pods, whatever is between the nodes.
pub(super) struct Routed {
    /// Of the pods' devices.
    pub(super) mtu: u32,
}

impl Routed {
    pub(super) fn over_vxlan(nodes: &[Node]) -> Result<Self> {
        Overlay { device: "vxlan.calico", vni: 4096, port: 4789 }.build(nodes)?;
        Ok(Self { mtu: OVERLAY_MTU })
    }
}

impl Datapath for Routed {
    fn add_pod(&mut self, node: &Node, pod: &Pod) -> Result<()> {
        let plan = &pod.plan;
        add_pod_veth(node, pod, self.mtu)?;
        let device = &plan.host_device;
        node.netns().set_sysctls(&[
            (&format!("net/ipv4/conf/{device}/proxy_arp"), "1"),
            // Otherwise the answer is held back for up to 0.8 s.
            (&format!("net/ipv4/neigh/{device}/proxy_delay"), "0"),
            // The kernel would give the same address, but some time later.
            (&format!("net/ipv6/conf/{device}/addr_gen_mode"), "1"),
        ])?;
        netlink::in_netns(node.netns(), async |link| {
            link.set_up(plan.host_ifindex).await?;
            link.add_address(plan.host_ifindex, GATEWAY_IPV6, 64).await?;
            link.add_route(Route::to(plan.ipv4, 32, plan.host_ifindex)).await?;
            link.add_route(Route::to(plan.ipv6, 128, plan.host_ifindex)).await
        })?;
        netlink::in_netns(pod.netns(), async |link| {
            let eth0 = plan.ifindex;
            link.set_up(eth0).await?;
            link.add_address(eth0, plan.ipv4, 32).await?;
            link.add_address(eth0, plan.ipv6, 128).await?;
            link.add_route(Route::to(GATEWAY_IPV4, 32, eth0)).await?;
            link.add_route(Route::default_like(plan.ipv4.into(), eth0).via(GATEWAY_IPV4)).await?;
            link.add_route(Route::default_like(plan.ipv6.into(), eth0).via(GATEWAY_IPV6)).await
        })
    }
}
