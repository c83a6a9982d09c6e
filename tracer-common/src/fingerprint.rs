//! The fingerprint: a 64-bit hash of what veth, tunnels, routers and NAT leave alone in a packet, so that every
//! observation point computes the same number for the same packet (trajectory sampling, Duffield & Grossglauser,
//! SIGCOMM 2000; hash-based selection, RFC 5475).
//!
//! Never part of it: addresses, ports, TTL, DSCP and ECN, checksums, ICMP echo identifier. What is:
//!
//! | packet | hashed |
//! |---|---|
//! | every one | protocol; IPv4 identification where not zero |
//! | TCP | seq, ack, SYN and RST, TSval where present |
//! | UDP | payload length on the wire (segment size of a GSO packet), first 32 bytes of payload |
//! | ICMP echo | type, seq, payload length, first 32 bytes of payload |
//! | ICMP error | type, code and what NAT leaves alone of the packet it quotes |
//! | SCTP | TSN of the first DATA chunk; else the first 32 bytes behind the common header |
//! | fragment | identification, offset |
//! | any other | payload length, first 32 bytes of payload |
//!
//! PSH, FIN and the length stay out for TCP, so that the first segment of a GSO packet keeps its fingerprint.

use crate::packet::{Headers, Reader, describe};
use crate::record::{FLAG_FRAGMENT, FLAG_TCP_TIMESTAMP, HopRecord};

/// Bytes of payload that are hashed at most.
pub const PAYLOAD_PREFIX: u32 = 32;

const TCP_SYN_RST: u8 = 0b0000_0110;

/// The fingerprint of a packet whose record is filled but for it; `payload` is the offset of what is behind the
/// transport header. `None` if the packet is cut before the bytes that it needs.
#[inline(always)]
pub(crate) fn of<R: Reader>(reader: &R, headers: &Headers, record: &HopRecord, payload: u32) -> Option<u64> {
    let hash = begin(headers.protocol, headers.identification);
    if record.flags & FLAG_FRAGMENT != 0 {
        return Some(finish(mix(hash, 1 << 16 | u64::from(headers.fragment_offset))));
    }
    let length = record.payload_length;
    match headers.protocol {
        describe::PROTOCOL_TCP => {
            let timestamp = if record.flags & FLAG_TCP_TIMESTAMP != 0 { record.timestamp_value } else { 0 };
            Some(tcp(hash, (record.sequence, record.acknowledgment), record.tcp_flags, timestamp))
        }
        describe::PROTOCOL_ICMP | describe::PROTOCOL_ICMPV6 => {
            let kind = u64::from(record.icmp_type) | u64::from(record.icmp_code) << 8;
            if describe::is_icmp_error(headers.protocol, record.icmp_type) {
                // The record's sequence is the quoted packet's, with what NAT changes.
                return quoted(reader, mix(hash, kind), payload, headers.end).map(finish);
            }
            let hash = mix(hash, kind | u64::from(record.sequence) << 16);
            prefix(reader, mix(hash, u64::from(length)), payload, length).map(finish)
        }
        describe::PROTOCOL_SCTP => {
            if record.sequence != 0 {
                return Some(finish(mix(hash, u64::from(record.sequence))));
            }
            prefix(reader, hash, payload, length).map(finish)
        }
        _ => {
            let on_wire = on_wire(record.gso_size, length);
            prefix(reader, mix(hash, u64::from(on_wire)), payload, on_wire).map(finish)
        }
    }
}

/// What the hash of every packet begins with.
#[inline(always)]
pub(crate) const fn begin(protocol: u32, identification: u32) -> u64 {
    mix(SEED, protocol as u64 | (identification as u64) << 32)
}

/// The fingerprint of a TCP segment; `timestamp` is its TSval, 0 where it has none.
#[inline(always)]
pub(crate) const fn tcp(
    begun: u64,
    (sequence, acknowledgment): (u32, u32),
    flags: u8,
    timestamp: u32,
) -> u64 {
    let hash = mix(begun, sequence as u64 | (acknowledgment as u64) << 32);
    finish(mix(hash, timestamp as u64 | ((flags & TCP_SYN_RST) as u64) << 32))
}

/// Bytes of payload that a datagram has on the wire: of a GSO packet, which stands for several, its segments' size.
#[inline(always)]
pub(crate) const fn on_wire(gso_size: u16, length: u32) -> u32 {
    let segment = gso_size as u32;
    if segment == 0 || segment > length { length } else { segment }
}

/// The fingerprint of a datagram with at least [`PAYLOAD_PREFIX`] bytes `on_wire`.
#[inline(always)]
pub(crate) fn long_datagram<R: Reader>(reader: &R, begun: u64, payload: u32, on_wire: u32) -> Option<u64> {
    prefix(reader, mix(begun, on_wire as u64), payload, PAYLOAD_PREFIX).map(finish)
}

/// Hashes the first bytes of `length` bytes of payload.
#[inline(always)]
fn prefix<R: Reader>(reader: &R, mut hash: u64, payload: u32, length: u32) -> Option<u64> {
    if length < 8 {
        return Some(mix(hash, short(reader, payload, length)?));
    }
    let length = if length > PAYLOAD_PREFIX { PAYLOAD_PREFIX } else { length };
    hash = mix(hash, reader.word(payload)?);
    if length > 16 {
        hash = mix(hash, reader.word(payload + 8)?);
    }
    if length > 24 {
        hash = mix(hash, reader.word(payload + 16)?);
    }
    // The last word overlaps the one before where the length is no multiple of 8.
    Some(mix(hash, reader.word(payload + length - 8)?))
}

/// Fewer than eight bytes as a word.
#[inline(always)]
fn short<R: Reader>(reader: &R, payload: u32, length: u32) -> Option<u64> {
    let mut word = 0;
    let mut index = 0;
    while index < 7 {
        if index < length {
            word |= u64::from(reader.u8(payload + index)?) << (8 * index);
        }
        index += 1;
    }
    Some(word)
}

/// Hashes what NAT leaves alone of the packet that an ICMP error quotes in the bytes from `at` to `end`: its
/// identification and length, and of its transport header the TCP sequence number, the UDP length with the first
/// eight bytes of payload, or the echo sequence number; less where less is quoted.
#[inline(always)]
fn quoted<R: Reader>(reader: &R, hash: u64, at: u32, end: u32) -> Option<u64> {
    if at + 20 > end {
        return Some(hash);
    }
    let first = u32::from(reader.u8(at)?);
    let (protocol, identity, transport) = if first >> 4 == 4 {
        (reader.u8(at + 9)?, reader.u32(at + 2)?, at + (first & 0xf) * 4)
    } else {
        (reader.u8(at + 6)?, u32::from(reader.u16(at + 4)?), at + 40)
    };
    let hash = mix(hash, u64::from(identity) | u64::from(protocol) << 32);
    if transport + 8 > end {
        return Some(hash);
    }
    let second_word = reader.u32(transport + 4)?;
    match u32::from(protocol) {
        describe::PROTOCOL_TCP => Some(mix(hash, u64::from(second_word))),
        describe::PROTOCOL_UDP => {
            let hash = mix(hash, u64::from(second_word >> 16));
            if transport + 16 > end { Some(hash) } else { Some(mix(hash, reader.word(transport + 8)?)) }
        }
        describe::PROTOCOL_ICMP | describe::PROTOCOL_ICMPV6 => {
            Some(mix(hash, u64::from(second_word & 0xffff)))
        }
        _ => Some(hash),
    }
}

const SEED: u64 = 0x7472_6163_6572_0001;
/// 2^64 divided by the golden ratio, odd.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline(always)]
const fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 32)
}

/// Spreads every input bit over the whole word (the finalizer of MurmurHash3).
#[inline(always)]
const fn finish(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
