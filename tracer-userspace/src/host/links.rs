//! The links of a network namespace with their addresses, and what changes about them.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use super::netlink::{
    Connection, Message, attribute, attributes, read_address, read_i32, read_text, read_u16, read_u32,
};
use super::netns::Netns;

mod watch;

pub use self::watch::{LinkEvent, LinkWatch, watch};

const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const RTM_GETNSID: u16 = 90;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
/// `linux/if_link.h`
const IFLA_NETKIT_PEER_POLICY: u16 = 4;
const NETKIT_PASS: u32 = 0;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_LINK_NETNSID: u16 = 37;

/// A device of one network namespace, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    pub name: Arc<str>,
    /// Kernel's link kind ("veth", "vxlan", "bridge", ...); empty for hardware devices.
    pub kind: Arc<str>,
    /// IFLA_LINK: of a veth or netkit the other end, of a VLAN or macvlan the device below; in the namespace that
    /// [`Link::peer_netns_id`] names, else in the same.
    pub peer_ifindex: Option<u32>,
    /// IFLA_LINK_NETNSID: this namespace's number for the one that holds [`Link::peer_ifindex`].
    pub peer_netns_id: Option<i32>,
    /// ifindex of the bridge, bond or VRF that the device is part of.
    pub master: Option<u32>,
    /// Hardware address; empty where there is none.
    pub mac: Vec<u8>,
    /// Bytes.
    pub mtu: u32,
    /// Switched on (IFF_UP); says nothing about the wire.
    pub up: bool,
    pub loopback: bool,
    /// Whether packets on its hooks start with an Ethernet header; they start with the IP header otherwise.
    pub has_ethernet_header: bool,
    pub addresses: Vec<IpAddr>,
    pub vxlan: Option<Vxlan>,
    /// IFLA_NETKIT_PEER_POLICY: of a netkit pair's node end, whether what the pod sends passes where no program decides.
    pub passes_from_peer: bool,
}

/// What identifies a VXLAN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// VNI; 0 for a device whose packets each carry their own (`external`).
    pub identifier: u32,
    /// UDP destination port.
    pub port: u16,
}

impl Link {
    /// Whether the device is one end of a pair, so that [`Link::peer_ifindex`] is its other end.
    #[must_use]
    pub fn is_pair(&self) -> bool {
        matches!(&*self.kind, "veth" | "netkit")
    }

    /// From an `RTM_NEWLINK` or `RTM_DELLINK`, without addresses; `None` for other messages.
    fn decode(message: &Message) -> Option<Self> {
        if !matches!(message.kind, libc::RTM_NEWLINK | libc::RTM_DELLINK) {
            return None;
        }
        // struct ifinfomsg: family, padding, type, index, flags, change.
        let header: &[u8; 16] = message.payload.first_chunk()?;
        // Bridges also announce their ports as messages of their own family, which lack most attributes.
        if i32::from(header[0]) != libc::AF_UNSPEC {
            return None;
        }
        let layer = read_u16(&header[2..])?;
        let flags = read_u32(&header[8..])?;
        let mut link = Self {
            ifindex: read_u32(&header[4..])?,
            name: Arc::from(""),
            kind: Arc::from(""),
            peer_ifindex: None,
            peer_netns_id: None,
            master: None,
            mac: Vec::new(),
            mtu: 0,
            up: flags & libc::IFF_UP as u32 != 0,
            loopback: flags & libc::IFF_LOOPBACK as u32 != 0,
            has_ethernet_header: matches!(layer, ARPHRD_ETHER | ARPHRD_LOOPBACK),
            addresses: Vec::new(),
            vxlan: None,
            passes_from_peer: false,
        };
        for (kind, value) in attributes(&message.payload[header.len()..]) {
            match kind {
                libc::IFLA_IFNAME => link.name = read_text(value).into(),
                libc::IFLA_ADDRESS => link.mac = value.to_vec(),
                libc::IFLA_MTU => link.mtu = read_u32(value)?,
                // 0 stands for a peer that cannot be seen, or for none.
                libc::IFLA_LINK => link.peer_ifindex = read_u32(value).filter(|index| *index != 0),
                libc::IFLA_MASTER => link.master = read_u32(value),
                IFLA_LINK_NETNSID => link.peer_netns_id = read_i32(value),
                libc::IFLA_LINKINFO => link.read_info(value),
                _ => {}
            }
        }
        Some(link)
    }

    fn read_info(&mut self, info: &[u8]) {
        let mut data: &[u8] = &[];
        for (kind, value) in attributes(info) {
            match kind {
                IFLA_INFO_KIND => self.kind = read_text(value).into(),
                IFLA_INFO_DATA => data = value,
                _ => {}
            }
        }
        if &*self.kind == "vxlan" {
            let mut vxlan = Vxlan { identifier: 0, port: 0 };
            for (kind, value) in attributes(data) {
                match kind {
                    IFLA_VXLAN_ID => vxlan.identifier = read_u32(value).unwrap_or_default(),
                    IFLA_VXLAN_PORT => {
                        vxlan.port = value.first_chunk().copied().map_or(0, u16::from_be_bytes);
                    }
                    _ => {}
                }
            }
            self.vxlan = Some(vxlan);
        }
        if &*self.kind == "netkit" {
            let policy = attributes(data).find(|(kind, _)| *kind == IFLA_NETKIT_PEER_POLICY);
            self.passes_from_peer = policy.and_then(|(_, value)| read_u32(value)) == Some(NETKIT_PASS);
        }
    }
}

/// What one look at a namespace shows.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// By ascending ifindex.
    pub links: Vec<Link>,
    /// Devices through which a default route of the main table leads.
    pub default_route_devices: Vec<u32>,
}

/// Reads the links, their addresses and the default routes of a namespace.
///
/// # Errors
/// The namespace cannot be entered, or the kernel refuses.
pub fn dump(netns: &Netns) -> io::Result<Snapshot> {
    Reader::open(netns)?.dump()
}

/// A connection into one namespace, for several questions.
pub(crate) struct Reader {
    connection: Connection,
    label: String,
}

impl Reader {
    pub(crate) fn open(netns: &Netns) -> io::Result<Self> {
        Ok(Self { connection: Connection::open(netns, 0)?, label: netns.label().to_owned() })
    }

    pub(crate) fn dump(&mut self) -> io::Result<Snapshot> {
        let mut links: Vec<Link> =
            self.ask(libc::RTM_GETLINK, &[0; 16], "links")?.iter().filter_map(Link::decode).collect();
        links.sort_unstable_by_key(|link| link.ifindex);
        for message in self.ask(libc::RTM_GETADDR, &[0; 8], "addresses")? {
            let Some((ifindex, address)) = decode_address(&message) else { continue };
            if let Ok(place) = links.binary_search_by_key(&ifindex, |link| link.ifindex) {
                links[place].addresses.push(address);
            }
        }
        let mut default_route_devices: Vec<u32> =
            self.ask(libc::RTM_GETROUTE, &[0; 12], "routes")?.iter().flat_map(default_devices).collect();
        default_route_devices.sort_unstable();
        default_route_devices.dedup();
        Ok(Snapshot { links, default_route_devices })
    }

    /// This namespace's number for another one, as in [`Link::peer_netns_id`]; `None` if it has none yet.
    pub(crate) fn netns_id_of(&mut self, other: &Netns) -> io::Result<Option<i32>> {
        use std::os::fd::AsRawFd;
        let mut payload = vec![0; 4];
        let fd = other.fd()?;
        payload.extend_from_slice(&attribute(NETNSA_FD, fd.as_raw_fd().to_ne_bytes()));
        let Some(answer) = self.connection.get(RTM_GETNSID, &payload)? else { return Ok(None) };
        let found = attributes(answer.payload.get(4..).unwrap_or_default())
            .find(|(kind, _)| *kind == NETNSA_NSID)
            .and_then(|(_, value)| read_i32(value));
        Ok(found.filter(|number| *number >= 0))
    }

    fn ask(&mut self, kind: u16, payload: &[u8], what: &str) -> io::Result<Vec<Message>> {
        self.connection.dump(kind, payload).map_err(|error| {
            let text = format!("cannot list the {what} of network namespace {}: {error}", self.label);
            io::Error::new(error.kind(), text)
        })
    }
}

/// The device and the address of an `RTM_NEWADDR`.
fn decode_address(message: &Message) -> Option<(u32, IpAddr)> {
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let header: &[u8; 8] = message.payload.first_chunk()?;
    let ifindex = read_u32(&header[4..])?;
    let (mut local, mut address) = (None, None);
    for (kind, value) in attributes(&message.payload[header.len()..]) {
        match kind {
            libc::IFA_LOCAL => local = read_address(value),
            libc::IFA_ADDRESS => address = read_address(value),
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the other end's; IPv6 has IFA_LOCAL only there.
    Some((ifindex, local.or(address)?))
}

/// The devices of an `RTM_NEWROUTE` if it is a default route of the main table.
fn default_devices(message: &Message) -> Vec<u32> {
    let devices = || {
        // struct rtmsg: family, destination length, source length, TOS, table, protocol, scope, type, flags.
        let header: &[u8; 12] = message.payload.first_chunk()?;
        let (destination_length, table, kind) = (header[1], header[4], header[7]);
        if destination_length != 0 || table != libc::RT_TABLE_MAIN || kind != libc::RTN_UNICAST {
            return None;
        }
        let mut devices = Vec::new();
        for (kind, value) in attributes(&message.payload[header.len()..]) {
            match kind {
                libc::RTA_OIF => devices.extend(read_u32(value)),
                libc::RTA_MULTIPATH => devices.extend(multipath_devices(value)),
                _ => {}
            }
        }
        Some(devices)
    };
    devices().unwrap_or_default()
}

/// The devices of a list of `struct rtnexthop`: length, flags, hops, ifindex, attributes.
fn multipath_devices(mut bytes: &[u8]) -> Vec<u32> {
    let mut devices = Vec::new();
    while let (Some(length), Some(device)) = (read_u16(bytes), bytes.get(4..).and_then(read_u32)) {
        devices.push(device);
        let next = usize::from(length).next_multiple_of(4);
        bytes = match bytes.get(next..) {
            Some(rest) if next > 0 => rest,
            _ => break,
        };
    }
    devices
}
