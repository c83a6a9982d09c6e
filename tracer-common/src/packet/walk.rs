//! The walk over the headers. Each step reads one header, notes what it found in [`Headers`] and says what the
//! next one is; everything between two steps lives in `Headers`.

use super::{Headers, Link, MAX_OFFSET, MAX_STEPS, ParseError, Reader, TunnelAt};
use crate::record::{
    FLAG_FRAGMENT, FLAG_MORE_FRAGMENTS, FLAG_TUNNEL_DEPTH, MAX_TUNNELS, TUNNEL_GENEVE, TUNNEL_GRE,
    TUNNEL_IP4_IN_IP6, TUNNEL_IP6_IN_IP6, TUNNEL_IPIP, TUNNEL_SIT, TUNNEL_VXLAN,
};

/// States of the walk: which header is expected at the position.
mod state {
    pub(super) const ETHERNET: u32 = 0;
    pub(super) const ETHER_TYPE: u32 = 1;
    pub(super) const IPV4: u32 = 2;
    pub(super) const IPV6: u32 = 3;
    pub(super) const EXTENSION: u32 = 4;
    pub(super) const TRANSPORT: u32 = 5;
    pub(super) const DONE: u32 = 6;
}

const ETHER_TYPE_IPV4: u32 = 0x0800;
const ETHER_TYPE_IPV6: u32 = 0x86dd;
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
const VXLAN_FLAGS: u32 = 0x0800_0000;
/// With the group policy extension there are a G flag, D and A flags and a group as well.
const VXLAN_GROUP_POLICY_FLAGS: u32 = 0x8800_0000;
const VXLAN_GROUP_POLICY_MASK: u32 = 0xffb7_0000;

const GENEVE_PORT: u32 = 6081;
/// UDP header, tunnel header, and an IPv4 header in Geneve.
const SMALLEST_TUNNEL: u32 = 8 + 8 + 20;
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
        if link == Link::None {
            self.state = match reader.u8(0).ok_or(ParseError::Truncated)? >> 4 {
                4 => state::IPV4,
                6 => state::IPV6,
                _ => return Err(ParseError::NotIp),
            };
        }
        for _ in 0..MAX_STEPS {
            reader.step();
            if self.offset > LAST_HEADER {
                return Err(ParseError::TooDeep);
            }
            match self.state {
                state::ETHERNET => self.ethernet(reader)?,
                state::ETHER_TYPE => self.ether_type(reader)?,
                state::IPV4 => self.ipv4(reader)?,
                state::IPV6 => self.ipv6(reader)?,
                state::EXTENSION => self.extension(reader)?,
                state::TRANSPORT => self.transport(reader, vxlan_ports)?,
                _ => return Ok(()),
            }
        }
        if self.state == state::DONE && self.offset <= LAST_HEADER {
            Ok(())
        } else {
            Err(ParseError::TooDeep)
        }
    }

    #[inline(always)]
    fn ethernet<R: Reader>(&mut self, reader: &R) -> Result<(), ParseError> {
        let ether_type = reader.u16(self.offset + 12).ok_or(ParseError::Truncated)?;
        self.ether_type = u32::from(ether_type);
        self.offset += 14;
        self.state = state::ETHER_TYPE;
        Ok(())
    }

    #[inline(always)]
    fn ether_type<R: Reader>(&mut self, reader: &R) -> Result<(), ParseError> {
        match self.ether_type {
            ETHER_TYPE_IPV4 => self.state = state::IPV4,
            ETHER_TYPE_IPV6 => self.state = state::IPV6,
            ETHER_TYPE_VLAN | ETHER_TYPE_QINQ | ETHER_TYPE_QINQ_OLD => {
                let ether_type = reader.u16(self.offset + 2).ok_or(ParseError::Truncated)?;
                self.ether_type = u32::from(ether_type);
                self.offset += 4;
            }
            _ => return Err(ParseError::NotIp),
        }
        Ok(())
    }

    /// RFC 791.
    #[inline(always)]
    fn ipv4<R: Reader>(&mut self, reader: &R) -> Result<(), ParseError> {
        let at = self.offset;
        let first = u32::from(reader.u8(at).ok_or(ParseError::Truncated)?);
        let header_length = (first & 0xf) * 4;
        if first >> 4 != 4 || header_length < 20 {
            return Err(ParseError::Malformed);
        }
        let total_length = u32::from(reader.u16(at + 2).ok_or(ParseError::Truncated)?);
        let identification = u32::from(reader.u16(at + 4).ok_or(ParseError::Truncated)?);
        let fragment = u32::from(reader.u16(at + 6).ok_or(ParseError::Truncated)?);
        let protocol = u32::from(reader.u8(at + 9).ok_or(ParseError::Truncated)?);
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
        if self.flags & u32::from(FLAG_FRAGMENT) == 0 {
            // The only extension header of IPv4.
            self.state =
                if protocol == PROTOCOL_AUTHENTICATION { state::EXTENSION } else { state::TRANSPORT };
        }
        Ok(())
    }

    /// RFC 8200.
    #[inline(always)]
    fn ipv6<R: Reader>(&mut self, reader: &R) -> Result<(), ParseError> {
        let at = self.offset;
        if reader.u8(at).ok_or(ParseError::Truncated)? >> 4 != 6 {
            return Err(ParseError::Malformed);
        }
        let payload_length = u32::from(reader.u16(at + 4).ok_or(ParseError::Truncated)?);
        let next = u32::from(reader.u8(at + 6).ok_or(ParseError::Truncated)?);
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
        self.state = state::EXTENSION;
        Ok(())
    }

    /// One extension header (RFC 8200, 4; authentication header: RFC 4302), or none of them.
    #[inline(always)]
    fn extension<R: Reader>(&mut self, reader: &R) -> Result<(), ParseError> {
        let at = self.offset;
        match self.protocol {
            PROTOCOL_HOP_BY_HOP
            | PROTOCOL_ROUTING
            | PROTOCOL_DESTINATION_OPTIONS
            | PROTOCOL_MOBILITY
            | PROTOCOL_HIP
            | PROTOCOL_SHIM6 => {
                let length = u32::from(reader.u8(at + 1).ok_or(ParseError::Truncated)?);
                self.pass_extension(reader, (length + 1) * 8)
            }
            PROTOCOL_AUTHENTICATION => {
                let length = u32::from(reader.u8(at + 1).ok_or(ParseError::Truncated)?);
                self.pass_extension(reader, (length + 2) * 4)
            }
            PROTOCOL_FRAGMENT => {
                let fragment = u32::from(reader.u16(at + 2).ok_or(ParseError::Truncated)?);
                self.identification = reader.u32(at + 4).ok_or(ParseError::Truncated)?;
                self.pass_extension(reader, 8)?;
                self.note_fragment(fragment & 0xfff8, fragment & 1 != 0);
                Ok(())
            }
            _ => {
                self.state = state::TRANSPORT;
                Ok(())
            }
        }
    }

    #[inline(always)]
    fn pass_extension<R: Reader>(&mut self, reader: &R, length: u32) -> Result<(), ParseError> {
        self.protocol = u32::from(reader.u8(self.offset).ok_or(ParseError::Truncated)?);
        self.offset += length;
        self.transport = self.offset;
        Ok(())
    }

    /// Notes whether this IP packet is a fragment; if so the walk ends here, so that no header behind finds
    /// anything of this.
    #[inline(always)]
    fn note_fragment(&mut self, offset: u32, more: bool) {
        self.fragment_offset = offset;
        if more {
            self.flags |= u32::from(FLAG_MORE_FRAGMENTS);
        }
        if more || offset != 0 {
            self.flags |= u32::from(FLAG_FRAGMENT);
            self.state = state::DONE;
        }
    }

    /// Looks whether another packet is inside.
    #[inline(always)]
    fn transport<R: Reader>(&mut self, reader: &R, vxlan_ports: &[u16; 4]) -> Result<(), ParseError> {
        self.transport = self.offset;
        self.state = state::DONE;
        match self.protocol {
            PROTOCOL_IPV4 => {
                let kind = if self.version == 4 { TUNNEL_IPIP } else { TUNNEL_IP4_IN_IP6 };
                self.enter(kind, 0, 0, 0, state::IPV4);
            }
            PROTOCOL_IPV6 => {
                let kind = if self.version == 4 { TUNNEL_SIT } else { TUNNEL_IP6_IN_IP6 };
                self.enter(kind, 0, 0, 0, state::IPV6);
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
        let first = u32::from(reader.u8(at)?);
        let (header_length, protocol, is_later_fragment) = match first >> 4 {
            4 => ((first & 0xf) * 4, reader.u8(at + 9)?, reader.u16(at + 6)? & 0x1fff != 0),
            6 => (40, reader.u8(at + 6)?, false),
            _ => return None,
        };
        let transport = at + header_length;
        if header_length < 20 || transport > self.end {
            return None;
        }
        self.quote = at;
        self.quote_version = first >> 4;
        self.quote_protocol = u32::from(protocol);
        if !is_later_fragment && transport + 8 <= self.end {
            self.quote_transport = transport;
        }
        Some(())
    }

    #[inline(always)]
    fn udp<R: Reader>(&mut self, reader: &R, vxlan_ports: &[u16; 4]) -> Result<(), ParseError> {
        let at = self.offset;
        let port = reader.u16(at + 2).ok_or(ParseError::Truncated)?;
        let [first, second, third, fourth] = *vxlan_ports;
        let is_vxlan = port != 0 && (port == first || port == second || port == third || port == fourth);
        if !is_vxlan && u32::from(port) != GENEVE_PORT {
            return Ok(());
        }
        // A datagram too short for any packet inside is some other protocol's on that port; what may be behind it
        // is Ethernet padding.
        if self.end < at + SMALLEST_TUNNEL {
            return Ok(());
        }
        let header = reader.u32(at + 8).ok_or(ParseError::Truncated)?;
        let identifier = reader.u32(at + 12).ok_or(ParseError::Truncated)?;
        // Reserved in both; with it a datagram of some other protocol is hardly taken for a tunnel's.
        if identifier & 0xff != 0 {
            return Ok(());
        }
        let port = u32::from(port);
        if is_vxlan {
            if header == VXLAN_FLAGS || header & VXLAN_GROUP_POLICY_MASK == VXLAN_GROUP_POLICY_FLAGS {
                self.enter(TUNNEL_VXLAN, identifier >> 8, port, 16, state::ETHERNET);
            }
        } else if header & GENEVE_FIXED_MASK == 0 {
            let length = 16 + ((header >> 24) & 0x3f) * 4;
            if let Some(next) = after_ether_type(header & 0xffff) {
                self.enter(TUNNEL_GENEVE, identifier >> 8, port, length, next);
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
        let header = reader.u32(self.offset).ok_or(ParseError::Truncated)?;
        // Routing is obsolete, version 1 is PPTP.
        if header & (ROUTING | VERSION) != 0 {
            return Ok(());
        }
        let Some(next) = after_ether_type(header & 0xffff) else { return Ok(()) };
        let mut length = 4;
        if header & CHECKSUM != 0 {
            length += 4;
        }
        let mut key = 0;
        if header & KEY != 0 {
            key = reader.u32(self.offset + length).ok_or(ParseError::Truncated)?;
            length += 4;
        }
        if header & SEQUENCE != 0 {
            length += 4;
        }
        self.enter(TUNNEL_GRE, key, 0, length, next);
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
        self.state = next;
    }
}

const _: () = assert!(MAX_TUNNELS == 2, "Headers has one field for each tunnel");

/// Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792); 1 to 4 (RFC 4443).
#[inline(always)]
pub(crate) const fn is_icmp_error(protocol: u32, kind: u8) -> bool {
    if protocol == PROTOCOL_ICMP { matches!(kind, 3..=5 | 11 | 12) } else { matches!(kind, 1..=4) }
}

/// The state for the payload of a tunnel that names it by EtherType.
#[inline(always)]
const fn after_ether_type(ether_type: u32) -> Option<u32> {
    match ether_type {
        ETHER_TYPE_IPV4 => Some(state::IPV4),
        ETHER_TYPE_IPV6 => Some(state::IPV6),
        ETHER_TYPE_BRIDGING => Some(state::ETHERNET),
        _ => None,
    }
}
