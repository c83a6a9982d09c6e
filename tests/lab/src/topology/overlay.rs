//! A VXLAN device with static peers, as Calico and flannel make it.

use anyhow::Result;

use super::{OVERLAY_MTU, TUNNEL};
use crate::lab::Node;
use crate::netlink::{self, Route, Vxlan, VxlanKind};

/// Name and numbers of the device.
pub(super) struct Overlay {
    pub(super) device: &'static str,
    pub(super) vni: u32,
    pub(super) port: u16,
}

impl Overlay {
    /// Makes the device on every node, with routes to the pods of all others.
    pub(super) fn build(&self, nodes: &[Node]) -> Result<()> {
        for node in nodes.iter().filter(|node| node.is_here()) {
            netlink::in_netns(node.netns(), async |link| {
                link.add_vxlan(&Vxlan {
                    name: self.device,
                    ifindex: TUNNEL,
                    mac: node.plan.tunnel_mac,
                    mtu: OVERLAY_MTU,
                    port: self.port,
                    kind: VxlanKind::Fixed { vni: self.vni, local: node.plan.ipv4, underlay: node.nic },
                })
                .await?;
                link.set_up(TUNNEL).await?;
                link.add_address(TUNNEL, node.plan.gateway, 32).await?;
                link.add_address(TUNNEL, node.plan.gateway_ipv6(), 128).await?;
                for other in nodes.iter().filter(|other| other.name() != node.name()) {
                    let plan = &other.plan;
                    link.add_fdb(TUNNEL, plan.tunnel_mac, plan.ipv4).await?;
                    link.add_neighbour(TUNNEL, plan.gateway, plan.tunnel_mac).await?;
                    link.add_neighbour(TUNNEL, plan.gateway_ipv6(), plan.tunnel_mac).await?;
                    let ipv4 = Route::to(plan.pod_net_ipv4(), 24, TUNNEL).via(plan.gateway);
                    let ipv6 = Route::to(plan.pod_net_ipv6(), 64, TUNNEL).via(plan.gateway_ipv6());
                    link.add_route(ipv4.onlink()).await?;
                    link.add_route(ipv6.onlink()).await?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
