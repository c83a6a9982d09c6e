//! The hop record of a parsed packet.

pub(crate) use super::walk::{PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_UDP, is_icmp_error};
use super::{Headers, ParseError, Reader, TunnelAt};
use crate::filter::mapped;
use crate::fingerprint;
use crate::record::{FLAG_PORTS, FLAG_TCP_TIMESTAMP, HopRecord, QuoteRecord, Tunnel};

pub(crate) const PROTOCOL_TCP: u32 = 6;
pub(crate) const PROTOCOL_SCTP: u32 = 132;

const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_ECHO_REQUEST: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;
const ICMPV6_ECHO_REPLY: u8 = 129;

const SCTP_CHUNK_DATA: u8 = 0;

/// NOP NOP TIMESTAMP(10): how every common stack writes the option (RFC 7323, appendix A).
pub(super) const USUAL_TIMESTAMP_OPTION: u32 = 0x0101_080a;
/// No stack writes more options than this; a packet with more has no timestamp for us, at every hop alike.
const MAX_TCP_OPTIONS: u32 = 12;

impl Headers {
    /// Source and destination of the innermost packet, IPv4 as IPv4-mapped IPv6.
    ///
    /// # Errors
    /// [`ParseError::Truncated`].
    #[inline(always)]
    pub fn addresses<R: Reader>(&self, reader: &R) -> Result<([u8; 16], [u8; 16]), ParseError> {
        addresses(reader, self.network, self.version).ok_or(ParseError::Truncated)
    }

    /// Source and destination of the packet that an ICMP error quotes, IPv4 as IPv4-mapped IPv6; only where
    /// [`Headers::quote`] is not 0.
    ///
    /// # Errors
    /// [`ParseError::Truncated`].
    #[inline(always)]
    pub fn quoted_addresses<R: Reader>(&self, reader: &R) -> Result<([u8; 16], [u8; 16]), ParseError> {
        addresses(reader, self.quote, self.quote_version).ok_or(ParseError::Truncated)
    }

    /// Source and destination port in host order, zero where there are none. Of an ICMP error: those of the packet
    /// that it quotes.
    ///
    /// # Errors
    /// [`ParseError::Truncated`].
    #[inline(always)]
    pub fn ports<R: Reader>(&self, reader: &R) -> Result<(u16, u16), ParseError> {
        let (protocol, at) = match self.quote_transport {
            0 => (self.protocol, self.transport),
            quoted => (self.quote_protocol, quoted),
        };
        if self.is_later_fragment() || !has_ports(protocol) {
            return Ok((0, 0));
        }
        let both = reader.u32(at).ok_or(ParseError::Truncated)?;
        Ok(((both >> 16) as u16, both as u16))
    }

    /// Fills all of `record` that comes from the packet's bytes, fingerprint included. `record.gso_size` must be
    /// set before: it is part of a datagram's identity. The fields of the observation are left alone.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] if the packet ends before its headers, [`ParseError::Malformed`] for an impossible
    /// TCP header length; `record` is then partly filled.
    #[inline(always)]
    pub fn describe<R: Reader>(&mut self, reader: &R, record: &mut HopRecord) -> Result<(), ParseError> {
        self.network_fields(reader, record).ok_or(ParseError::Truncated)?;
        reader.step();
        let payload =
            if self.is_later_fragment() { self.transport } else { self.transport_fields(reader, record)? };
        // What was read may have been Ethernet padding.
        if payload > self.end {
            return Err(ParseError::Truncated);
        }
        record.payload_length = self.end - payload;
        reader.step();
        record.tunnel_count = self.tunnel_count as u8;
        describe_tunnel(reader, &self.outer, &mut record.tunnels[0]).ok_or(ParseError::Truncated)?;
        describe_tunnel(reader, &self.middle, &mut record.tunnels[1]).ok_or(ParseError::Truncated)?;
        reader.step();
        record.fingerprint = fingerprint::of(reader, self, record, payload).ok_or(ParseError::Truncated)?;
        Ok(())
    }

    /// The fingerprint alone, the same that [`Headers::describe`] gives, without the rest of the record. `scratch` need
    /// not be fresh, but its `gso_size` must be the packet's; what it holds afterwards is of no use.
    ///
    /// # Errors
    /// As [`Headers::describe`].
    #[inline(always)]
    pub fn fingerprint<R: Reader>(&mut self, reader: &R, scratch: &mut HopRecord) -> Result<u64, ParseError> {
        clear_transport(scratch);
        scratch.flags = self.flags as u8;
        let payload =
            if self.is_later_fragment() { self.transport } else { self.transport_fields(reader, scratch)? };
        if payload > self.end {
            return Err(ParseError::Truncated);
        }
        scratch.payload_length = self.end - payload;
        reader.step();
        fingerprint::of(reader, self, scratch, payload).ok_or(ParseError::Truncated)
    }

    #[inline(always)]
    fn network_fields<R: Reader>(&self, reader: &R, record: &mut HopRecord) -> Option<()> {
        clear_transport(record);
        let (source, destination) = addresses(reader, self.network, self.version)?;
        record.source = source;
        record.destination = destination;
        record.version = self.version as u8;
        record.protocol = self.protocol as u8;
        record.identification = self.identification;
        record.fragment_offset = self.fragment_offset as u16;
        record.flags = self.flags as u8;
        record.reserved = 0;
        if self.version == 4 {
            record.traffic_class = reader.u8(self.network + 1)?;
            record.ttl = reader.u8(self.network + 8)?;
        } else {
            record.traffic_class = (reader.u16(self.network)? >> 4) as u8;
            record.ttl = reader.u8(self.network + 7)?;
        }
        Some(())
    }

    /// Fills what the transport header says; gives the offset of the payload.
    #[inline(always)]
    fn transport_fields<R: Reader>(&mut self, reader: &R, record: &mut HopRecord) -> Result<u32, ParseError> {
        let at = self.transport;
        if has_ports(self.protocol) {
            let both = reader.u32(at).ok_or(ParseError::Truncated)?;
            record.source_port = ((both >> 16) as u16).to_be_bytes();
            record.destination_port = (both as u16).to_be_bytes();
            record.flags |= FLAG_PORTS;
        }
        match self.protocol {
            PROTOCOL_TCP => self.tcp_fields(reader, record),
            PROTOCOL_UDP => {
                // A datagram may end behind its header.
                if is_dns(record) && at + 10 <= self.end {
                    record.sequence = u32::from(reader.u16(at + 8).ok_or(ParseError::Truncated)?);
                }
                Ok(at + 8)
            }
            PROTOCOL_ICMP | PROTOCOL_ICMPV6 => self.icmp_fields(reader, record).ok_or(ParseError::Truncated),
            PROTOCOL_SCTP => {
                // A packet that ends behind the common header may have padding there.
                if at + 20 <= self.end && reader.u8(at + 12) == Some(SCTP_CHUNK_DATA) {
                    record.sequence = reader.u32(at + 16).ok_or(ParseError::Truncated)?;
                }
                Ok(at + 12)
            }
            _ => Ok(at),
        }
    }

    /// RFC 9293.
    #[inline(always)]
    fn tcp_fields<R: Reader>(&mut self, reader: &R, record: &mut HopRecord) -> Result<u32, ParseError> {
        let at = self.transport;
        record.sequence = reader.u32(at + 4).ok_or(ParseError::Truncated)?;
        record.acknowledgment = reader.u32(at + 8).ok_or(ParseError::Truncated)?;
        let offset_flags_window = reader.u32(at + 12).ok_or(ParseError::Truncated)?;
        record.tcp_flags = (offset_flags_window >> 16) as u8;
        record.window = offset_flags_window as u16;
        let header_length = (offset_flags_window >> 28) * 4;
        if header_length < 20 {
            return Err(ParseError::Malformed);
        }
        if header_length >= 32 && reader.u32(at + 20).ok_or(ParseError::Truncated)? == USUAL_TIMESTAMP_OPTION
        {
            set_timestamps(reader, record, at + 24).ok_or(ParseError::Truncated)?;
        } else if header_length > 20 {
            (self.offset, self.limit) = (at + 20, at + header_length);
            self.unusual_options(reader, record).ok_or(ParseError::Truncated)?;
        }
        Ok(at + header_length)
    }

    /// Looks from the walk's position to its limit for the timestamp option where it is not in its usual place (a SYN,
    /// exotic stacks). Options that make no sense end the search: there is no timestamp then. `None` if the packet is cut
    /// before the limit.
    #[inline(always)]
    fn unusual_options<R: Reader>(&mut self, reader: &R, record: &mut HopRecord) -> Option<()> {
        const END: u8 = 0;
        const NO_OPERATION: u8 = 1;
        const TIMESTAMPS: u8 = 8;
        for _ in 0..MAX_TCP_OPTIONS {
            reader.step();
            let (at, end) = (reader.again(&self.offset), reader.again(&self.limit));
            if at + 2 > end {
                break;
            }
            let kind_and_length = reader.u16(at)?;
            let kind = (kind_and_length >> 8) as u8;
            let length = u32::from(kind_and_length & 0xff);
            match kind {
                END => break,
                NO_OPERATION => self.offset = at + 1,
                TIMESTAMPS if length == 10 && at + 10 <= end => {
                    return set_timestamps(reader, record, at + 2);
                }
                _ if length < 2 => break,
                _ => self.offset = at + length,
            }
        }
        Some(())
    }

    #[inline(always)]
    fn icmp_fields<R: Reader>(&self, reader: &R, record: &mut HopRecord) -> Option<u32> {
        let at = self.transport;
        let kind_and_code = reader.u16(at)?;
        record.icmp_type = (kind_and_code >> 8) as u8;
        record.icmp_code = kind_and_code as u8;
        if is_echo(self.protocol, record.icmp_type) {
            let identifier_and_sequence = reader.u32(at + 4)?;
            record.icmp_identifier = (identifier_and_sequence >> 16) as u16;
            record.sequence = identifier_and_sequence & 0xffff;
        }
        if self.quote != 0 {
            record.set_quote(&self.quote(reader)?);
        }
        Some(at + 8)
    }

    #[inline(always)]
    fn quote<R: Reader>(&self, reader: &R) -> Option<QuoteRecord> {
        let (_, destination) = addresses(reader, self.quote, self.quote_version)?;
        let identification = if self.quote_version == 4 { reader.u16(self.quote + 4)? } else { 0 };
        let transport = match self.quote_transport {
            0 => None,
            at => Some((reader.u32(at)?, reader.u32(at + 4)?)),
        };
        let protocol = self.quote_protocol as u8;
        Some(QuoteRecord { destination, identification, protocol, transport, mtu: self.mtu(reader)? })
    }

    /// The MTU that an ICMP error tells of, 0 for none: fragmentation needed (RFC 1191), packet too big (RFC 4443).
    #[inline(always)]
    fn mtu<R: Reader>(&self, reader: &R) -> Option<u16> {
        const FRAGMENTATION_NEEDED: u16 = 0x0304;
        const PACKET_TOO_BIG: u16 = 0x0200;
        let kind_and_code = reader.u16(self.transport)?;
        let mtu = match (self.protocol, kind_and_code) {
            (PROTOCOL_ICMP, FRAGMENTATION_NEEDED) => u32::from(reader.u16(self.transport + 6)?),
            (PROTOCOL_ICMPV6, PACKET_TOO_BIG) => reader.u32(self.transport + 4)?,
            _ => 0,
        };
        Some(if mtu > 0xffff { 0xffff } else { mtu as u16 })
    }
}

/// Clears what only some transports set: `record` need not be fresh.
#[inline(always)]
pub(super) const fn clear_transport(record: &mut HopRecord) {
    record.source_port = [0; 2];
    record.destination_port = [0; 2];
    record.sequence = 0;
    record.acknowledgment = 0;
    record.timestamp_value = 0;
    record.timestamp_echo = 0;
    record.window = 0;
    record.icmp_identifier = 0;
    record.tcp_flags = 0;
    record.icmp_type = 0;
    record.icmp_code = 0;
}

#[inline(always)]
const fn has_ports(protocol: u32) -> bool {
    matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_SCTP)
}

/// Whether a datagram is to or from the port of DNS (RFC 1035, 4.2.1).
#[inline(always)]
pub(super) const fn is_dns(record: &HopRecord) -> bool {
    const DNS: u16 = 53;
    u16::from_be_bytes(record.source_port) == DNS || u16::from_be_bytes(record.destination_port) == DNS
}

#[inline(always)]
pub(crate) const fn is_echo(protocol: u32, kind: u8) -> bool {
    if protocol == PROTOCOL_ICMP {
        matches!(kind, ICMP_ECHO_REQUEST | ICMP_ECHO_REPLY)
    } else {
        matches!(kind, ICMPV6_ECHO_REQUEST | ICMPV6_ECHO_REPLY)
    }
}

#[inline(always)]
fn addresses<R: Reader>(reader: &R, network: u32, version: u32) -> Option<([u8; 16], [u8; 16])> {
    if version == 4 {
        let both = reader.word(network + 12)?;
        return Some((mapped_low(both), mapped_low(both >> 32)));
    }
    let source = wide(reader.word(network + 8)?, reader.word(network + 16)?);
    let destination = wide(reader.word(network + 24)?, reader.word(network + 32)?);
    Some((source, destination))
}

#[inline(always)]
pub(super) const fn mapped_low(word: u64) -> [u8; 16] {
    mapped((word as u32).to_le_bytes())
}

#[inline(always)]
pub(super) const fn wide(low: u64, high: u64) -> [u8; 16] {
    (low as u128 | (high as u128) << 64).to_le_bytes()
}

#[inline(always)]
fn set_timestamps<R: Reader>(reader: &R, record: &mut HopRecord, at: u32) -> Option<()> {
    record.timestamp_value = reader.u32(at)?;
    record.timestamp_echo = reader.u32(at + 4)?;
    record.flags |= FLAG_TCP_TIMESTAMP;
    Some(())
}

#[inline(always)]
pub(super) fn describe_tunnel<R: Reader>(reader: &R, at: &TunnelAt, tunnel: &mut Tunnel) -> Option<()> {
    if at.kind == 0 {
        *tunnel = Tunnel::default();
        return Some(());
    }
    let version = u32::from(reader.u8(at.network)? >> 4);
    let (source, destination) = addresses(reader, at.network, version)?;
    tunnel.source = source;
    tunnel.destination = destination;
    tunnel.identifier = at.identifier;
    tunnel.port = (at.port as u16).to_be_bytes();
    tunnel.kind = at.kind as u8;
    tunnel.ttl = reader.u8(at.network + if version == 4 { 8 } else { 7 })?;
    Some(())
}
