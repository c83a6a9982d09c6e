//! Tunnel devices other than VXLAN's, netkit pairs, and what leads packets into them.

use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoNetkit, NetkitMode, NetkitPolicy};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::{LinkDummy, LinkGeneve, LinkMessageBuilder, LinkUnspec, LinkWireguard};

use super::{End, Netlink};
use crate::plan::Mac;

impl Netlink {
    /// A Geneve device whose packets each carry their own VNI and peer (`external`).
    pub(crate) async fn add_geneve(
        &self,
        name: &str,
        ifindex: u32,
        mac: Mac,
        mtu: u32,
        port: u16,
    ) -> Result<()> {
        let builder = LinkMessageBuilder::<LinkGeneve>::new(name).index(ifindex).address(mac.0.to_vec());
        self.add_link(builder.mtu(mtu).port(port).collect_metadata().build())
            .await
            .with_context(|| format!("cannot add Geneve device {name}; CONFIG_GENEVE is needed"))
    }

    /// An IPIP device for any peer: the route's next hop is the outer destination.
    pub(crate) async fn add_ipip(&self, name: &str, ifindex: u32) -> Result<()> {
        let builder = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::IpIp);
        let message = builder.name(name).index(ifindex).set_info_data(InfoData::IpTunnel(Vec::new()));
        self.add_link(message.build())
            .await
            .with_context(|| format!("cannot add IPIP device {name}; CONFIG_NET_IPIP is needed"))
    }

    /// A WireGuard device without keys and peers.
    pub(crate) async fn add_wireguard(&self, name: &str, ifindex: u32, mtu: u32) -> Result<()> {
        let message = LinkWireguard::new(name).index(ifindex).mtu(mtu).build();
        self.add_link(message)
            .await
            .with_context(|| format!("cannot add WireGuard device {name}; CONFIG_WIREGUARD is needed"))
    }

    pub(crate) async fn add_dummy(&self, name: &str, ifindex: u32) -> Result<()> {
        self.add_link(LinkDummy::new(name).index(ifindex).build())
            .await
            .with_context(|| format!("cannot add dummy device {name}; CONFIG_DUMMY is needed"))
    }

    /// Makes a netkit pair of layer 3, the primary device in this namespace. As Cilium has it: what the pod sends
    /// goes nowhere until a program at the pair lets it.
    pub(crate) async fn add_netkit(&self, primary: &End<'_>, peer: &End<'_>) -> Result<()> {
        // No MAC address: the kernel refuses one where there is no layer 2.
        let peer_message = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer.name)
            .index(peer.ifindex)
            .mtu(peer.mtu)
            .setns_by_fd(peer.netns.as_fd().as_raw_fd())
            .build();
        let info = InfoData::Netkit(vec![
            InfoNetkit::Peer(peer_message),
            InfoNetkit::Mode(NetkitMode::L3),
            InfoNetkit::Policy(NetkitPolicy::Pass),
            InfoNetkit::PeerPolicy(NetkitPolicy::Drop),
        ]);
        let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Netkit)
            .name(primary.name)
            .index(primary.ifindex)
            .mtu(primary.mtu)
            .set_info_data(info)
            .build();
        self.add_link(message).await.with_context(|| {
            format!(
                "cannot add netkit {} in {} with peer {} in {}; CONFIG_NETKIT is needed",
                primary.name,
                primary.netns.name(),
                peer.name,
                peer.netns.name()
            )
        })
    }

    /// Lets through a netkit pair what its peer sends and no program decides about. `ifindex` is the primary's.
    pub(crate) async fn let_netkit_pass(&self, ifindex: u32) -> Result<()> {
        let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Netkit)
            .index(ifindex)
            .set_info_data(InfoData::Netkit(vec![InfoNetkit::PeerPolicy(NetkitPolicy::Pass)]))
            .build();
        self.set(message, "change the policy of", ifindex).await
    }

    /// `ip rule add priority P not fwmark M/M lookup T`, of the family of `like`.
    pub(crate) async fn add_rule_unless_marked(
        &self,
        like: IpAddr,
        priority: u32,
        mark: u32,
        table: u32,
    ) -> Result<()> {
        let request = self.handle.rule().add().priority(priority).fw_mark(mark).table_id(table);
        let request = request.action(RuleAction::ToTable);
        let result = match like {
            IpAddr::V4(_) => {
                let mut request = request.v4();
                refine(request.message_mut(), mark);
                request.execute().await
            }
            IpAddr::V6(_) => {
                let mut request = request.v6();
                refine(request.message_mut(), mark);
                request.execute().await
            }
        };
        result.with_context(|| format!("cannot add the rule to look up table {table}"))
    }
}

fn refine(message: &mut RuleMessage, mark: u32) {
    message.header.flags |= RuleFlags::Invert;
    message.attributes.push(RuleAttribute::FwMask(mark));
}
