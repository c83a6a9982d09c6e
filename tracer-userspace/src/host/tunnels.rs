//! What a link's kind adds to it: where a tunnel leads, and which XDP program is on the device.

use std::io;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::netlink::{Connection, attributes, read_address, read_text, read_u32};
use super::netns::Netns;

/// `linux/if_link.h`
const IFLA_XDP: u16 = 43;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_GROUP: u16 = 2;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_GROUP6: u16 = 16;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;
const IFLA_GENEVE_ID: u16 = 1;
const IFLA_GENEVE_REMOTE: u16 = 2;
const IFLA_GENEVE_PORT: u16 = 5;
const IFLA_GENEVE_COLLECT_METADATA: u16 = 6;
const IFLA_GENEVE_REMOTE6: u16 = 7;
/// `linux/if_tunnel.h`
const IFLA_IPTUN_LOCAL: u16 = 2;
const IFLA_IPTUN_REMOTE: u16 = 3;
const IFLA_IPTUN_COLLECT_METADATA: u16 = 19;
const IFLA_GRE_LOCAL: u16 = 6;
const IFLA_GRE_REMOTE: u16 = 7;

/// Bytes that VXLAN and Geneve without options add to an IP packet: outer IPv4, UDP, tunnel header, inner Ethernet.
const OVER_UDP: u32 = 20 + 8 + 8 + 14;
/// Bytes that IP in IP adds.
const OVER_IPIP: u32 = 20;
/// GRE without key: outer IPv4 and 4 bytes.
const OVER_GRE: u32 = 24;
/// WireGuard: outer IPv6 (what it reckons with), UDP, header and authentication.
const OVER_WIREGUARD: u32 = 80;

/// A tunnel device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Where the device itself says so.
    pub local: Option<IpAddr>,
    pub remote: Option<IpAddr>,
    /// VNI or key.
    pub identifier: Option<u32>,
    /// UDP, of the other end.
    pub port: Option<u16>,
    /// Each packet says where it goes (`external`, collect metadata): a program or a route decides.
    pub by_packet: bool,
    /// Bytes that it adds to a packet, over IPv4.
    pub overhead: u32,
}

/// What a device has beside what every link has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// `None` for what is no tunnel.
    pub tunnel: Option<Tunnel>,
    /// Id of the XDP program.
    pub xdp: Option<u32>,
}

/// Reads the details of a device.
///
/// # Errors
/// The namespace cannot be entered, or the device is gone.
pub fn details(netns: &Netns, ifindex: u32) -> io::Result<Details> {
    let mut connection = Connection::open(netns, 0)?;
    // struct ifinfomsg: family, padding, type, index, flags, change.
    let mut header = vec![0; 4];
    header.extend_from_slice(&ifindex.to_ne_bytes());
    header.extend_from_slice(&[0; 8]);
    let answer = connection.get(libc::RTM_GETLINK, &header)?;
    let payload = answer.map(|message| message.payload).unwrap_or_default();
    Ok(decode(payload.get(16..).unwrap_or_default()))
}

fn decode(bytes: &[u8]) -> Details {
    let mut found = Details::default();
    for (kind, value) in attributes(bytes) {
        match kind {
            IFLA_XDP => {
                let program = attributes(value).find(|(kind, _)| *kind == IFLA_XDP_PROG_ID);
                found.xdp = program.and_then(|(_, value)| read_u32(value)).filter(|id| *id != 0);
            }
            libc::IFLA_LINKINFO => found.tunnel = tunnel(value),
            _ => {}
        }
    }
    found
}

fn tunnel(info: &[u8]) -> Option<Tunnel> {
    let (mut kind, mut data) = (String::new(), &[][..]);
    for (attribute, value) in attributes(info) {
        match attribute {
            IFLA_INFO_KIND => kind = read_text(value),
            IFLA_INFO_DATA => data = value,
            _ => {}
        }
    }
    let mut tunnel = Tunnel::default();
    let given = |value: &[u8]| read_address(value).filter(|address| !address.is_unspecified());
    let port = |value: &[u8]| value.first_chunk().copied().map(u16::from_be_bytes);
    match kind.as_str() {
        "vxlan" => {
            tunnel.overhead = OVER_UDP;
            for (attribute, value) in attributes(data) {
                match attribute {
                    IFLA_VXLAN_ID => tunnel.identifier = read_u32(value),
                    IFLA_VXLAN_GROUP | IFLA_VXLAN_GROUP6 => tunnel.remote = given(value),
                    IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => tunnel.local = given(value),
                    IFLA_VXLAN_PORT => tunnel.port = port(value),
                    IFLA_VXLAN_COLLECT_METADATA => tunnel.by_packet = is_set(value),
                    _ => {}
                }
            }
        }
        "geneve" => {
            tunnel.overhead = OVER_UDP;
            for (attribute, value) in attributes(data) {
                match attribute {
                    IFLA_GENEVE_ID => tunnel.identifier = read_u32(value),
                    IFLA_GENEVE_REMOTE | IFLA_GENEVE_REMOTE6 => tunnel.remote = given(value),
                    IFLA_GENEVE_PORT => tunnel.port = port(value),
                    // It has no value.
                    IFLA_GENEVE_COLLECT_METADATA => tunnel.by_packet = true,
                    _ => {}
                }
            }
        }
        "ipip" | "sit" | "ip6tnl" => {
            tunnel.overhead = if kind == "ip6tnl" { 40 } else { OVER_IPIP };
            for (attribute, value) in attributes(data) {
                match attribute {
                    IFLA_IPTUN_LOCAL => tunnel.local = given(value),
                    IFLA_IPTUN_REMOTE => tunnel.remote = given(value),
                    IFLA_IPTUN_COLLECT_METADATA => tunnel.by_packet = true,
                    _ => {}
                }
            }
        }
        "gre" | "gretap" | "ip6gre" => {
            tunnel.overhead = OVER_GRE;
            for (attribute, value) in attributes(data) {
                match attribute {
                    IFLA_GRE_LOCAL => tunnel.local = given(value),
                    IFLA_GRE_REMOTE => tunnel.remote = given(value),
                    _ => {}
                }
            }
        }
        "wireguard" => tunnel.overhead = OVER_WIREGUARD,
        _ => return None,
    }
    if tunnel.by_packet {
        tunnel.identifier = None;
    }
    Some(tunnel)
}

fn is_set(value: &[u8]) -> bool {
    value.first().is_some_and(|byte| *byte != 0)
}
