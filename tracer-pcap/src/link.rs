//! What stands before a packet's IP header, by the file's link type (<https://www.tcpdump.org/linktypes.html>).
//! Packets of `tcpdump -i any` have one of Linux' cooked headers, which say the way, and in version 2 the device.

use crate::read::Way;

pub const ETHERNET: u16 = 1;
/// IPv4 or IPv6, as the first four bits say.
pub const RAW: u16 = 101;
/// The number that libpcap has for it on Linux; older writers put it into files.
const RAW_OF_LINUX: u16 = 12;
const IPV4: u16 = 228;
const IPV6: u16 = 229;
pub const COOKED: u16 = 113;
pub const COOKED_2: u16 = 276;

const COOKED_HEADER: usize = 16;
const COOKED_2_HEADER: usize = 20;

const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_IPV6: u16 = 0x86dd;
const ETHER_TYPE_VLAN: u16 = 0x8100;
const ETHER_TYPE_VLAN_OF_PROVIDER: u16 = 0x88a8;
/// Stacked VLAN tags that are passed over.
const MAX_VLANS: usize = 4;

/// `sll_pkttype`: sent by this machine.
const OUTGOING: u16 = 4;

/// How a packet's bytes begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    WithEthernet,
    WithIp,
}

/// A packet without what the capture put before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framed<'a> {
    pub begins: Begins,
    pub bytes: &'a [u8],
    /// Bytes that were taken off the beginning.
    pub taken_off: u32,
    pub way: Option<Way>,
    /// The device's index in its namespace.
    pub ifindex: Option<u32>,
    /// The device's hardware type (`ARPHRD_*`).
    pub hardware: Option<u16>,
}

/// Why a packet cannot be looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPacket {
    /// It ends inside the header.
    Truncated,
    /// ARP or the like.
    NotIp,
    /// A link type that is not known here.
    UnknownLink,
}

/// Takes off what the capture has put before a packet.
///
/// # Errors
/// [`NoPacket`].
pub fn unframe(link_type: u16, bytes: &[u8]) -> Result<Framed<'_>, NoPacket> {
    let plain = |begins| Ok(Framed { begins, bytes, taken_off: 0, way: None, ifindex: None, hardware: None });
    match link_type {
        ETHERNET => plain(Begins::WithEthernet),
        RAW | RAW_OF_LINUX | IPV4 | IPV6 => plain(Begins::WithIp),
        COOKED => {
            let header: &[u8; COOKED_HEADER] = bytes.first_chunk().ok_or(NoPacket::Truncated)?;
            let [k0, k1, h0, h1, .., p0, p1] = *header;
            let kind = u16::from_be_bytes([k0, k1]);
            let protocol = u16::from_be_bytes([p0, p1]);
            let framed = cooked(bytes, COOKED_HEADER, protocol, kind)?;
            Ok(Framed { hardware: Some(u16::from_be_bytes([h0, h1])), ..framed })
        }
        COOKED_2 => {
            let header: &[u8; COOKED_2_HEADER] = bytes.first_chunk().ok_or(NoPacket::Truncated)?;
            let [p0, p1, _, _, i0, i1, i2, i3, h0, h1, kind, ..] = *header;
            let protocol = u16::from_be_bytes([p0, p1]);
            let framed = cooked(bytes, COOKED_2_HEADER, protocol, kind.into())?;
            Ok(Framed {
                ifindex: Some(u32::from_be_bytes([i0, i1, i2, i3])),
                hardware: Some(u16::from_be_bytes([h0, h1])),
                ..framed
            })
        }
        _ => Err(NoPacket::UnknownLink),
    }
}

fn cooked(bytes: &[u8], header: usize, protocol: u16, kind: u16) -> Result<Framed<'_>, NoPacket> {
    let (mut at, mut protocol) = (header, protocol);
    for _ in 0..MAX_VLANS {
        if !matches!(protocol, ETHER_TYPE_VLAN | ETHER_TYPE_VLAN_OF_PROVIDER) {
            break;
        }
        let [_, _, p0, p1] = *bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(NoPacket::Truncated)?;
        protocol = u16::from_be_bytes([p0, p1]);
        at += 4;
    }
    if !matches!(protocol, ETHER_TYPE_IPV4 | ETHER_TYPE_IPV6) {
        return Err(NoPacket::NotIp);
    }
    Ok(Framed {
        begins: Begins::WithIp,
        bytes: bytes.get(at..).unwrap_or_default(),
        taken_off: at as u32,
        way: Some(if kind == OUTGOING { Way::Out } else { Way::In }),
        ifindex: None,
        hardware: None,
    })
}
