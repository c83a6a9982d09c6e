//! The walk over the headers, layer by layer: link, IP with its extensions, and what may be a tunnel around the next layer.
//! Each step reads one header and notes what it found in [`Headers`]; everything between two steps lives there.

use super::{
    Headers, Link, MAX_EXTENSIONS, MAX_LAYERS, MAX_OFFSET, MAX_VLAN_TAGS, ParseError, Reader, TunnelAt,
};
use crate::record::{
    FLAG_FRAGMENT, FLAG_MORE_FRAGMENTS, FLAG_TUNNEL_DEPTH, MAX_TUNNELS, TUNNEL_GENEVE, TUNNEL_GRE,
    TUNNEL_IP4_IN_IP6, TUNNEL_IP6_IN_IP6, TUNNEL_IPIP, TUNNEL_SIT, TUNNEL_VXLAN,
};

/// What a layer begins with at the walk's position.
mod begin {
    /// The EtherType of an Ethernet header.
    pub(super) const ETHER_TYPE: u32 = 0;
    pub(super) const IPV4: u32 = 1;
    pub(super) const IPV6: u32 = 2;
    /// There is no further layer.
    pub(super) const NOTHING: u32 = 3;
}

/// The two addresses in front of an Ethernet header's EtherType, bytes.
pub(super) const ETHERNET_ADDRESSES: u32 = 12;

pub(super) const ETHER_TYPE_IPV4: u32 = 0x0800;
pub(super) const ETHER_TYPE_IPV6: u32 = 0x86dd;
const ETHER_TYPE_VLAN: u32 = 0x8100;
const ETHER_TYPE_QINQ: u32 = 0x88a8;
/// QinQ before IEEE 802.1ad gave it a type of its own; still in use.
const ETHER_TYPE_QINQ_OLD: u32 = 0x9100;
/// Transparent Ethernet bridging: an Ethernet frame inside GRE or Geneve.
const ETHER_TYPE_BRIDGING: u32 = 0x6558;

pub(super) const PROTOCOL_HOP_BY_HOP: u32 = 0;
pub(crate) const PROTOCOL_ICMP: u32 = 1;
pub(super) const PROTOCOL_IPV4: u32 = 4;
pub(crate) const PROTOCOL_UDP: u32 = 17;
pub(super) const PROTOCOL_IPV6: u32 = 41;
pub(super) const PROTOCOL_ROUTING: u32 = 43;
pub(super) const PROTOCOL_FRAGMENT: u32 = 44;
pub(super) const PROTOCOL_GRE: u32 = 47;
pub(super) const PROTOCOL_AUTHENTICATION: u32 = 51;
pub(crate) const PROTOCOL_ICMPV6: u32 = 58;
pub(super) const PROTOCOL_NO_NEXT_HEADER: u32 = 59;
pub(super) const PROTOCOL_DESTINATION_OPTIONS: u32 = 60;
pub(super) const PROTOCOL_MOBILITY: u32 = 135;
pub(super) const PROTOCOL_HIP: u32 = 139;
pub(super) const PROTOCOL_SHIM6: u32 = 140;

/// The first word of a VXLAN header: the I flag, all else reserved (RFC 7348, 5).
pub(super) const VXLAN_FLAGS: u32 = 0x0800_0000;
/// With the group policy extension there are a G flag, D and A flags and a group as well.
const VXLAN_GROUP_POLICY_FLAGS: u32 = 0x8800_0000;
const VXLAN_GROUP_POLICY_MASK: u32 = 0xffb7_0000;

pub(super) const GENEVE_PORT: u32 = 6081;
/// UDP header, tunnel header, and an IPv4 header in Geneve.
pub(super) const SMALLEST_TUNNEL: u32 = 8 + 8 + 20;
/// Tunnel header and an IPv4 header in GRE.
const SMALLEST_GRE: u32 = 4 + 20;
/// Version and reserved bits of a Geneve header, all zero (RFC 8926, 3.4).
const GENEVE_FIXED_MASK: u32 = 0xc03f_0000;

/// Headers that begin behind this are not followed: with it, all that is read of a header and of what is behind the
/// last one (at most a TCP header, or 84 bytes of an ICMP error and its quote) lies before [`MAX_OFFSET`], and a
/// read fails only where the packet ends.
const LAST_HEADER: u32 = MAX_OFFSET - 127;

impl Headers {
    /// Walks to the innermost IP packet. `self` need not be fresh. `vxlan_ports` are UDP destination ports, 0 for
    /// an unused entry.
    ///
    /// # Errors
    /// What keeps the packet from being described; see [`ParseError`].
    #[inline(always)]
    pub fn parse<R: Reader>(
        &mut self,
        reader: &R,
        link: Link,
        vxlan_ports: &[u16; 4],
    ) -> Result<(), ParseError> {
        *self = Self::default();
        match link {
            Link::Ethernet => self.offset = ETHERNET_ADDRESSES,
            Link::None => {
                self.begin = match reader.u8(0).ok_or(ParseError::Truncated)? >> 4 {
                    4 => begin::IPV4,
                    6 => begin::IPV6,
                    _ => return Err(ParseError::NotIp),
                };
            }
        }
        for _ in 0..MAX_LAYERS {
            self.link(reader)?;
            self.internet(reader)?;
            if self.flags & u32::from(FLAG_FRAGMENT) == 0 {
                self.transport(reader, vxlan_ports)?;
            }
            if self.begin == begin::NOTHING {
                // A header may end behind what can be read.
                return self.step(reader);
            }
        }
        Err(ParseError::TooDeep)
    }

    /// Begins a step: the next header lies where it can be read.
    #[inline(always)]
    fn step<R: Reader>(&self, reader: &R) -> Result<(), ParseError> {
        reader.step();
        if self.offset > LAST_HEADER { Err(ParseError::TooDeep) } else { Ok(()) }
    }

    /// The Ethernet header's end, where there is one, and VLAN tags.
    #[inline(always)]
    fn link<R: Reader>(&mut self, reader: &R) -> Result<(), ParseError> {
        if self.begin != begin::ETHER_TYPE {
            return Ok(());
        }
        for _ in 0..=MAX_VLAN_TAGS {
            self.step(reader)?;
            self.begin = match u32::from(reader.u16(self.offset).ok_or(ParseError::Truncated)?) {
                ETHER_TYPE_IPV4 => begin::IPV4,
                ETHER_TYPE_IPV6 => begin::IPV6,
                ETHER_TYPE_VLAN | ETHER_TYPE_QINQ | ETHER_TYPE_QINQ_OLD => {
                    // Behind the tag's own two bytes is the next type.
                    self.offset += 4;
                    continue;
                }
                _ => return Err(ParseError::NotIp),
            };
            self.offset += 2;
            return Ok(());
        }
        Err(ParseError::TooDeep)
    }

    /// The IP header and its extensions. A fragment ends the walk, so that no header behind finds anything of this.
    #[inline(always)]
    fn internet<R: Reader>(&mut self, reader: &R) -> Result<(), ParseError> {
        self.step(reader)?;
        if self.begin == begin::IPV4 {
            self.ipv4(reader)?;
        } else {
            self.ipv6(reader)?;
        }
        self.begin = begin::NOTHING;
        for _ in 0..MAX_EXTENSIONS {
            self.step(reader)?;
            let is_fragment = self.flags & u32::from(FLAG_FRAGMENT) != 0;
            // The authentication header is the only one of IPv4.
            let may_be = self.version == 6 || self.protocol == PROTOCOL_AUTHENTICATION;
            if is_fragment || !may_be || !is_extension(self.protocol) {
                return Ok(());
            }
            self.extension(reader)?;
        }
        if is_extension(self.protocol) { Err(ParseError::TooDeep) } else { Ok(()) }
    }

    /// RFC 791.
    #[inline(always)]
    fn ipv4<R: Reader>(&mut self, reader: &R) -> Result<(), ParseError> {
        let at = self.offset;
        let [low, high] = reader.words(at).ok_or(ParseError::Truncated)?;
        let first = byte(low, 0);
        let header_length = (first & 0xf) * 4;
        if first >> 4 != 4 || header_length < 20 {
            return Err(ParseError::Malformed);
        }
        let (total_length, identification, fragment) = (short(low, 2), short(low, 4), short(low, 6));
        let protocol = byte(high, 1);
        // A GSO packet of more than 64 KiB (BIG TCP) has no length here; the buffer's own is right then.
        if total_length != 0 && total_length < header_length {
            return Err(ParseError::Malformed);
        }
        self.network = at;
        self.end = if total_length == 0 { reader.length() } else { at + total_length };
        if at + header_length > self.end {
            return Err(ParseError::Truncated);
        }
        self.version = 4;
        self.protocol = protocol;
        self.identification = identification;
        self.offset = at + header_length;
        self.transport = self.offset;
        self.note_fragment((fragment & 0x1fff) * 8, fragment & 0x2000 != 0);
        Ok(())
    }

    /// RFC 8200.
    #[inline(always)]
    fn ipv6<R: Reader>(&mut self, reader: &R) -> Result<(), ParseError> {
        let at = self.offset;
        let word = reader.word(at).ok_or(ParseError::Truncated)?;
        if byte(word, 0) >> 4 != 6 {
            return Err(ParseError::Malformed);
        }
        let (payload_length, next) = (short(word, 4), byte(word, 6));
        self.network = at;
        // Zero: a jumbogram (RFC 2675, BIG TCP), or nothing behind the header at all.
        self.end = if payload_length == 0 && next != PROTOCOL_NO_NEXT_HEADER {
            reader.length()
        } else {
            at + 40 + payload_length
        };
        self.version = 6;
        self.protocol = next;
        self.identification = 0;
        self.offset = at + 40;
        self.transport = self.offset;
        Ok(())
    }

    /// One extension header (RFC 8200, 4; authentication header: RFC 4302).
    #[inline(always)]
    fn extension<R: Reader>(&mut self, reader: &R) -> Result<(), ParseError> {
        // The smallest has eight bytes.
        let word = reader.word(self.offset).ok_or(ParseError::Truncated)?;
        let length = byte(word, 1);
        let kind = self.protocol;
        self.protocol = byte(word, 0);
        self.offset += match kind {
            PROTOCOL_FRAGMENT => 8,
            PROTOCOL_AUTHENTICATION => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        self.transport = self.offset;
        if kind == PROTOCOL_FRAGMENT {
            self.identification = short(word, 4) << 16 | short(word, 6);
            let fragment = short(word, 2);
            self.note_fragment(fragment & 0xfff8, fragment & 1 != 0);
        }
        Ok(())
    }

    /// Notes whether this IP packet is a fragment.
    #[inline(always)]
    fn note_fragment(&mut self, offset: u32, more: bool) {
        self.fragment_offset = offset;
        if more {
            self.flags |= u32::from(FLAG_MORE_FRAGMENTS);
        }
        if more || offset != 0 {
            self.flags |= u32::from(FLAG_FRAGMENT);
        }
    }

    /// Looks whether another packet is inside.
    #[inline(always)]
    fn transport<R: Reader>(&mut self, reader: &R, vxlan_ports: &[u16; 4]) -> Result<(), ParseError> {
        self.step(reader)?;
        self.transport = self.offset;
        match self.protocol {
            PROTOCOL_IPV4 => {
                let kind = if self.version == 4 { TUNNEL_IPIP } else { TUNNEL_IP4_IN_IP6 };
                self.enter(kind, 0, 0, 0, begin::IPV4);
            }
            PROTOCOL_IPV6 => {
                let kind = if self.version == 4 { TUNNEL_SIT } else { TUNNEL_IP6_IN_IP6 };
                self.enter(kind, 0, 0, 0, begin::IPV6);
            }
            PROTOCOL_GRE => self.gre(reader)?,
            PROTOCOL_UDP => self.udp(reader, vxlan_ports)?,
            PROTOCOL_ICMP | PROTOCOL_ICMPV6 => self.note_quote(reader).unwrap_or_default(),
            _ => {}
        }
        Ok(())
    }

    /// Notes where the packet is that an ICMP error quotes. `None` if it quotes no whole IP header, which is no
    /// reason not to report the error. Extension headers in a quote are not looked behind.
    #[inline(always)]
    fn note_quote<R: Reader>(&mut self, reader: &R) -> Option<()> {
        if !is_icmp_error(self.protocol, reader.u8(self.offset)?) {
            return None;
        }
        let at = self.offset + 8;
        if at + 20 > self.end {
            return None;
        }
        let [low, high] = reader.words(at)?;
        let first = byte(low, 0);
        let (header_length, protocol, is_later_fragment) = match first >> 4 {
            4 => ((first & 0xf) * 4, byte(high, 1), short(low, 6) & 0x1fff != 0),
            6 => (40, byte(low, 6), false),
            _ => return None,
        };
        let transport = at + header_length;
        if header_length < 20 || transport > self.end {
            return None;
        }
        self.quote = at;
        self.quote_version = first >> 4;
        self.quote_protocol = protocol;
        if !is_later_fragment && transport + 8 <= self.end {
            self.quote_transport = transport;
        }
        Some(())
    }

    #[inline(always)]
    fn udp<R: Reader>(&mut self, reader: &R, vxlan_ports: &[u16; 4]) -> Result<(), ParseError> {
        let at = self.offset;
        // A datagram too short for any packet inside is no tunnel's; what may be behind it is Ethernet padding.
        if self.end < at + SMALLEST_TUNNEL {
            return Ok(());
        }
        let [udp, tunnel] = reader.words(at).ok_or(ParseError::Truncated)?;
        let port = short(udp, 2) as u16;
        let [first, second, third, fourth] = *vxlan_ports;
        let is_vxlan = port != 0 && (port == first || port == second || port == third || port == fourth);
        if !is_vxlan && u32::from(port) != GENEVE_PORT {
            return Ok(());
        }
        let (header, identifier) = (long(tunnel, 0), long(tunnel, 4));
        // Reserved in both; with it a datagram of some other protocol is hardly taken for a tunnel's.
        if identifier & 0xff != 0 {
            return Ok(());
        }
        let port = u32::from(port);
        if is_vxlan {
            if header == VXLAN_FLAGS || header & VXLAN_GROUP_POLICY_MASK == VXLAN_GROUP_POLICY_FLAGS {
                self.enter(TUNNEL_VXLAN, identifier >> 8, port, 16 + ETHERNET_ADDRESSES, begin::ETHER_TYPE);
            }
        } else if header & GENEVE_FIXED_MASK == 0 {
            let length = 16 + ((header >> 24) & 0x3f) * 4;
            if let Some((next, before)) = after_ether_type(header & 0xffff) {
                self.enter(TUNNEL_GENEVE, identifier >> 8, port, length + before, next);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn gre<R: Reader>(&mut self, reader: &R) -> Result<(), ParseError> {
        const CHECKSUM: u32 = 0x8000_0000;
        const ROUTING: u32 = 0x4000_0000;
        const KEY: u32 = 0x2000_0000;
        const SEQUENCE: u32 = 0x1000_0000;
        const VERSION: u32 = 0x0007_0000;
        // What is too short for any packet inside is not looked into.
        if self.end < self.offset + SMALLEST_GRE {
            return Ok(());
        }
        let [low, high] = reader.words(self.offset).ok_or(ParseError::Truncated)?;
        let header = long(low, 0);
        // Routing is obsolete, version 1 is PPTP.
        if header & (ROUTING | VERSION) != 0 {
            return Ok(());
        }
        let Some((next, before)) = after_ether_type(header & 0xffff) else { return Ok(()) };
        let (mut length, mut key) = (4, long(low, 4));
        if header & CHECKSUM != 0 {
            length += 4;
            key = long(high, 0);
        }
        if header & KEY != 0 {
            length += 4;
        } else {
            key = 0;
        }
        if header & SEQUENCE != 0 {
            length += 4;
        }
        self.enter(TUNNEL_GRE, key, 0, length + before, next);
        Ok(())
    }

    /// Goes into an encapsulation whose headers behind IP take `length` bytes.
    #[inline(always)]
    fn enter(&mut self, kind: u8, identifier: u32, port: u32, length: u32, next: u32) {
        let tunnel = TunnelAt { network: self.network, identifier, kind: u32::from(kind), port };
        match self.tunnel_count {
            0 => self.outer = tunnel,
            1 => self.middle = tunnel,
            _ => {
                self.flags |= u32::from(FLAG_TUNNEL_DEPTH);
                return;
            }
        }
        self.tunnel_count += 1;
        self.offset += length;
        self.begin = next;
    }
}

const _: () = assert!(MAX_TUNNELS == 2, "Headers has one field for each tunnel");

/// Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792); 1 to 4 (RFC 4443).
#[inline(always)]
pub(crate) const fn is_icmp_error(protocol: u32, kind: u8) -> bool {
    if protocol == PROTOCOL_ICMP { matches!(kind, 3..=5 | 11 | 12) } else { matches!(kind, 1..=4) }
}

/// What the payload of a tunnel begins with that names it by EtherType, and how many bytes are passed before.
#[inline(always)]
const fn after_ether_type(ether_type: u32) -> Option<(u32, u32)> {
    match ether_type {
        ETHER_TYPE_IPV4 => Some((begin::IPV4, 0)),
        ETHER_TYPE_IPV6 => Some((begin::IPV6, 0)),
        ETHER_TYPE_BRIDGING => Some((begin::ETHER_TYPE, ETHERNET_ADDRESSES)),
        _ => None,
    }
}

#[inline(always)]
const fn is_extension(protocol: u32) -> bool {
    matches!(
        protocol,
        PROTOCOL_HOP_BY_HOP
            | PROTOCOL_ROUTING
            | PROTOCOL_FRAGMENT
            | PROTOCOL_AUTHENTICATION
            | PROTOCOL_DESTINATION_OPTIONS
            | PROTOCOL_MOBILITY
            | PROTOCOL_HIP
            | PROTOCOL_SHIM6
    )
}

/// The byte at `index` of a word as [`Reader::word`] gives it.
#[inline(always)]
pub(super) const fn byte(word: u64, index: u32) -> u32 {
    (word >> (8 * index)) as u32 & 0xff
}

/// The two bytes at `index`, in host order.
#[inline(always)]
pub(super) const fn short(word: u64, index: u32) -> u32 {
    ((word >> (8 * index)) as u16).swap_bytes() as u32
}

/// The four bytes at `index`, in host order.
#[inline(always)]
pub(super) const fn long(word: u64, index: u32) -> u32 {
    ((word >> (8 * index)) as u32).swap_bytes()
}
