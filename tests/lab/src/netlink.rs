//! Links, addresses, routes and neighbours of one namespace, through rtnetlink.

mod tunnels;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result, bail};
use aya::programs::TcAttachType;
use futures_util::StreamExt as _;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, InfoVxlan, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};

use crate::netns::Netns;
use crate::plan::Mac;

/// One end of a veth pair.
pub(crate) struct End<'a> {
    pub(crate) netns: &'a Netns,
    pub(crate) name: &'a str,
    pub(crate) ifindex: u32,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
    /// The largest number of segments that may leave the device as one packet; 1 makes it a wire.
    pub(crate) gso_max_segs: Option<u32>,
}

impl End<'_> {
    fn build<T>(&self, builder: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
        let builder = builder.index(self.ifindex).address(self.mac.0.to_vec()).mtu(self.mtu);
        match self.gso_max_segs {
            Some(segments) => builder.append_extra_attribute(LinkAttribute::GsoMaxSegs(segments)),
            None => builder,
        }
    }
}

/// A VXLAN device.
pub(crate) struct Vxlan<'a> {
    pub(crate) name: &'a str,
    pub(crate) ifindex: u32,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
    pub(crate) port: u16,
    pub(crate) kind: VxlanKind,
}

pub(crate) enum VxlanKind {
    /// One VNI over one device; peers are in the forwarding database.
    Fixed { vni: u32, local: Ipv4Addr, underlay: u32 },
    /// VNI and peer come with each packet (`external`).
    Metadata,
}

/// A route, as in `ip route add`.
pub(crate) struct Route {
    destination: IpAddr,
    prefix_len: u8,
    device: u32,
    via: Option<IpAddr>,
    onlink: bool,
    source: Option<IpAddr>,
    mtu: Option<u32>,
    table: u32,
    kind: RouteType,
}

impl Route {
    pub(crate) fn to(destination: impl Into<IpAddr>, prefix_len: u8, device: u32) -> Self {
        let destination = destination.into();
        let table = u32::from(RouteHeader::RT_TABLE_MAIN);
        let kind = RouteType::Unicast;
        Self {
            destination,
            prefix_len,
            device,
            via: None,
            onlink: false,
            source: None,
            mtu: None,
            table,
            kind,
        }
    }

    /// The default route of the family of `like`.
    pub(crate) fn default_like(like: IpAddr, device: u32) -> Self {
        match like {
            IpAddr::V4(_) => Self::to(Ipv4Addr::UNSPECIFIED, 0, device),
            IpAddr::V6(_) => Self::to(std::net::Ipv6Addr::UNSPECIFIED, 0, device),
        }
    }

    pub(crate) fn via(mut self, gateway: impl Into<IpAddr>) -> Self {
        self.via = Some(gateway.into());
        self
    }

    /// The gateway is on the device's link although no address says so.
    pub(crate) fn onlink(mut self) -> Self {
        self.onlink = true;
        self
    }

    pub(crate) fn source(mut self, source: impl Into<IpAddr>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Leads nowhere (`blackhole`); the device does not count.
    pub(crate) fn dead(mut self) -> Self {
        self.kind = RouteType::BlackHole;
        self
    }

    /// In another table than the main one.
    pub(crate) fn table(mut self, table: u32) -> Self {
        self.table = table;
        self
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.table = RouteHeader::RT_TABLE_UNSPEC;
        header.protocol = RouteProtocol::Static;
        header.kind = self.kind;
        header.address_family = match self.destination {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        header.destination_prefix_length = self.prefix_len;
        header.scope = match (self.via, self.destination) {
            (None, IpAddr::V4(_)) => RouteScope::Link,
            _ => RouteScope::Universe,
        };
        if self.onlink {
            header.flags |= RouteFlags::Onlink;
        }
        let attributes = &mut message.attributes;
        if self.prefix_len > 0 {
            attributes.push(RouteAttribute::Destination(route_address(self.destination)));
        }
        attributes.push(RouteAttribute::Table(self.table));
        if self.kind == RouteType::Unicast {
            attributes.push(RouteAttribute::Oif(self.device));
        }
        attributes.extend(self.via.map(|via| RouteAttribute::Gateway(route_address(via))));
        attributes.extend(self.source.map(|from| RouteAttribute::PrefSource(route_address(from))));
        attributes.extend(self.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        message
    }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

/// A netlink connection into one namespace, for as long as [`in_netns`] runs its work.
pub(crate) struct Netlink {
    handle: Handle,
}

/// Runs `work` with a netlink connection into `netns`.
pub(crate) fn in_netns<T: Send>(
    netns: &Netns,
    work: impl AsyncFnOnce(&Netlink) -> Result<T> + Send,
) -> Result<T> {
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("cannot start a runtime for netlink")?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().context("cannot open netlink")?;
            tokio::spawn(connection);
            work(&Netlink { handle }).await
        })
    })?
}

/// Moves a device of this thread's namespace into another. Returns its index there.
pub(crate) fn give_away(device: &str, to: &Netns) -> Result<u32> {
    let socket =
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot make a socket to ask for a device")?;
    let ifindex = rustix::net::netdevice::name_to_index(&socket, device)
        .with_context(|| format!("this machine has no device {device}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot start a runtime for netlink")?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("cannot open netlink")?;
        tokio::spawn(connection);
        Netlink { handle }.move_to(ifindex, to.as_fd()).await
    })?;
    to.ifindex(device)
}

impl Netlink {
    pub(crate) async fn rename(&self, ifindex: u32, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).name(name.to_owned()).build();
        self.set(message, "rename", ifindex).await
    }

    /// Moves a device into another namespace, where it keeps its index if that is free.
    pub(crate) async fn move_to(&self, ifindex: u32, netns: impl AsFd) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).setns_by_fd(netns.as_fd().as_raw_fd()).build();
        self.set(message, "move into another namespace", ifindex).await
    }

    pub(crate) async fn set_mac(&self, ifindex: u32, mac: Mac) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).address(mac.0.to_vec()).build();
        self.set(message, "set the MAC address of", ifindex).await
    }

    /// Makes a veth pair, `near` in this namespace.
    pub(crate) async fn add_veth(&self, near: &End<'_>, far: &End<'_>) -> Result<()> {
        let peer = far
            .build(LinkMessageBuilder::<LinkUnspec>::new().name(far.name))
            .setns_by_fd(far.netns.as_fd().as_raw_fd())
            .build();
        let message = near
            .build(LinkVeth::new(near.name, far.name))
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.add_link(message).await.with_context(|| {
            format!(
                "cannot add veth {} (index {}) in {} with peer {} (index {}) in {}",
                near.name,
                near.ifindex,
                near.netns.name(),
                far.name,
                far.ifindex,
                far.netns.name()
            )
        })
    }

    pub(crate) async fn add_vxlan(&self, vxlan: &Vxlan<'_>) -> Result<()> {
        let builder = LinkMessageBuilder::<LinkVxlan>::new(vxlan.name)
            .index(vxlan.ifindex)
            .address(vxlan.mac.0.to_vec())
            .mtu(vxlan.mtu)
            .port(vxlan.port)
            .learning(false);
        let builder = match vxlan.kind {
            VxlanKind::Fixed { vni, local, underlay } => builder.id(vni).local(local).dev(underlay),
            VxlanKind::Metadata => builder.append_info_data(InfoVxlan::CollectMetadata(true)),
        };
        self.add_link(builder.build())
            .await
            .with_context(|| format!("cannot add VXLAN device {}; CONFIG_VXLAN is needed", vxlan.name))
    }

    pub(crate) async fn add_bridge(&self, name: &str, ifindex: u32, mac: Mac, mtu: u32) -> Result<()> {
        let message = LinkBridge::new(name).index(ifindex).address(mac.0.to_vec()).mtu(mtu).build();
        self.add_link(message)
            .await
            .with_context(|| format!("cannot add bridge {name}; CONFIG_BRIDGE is needed"))
    }

    async fn add_link(&self, message: LinkMessage) -> Result<(), rtnetlink::Error> {
        self.handle.link().add(message).execute().await
    }

    pub(crate) async fn set_up(&self, ifindex: u32) -> Result<()> {
        self.set(LinkUnspec::new_with_index(ifindex).up().build(), "set up", ifindex).await
    }

    pub(crate) async fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<()> {
        self.set(LinkUnspec::new_with_index(ifindex).mtu(mtu).build(), "set the MTU of", ifindex).await
    }

    /// Switches ARP and neighbour discovery off, so that the device's own MAC address stands for every neighbour.
    pub(crate) async fn set_noarp(&self, ifindex: u32) -> Result<()> {
        self.set(LinkUnspec::new_with_index(ifindex).arp(false).build(), "switch ARP off on", ifindex).await
    }

    pub(crate) async fn set_controller(&self, ifindex: u32, bridge: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).controller(bridge).build();
        self.set(message, "put into its bridge", ifindex).await
    }

    /// Lets a bridge port send out what came in by it.
    pub(crate) async fn set_hairpin(&self, ifindex: u32) -> Result<()> {
        self.set(LinkBridgePort::new(ifindex).hairpin(true).build(), "switch hairpin on at", ifindex).await
    }

    async fn set(&self, message: LinkMessage, what: &str, ifindex: u32) -> Result<()> {
        let result = self.handle.link().change(message).execute().await;
        result.with_context(|| format!("cannot {what} the device with index {ifindex}"))
    }

    pub(crate) async fn delete_link(&self, ifindex: u32) -> Result<()> {
        let result = self.handle.link().del(ifindex).execute().await;
        result.with_context(|| format!("cannot delete the device with index {ifindex}"))
    }

    pub(crate) async fn add_address(
        &self,
        ifindex: u32,
        address: impl Into<IpAddr>,
        prefix_len: u8,
    ) -> Result<()> {
        let address = address.into();
        let mut request = self.handle.address().add(ifindex, address, prefix_len);
        // Otherwise an IPv6 address cannot be used before some later work of the kernel's.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request
            .execute()
            .await
            .with_context(|| format!("cannot add {address}/{prefix_len} to the device with index {ifindex}"))
    }

    pub(crate) async fn delete_route(&self, route: Route) -> Result<()> {
        let result = self.handle.route().del(route.message()).execute().await;
        result.with_context(|| format!("cannot delete route {}/{}", route.destination, route.prefix_len))
    }

    pub(crate) async fn add_route(&self, route: Route) -> Result<()> {
        let result = self.handle.route().add(route.message()).execute().await;
        result.with_context(|| {
            let via = route.via.map(|via| format!(" via {via}")).unwrap_or_default();
            format!(
                "cannot add route {}/{}{via} by the device with index {}",
                route.destination, route.prefix_len, route.device
            )
        })
    }

    /// A neighbour that is never asked for.
    pub(crate) async fn add_neighbour(
        &self,
        ifindex: u32,
        address: impl Into<IpAddr>,
        mac: Mac,
    ) -> Result<()> {
        let address = address.into();
        let request = self.handle.neighbours().add(ifindex, address).link_layer_address(&mac.0);
        let result = request.execute().await;
        result.with_context(|| format!("cannot add neighbour {address} at {mac}"))
    }

    /// Makes the node answer for `address` on a device (IPv6; `proxy_ndp` must be on).
    pub(crate) async fn add_proxy(&self, ifindex: u32, address: impl Into<IpAddr>) -> Result<()> {
        let address = address.into();
        let request = self.handle.neighbours().add(ifindex, address).flags(NeighbourFlags::Proxy);
        request.execute().await.with_context(|| format!("cannot add proxy neighbour {address}"))
    }

    /// Tells a VXLAN device behind which node a MAC address is.
    pub(crate) async fn add_fdb(&self, ifindex: u32, mac: Mac, node: Ipv4Addr) -> Result<()> {
        let request = self
            .handle
            .neighbours()
            .add_bridge(ifindex, &mac.0)
            .destination(node.into())
            .flags(NeighbourFlags::Own)
            .state(NeighbourState::Permanent);
        request.execute().await.with_context(|| format!("cannot add {mac} behind {node} to the VXLAN device"))
    }

    /// Attaches a program as a direct-action filter at priority 1, handle 1 of the device's clsact, which is added
    /// where it is missing. Both go with the device.
    pub(crate) async fn add_filter(
        &self,
        ifindex: u32,
        hook: TcAttachType,
        name: String,
        program: BorrowedFd<'_>,
    ) -> Result<()> {
        const EEXIST: i32 = -libc::EEXIST;
        let clsact = TcHandle::from(0xffff_0000);
        let mut qdisc = TcMessage::with_index(ifindex.cast_signed());
        (qdisc.header.parent, qdisc.header.handle) = (TcHandle::CLSACT, clsact);
        qdisc.attributes.push(TcAttribute::Kind("clsact".to_owned()));
        match self.add_tc(RouteNetlinkMessage::NewQueueDiscipline(qdisc)).await? {
            // The device's other direction brought it.
            0 | EEXIST => {}
            error => bail!("cannot add clsact to the device with index {ifindex}: error {error}"),
        }

        let mut filter = TcMessage::with_index(ifindex.cast_signed());
        let minor = match hook {
            TcAttachType::Egress => TcHandle::MIN_EGRESS,
            _ => TcHandle::MIN_INGRESS,
        };
        filter.header.parent = TcHandle { minor, ..clsact };
        filter.header.handle = TcHandle { major: 0, minor: 1 };
        filter.header.info = 1 << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
        filter.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
        filter.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned())),
            TcOption::Bpf(TcFilterBpfOption::ProgName(name)),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        match self.add_tc(RouteNetlinkMessage::NewTrafficFilter(filter)).await? {
            0 => Ok(()),
            error => bail!("cannot add a filter to the device with index {ifindex}: error {error}"),
        }
    }

    /// The kernel's answer: 0 or a negative errno.
    async fn add_tc(&self, message: RouteNetlinkMessage) -> Result<i32> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let mut answers = self.handle.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                return Ok(error.raw_code());
            }
        }
        Ok(0)
    }
}
