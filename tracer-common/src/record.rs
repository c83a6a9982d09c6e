//! The hop record: what one observation point reports of one packet; and the drop record: what the kernel said when it
//! threw one away. Both come through one ring, see [`Record`]. While packets are captured, a hop record has the
//! packet's first bytes behind it.

/// Most encapsulations that a record describes, outermost first.
pub const MAX_TUNNELS: usize = 2;

/// The packet was arriving at the device (tc ingress).
pub const DIRECTION_INGRESS: u8 = 0;
/// The packet was leaving through the device (tc egress).
pub const DIRECTION_EGRESS: u8 = 1;
/// The packet was at no hook: this is the beginning of a [`DropRecord`].
pub const DIRECTION_NONE: u8 = 2;

/// [`HopRecord::flags`]: the TCP timestamp option was present.
pub const FLAG_TCP_TIMESTAMP: u8 = 1 << 0;
/// [`HopRecord::flags`]: a fragment (offset not zero, or more fragments follow).
pub const FLAG_FRAGMENT: u8 = 1 << 1;
/// [`HopRecord::flags`]: more fragments follow.
pub const FLAG_MORE_FRAGMENTS: u8 = 1 << 2;
/// [`HopRecord::flags`]: there were more encapsulations than [`MAX_TUNNELS`]; the inner packet was not reached.
pub const FLAG_TUNNEL_DEPTH: u8 = 1 << 3;
/// [`HopRecord::flags`]: ports are valid (TCP, UDP, SCTP and not a later fragment).
pub const FLAG_PORTS: u8 = 1 << 4;
/// [`HopRecord::flags`]: an ICMP error that quotes the IP header of another packet; see [`HopRecord::quote`].
pub const FLAG_QUOTE: u8 = 1 << 5;
/// [`HopRecord::flags`]: the quote has the first eight bytes of a transport header as well.
pub const FLAG_QUOTE_TRANSPORT: u8 = 1 << 6;

pub const TUNNEL_VXLAN: u8 = 1;
pub const TUNNEL_GENEVE: u8 = 2;
/// IPv4 in IPv4 (protocol 4 in IPv4, RFC 2003).
pub const TUNNEL_IPIP: u8 = 3;
/// IPv6 in IPv4 (protocol 41 in IPv4, RFC 4213).
pub const TUNNEL_SIT: u8 = 4;
/// IPv4 in IPv6 (protocol 4 in IPv6, RFC 2473).
pub const TUNNEL_IP4_IN_IP6: u8 = 5;
/// IPv6 in IPv6 (protocol 41 in IPv6, RFC 2473).
pub const TUNNEL_IP6_IN_IP6: u8 = 6;
/// GRE (RFC 2784, 2890) with IPv4, IPv6 or Ethernet inside.
pub const TUNNEL_GRE: u8 = 7;

/// One encapsulation around the packet, as the outer headers say.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// Outer source, IPv4 as IPv4-mapped IPv6.
    pub source: [u8; 16],
    /// Outer destination, IPv4 as IPv4-mapped IPv6.
    pub destination: [u8; 16],
    /// VNI of VXLAN and Geneve (24 bits), key of GRE; 0 where there is none.
    pub identifier: u32,
    /// Outer UDP destination port, big-endian; 0 where there is none.
    pub port: [u8; 2],
    /// `TUNNEL_*`; 0 for an unused entry.
    pub kind: u8,
    /// Outer TTL or hop limit.
    pub ttl: u8,
}

/// What one observation point reports of one packet. All fields but the first group describe the innermost
/// IP packet and come from its bytes alone.
///
/// An ICMP error has no use for ports and TCP's fields. What it quotes of another packet is kept in them, to be read
/// with [`HopRecord::quote`] where [`FLAG_QUOTE`] is set, so that no other record is longer for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HopRecord {
    // --- the observation ---
    /// `bpf_ktime_get_ns` (CLOCK_MONOTONIC of the observing kernel), nanoseconds.
    pub time_ns: u64,
    /// Bit n: follow n wants this packet.
    pub follows: u64,
    /// Number that userspace gave the network namespace of the hook.
    pub space: u32,
    /// Device of the hook, unique within its namespace only.
    pub ifindex: u32,
    /// `skb->len`: bytes from the outermost header that the device has, encapsulation included.
    pub length: u32,
    /// `DIRECTION_*`.
    pub direction: u8,
    /// Number of valid entries in [`HopRecord::tunnels`].
    pub tunnel_count: u8,
    /// GSO: number of segments that this packet stands for; 0 or 1 for a plain packet.
    pub gso_segments: u16,

    // --- the packet ---
    /// See [`crate::fingerprint`].
    pub fingerprint: u64,
    /// IPv4 as IPv4-mapped IPv6.
    pub source: [u8; 16],
    pub destination: [u8; 16],
    /// Big-endian; 0 where the protocol has none.
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
    /// TCP sequence number, SCTP TSN of the first DATA chunk, ICMP echo sequence number, ID of a DNS message (UDP port
    /// 53; RFC 1035, 4.1.1).
    pub sequence: u32,
    /// TCP acknowledgment number.
    pub acknowledgment: u32,
    /// TCP TSval, valid with [`FLAG_TCP_TIMESTAMP`] (RFC 7323).
    pub timestamp_value: u32,
    /// TCP TSecr, valid with [`FLAG_TCP_TIMESTAMP`].
    pub timestamp_echo: u32,
    /// IPv4 identification (16 bits) or the identification of an IPv6 fragment header; 0 where there is none.
    pub identification: u32,
    /// Bytes behind the transport header, of all segments of a GSO packet together.
    pub payload_length: u32,
    /// GSO: payload bytes per segment; 0 for a plain packet.
    pub gso_size: u16,
    /// TCP window, unscaled.
    pub window: u16,
    /// Bytes, for fragments.
    pub fragment_offset: u16,
    /// ICMP echo identifier (NAT may rewrite it).
    pub icmp_identifier: u16,
    /// 4 or 6.
    pub version: u8,
    /// IANA protocol number behind the IP header and its extensions.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP and ECN byte.
    pub traffic_class: u8,
    /// Byte 13 of the TCP header (CWR ECE URG ACK PSH RST SYN FIN).
    pub tcp_flags: u8,
    pub icmp_type: u8,
    pub icmp_code: u8,
    /// `FLAG_*`.
    pub flags: u8,
    /// Part of a quote ([`HopRecord::quote`]), else 0.
    pub reserved: u32,

    /// Encapsulations around the packet, outermost first; unused entries are zero.
    pub tunnels: [Tunnel; MAX_TUNNELS],
}

/// What an ICMP error says of the packet that caused it. That packet's source is where the error goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuoteRecord {
    /// IPv4 as IPv4-mapped IPv6.
    pub destination: [u8; 16],
    /// IPv4 identification; 0 for IPv6.
    pub identification: u16,
    /// IANA protocol number; for IPv6 that of the first header behind the fixed one.
    pub protocol: u8,
    /// The first eight bytes behind the quoted IP header, where they are quoted and the packet is no later fragment:
    /// two words in host order.
    pub transport: Option<(u32, u32)>,
    /// Longest packet that would have passed, bytes (fragmentation needed, packet too big); 0 where the error does
    /// not say. A larger one is 65535.
    pub mtu: u16,
}

/// Size of a hop record, bytes.
pub const HOP_RECORD_SIZE: usize = 200;
const _: () = assert!(size_of::<HopRecord>() == HOP_RECORD_SIZE);
const _: () = assert!(size_of::<HopRecord>().is_multiple_of(8));
const _: () = assert!(size_of::<Tunnel>() == 40);

/// Bytes of a hop record in the ring buffer: without the entries of [`HopRecord::tunnels`] that it does not use. Most packets
/// use none, and what each record costs is first of all the memory that it goes through.
#[inline(always)]
#[must_use]
pub const fn size_in_ring(tunnel_count: u8) -> usize {
    match tunnel_count {
        0 => HOP_RECORD_SIZE - MAX_TUNNELS * size_of::<Tunnel>(),
        1 => HOP_RECORD_SIZE - (MAX_TUNNELS - 1) * size_of::<Tunnel>(),
        _ => HOP_RECORD_SIZE,
    }
}
const _: () = assert!(MAX_TUNNELS == 2, "a record with none, one or two tunnels");

impl HopRecord {
    /// Decodes a record by copy; `None` if the bytes are not exactly as many as those of a record.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != HOP_RECORD_SIZE {
            return None;
        }
        // SAFETY: the length was checked, the type is repr(C) without padding and valid for any bit pattern,
        // and read_unaligned asks for no alignment.
        Some(unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast::<Self>()) })
    }

    /// Decodes a record as it is in the ring buffer, see [`size_in_ring`]; `None` if the sample has not exactly that size.
    #[must_use]
    pub fn from_ring(sample: &[u8]) -> Option<Self> {
        const TUNNEL_COUNT: usize = core::mem::offset_of!(HopRecord, tunnel_count);
        if sample.len() != size_in_ring(*sample.get(TUNNEL_COUNT)?) {
            return None;
        }
        let mut whole = [0; HOP_RECORD_SIZE];
        whole.get_mut(..sample.len())?.copy_from_slice(sample);
        Self::from_bytes(&whole)
    }

    /// What an ICMP error quotes; `None` for any other packet and for one that quotes less than an IP header.
    #[must_use]
    pub fn quote(&self) -> Option<QuoteRecord> {
        if self.flags & FLAG_QUOTE == 0 {
            return None;
        }
        let mut destination = [0; 16];
        let words = [self.acknowledgment, self.timestamp_value, self.timestamp_echo, self.reserved];
        for (bytes, word) in destination.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        let [first, second] = self.source_port;
        let [third, fourth] = self.destination_port;
        Some(QuoteRecord {
            destination,
            identification: self.window,
            protocol: self.tcp_flags,
            transport: (self.flags & FLAG_QUOTE_TRANSPORT != 0)
                .then_some((u32::from_be_bytes([first, second, third, fourth]), self.sequence)),
            mtu: self.icmp_identifier,
        })
    }

    /// Keeps a quote in the fields that an ICMP error does not use.
    #[inline(always)]
    pub fn set_quote(&mut self, quote: &QuoteRecord) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = quote.destination;
        self.acknowledgment = u32::from_ne_bytes([a, b, c, d]);
        self.timestamp_value = u32::from_ne_bytes([e, f, g, h]);
        self.timestamp_echo = u32::from_ne_bytes([i, j, k, l]);
        self.reserved = u32::from_ne_bytes([m, n, o, p]);
        self.window = quote.identification;
        self.tcp_flags = quote.protocol;
        self.icmp_identifier = quote.mtu;
        self.flags |= FLAG_QUOTE;
        if let Some((first, second)) = quote.transport {
            let [a, b, c, d] = first.to_be_bytes();
            self.source_port = [a, b];
            self.destination_port = [c, d];
            self.sequence = second;
            self.flags |= FLAG_QUOTE_TRANSPORT;
        }
    }
}

/// A packet that the kernel threw away, as its tracepoint `skb:kfree_skb` told.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropRecord {
    /// The packet, from its outermost IP header on. Of the observation: `time_ns`; `follows`; `ifindex` of the packet's
    /// device, 0 where it had none; `length` from the outermost IP header on; `direction` is [`DIRECTION_NONE`]; `space`
    /// is 0, because no entry program ran; GSO as at a hook.
    pub packet: HopRecord,
    /// Address in the kernel of the code that threw the packet away.
    pub location: u64,
    /// `enum skb_drop_reason` of the running kernel: its numbers differ between kernels.
    pub reason: u32,
    /// Inode number of the network namespace of the packet's device, else of its socket or route; 0 where it had none.
    pub netns: u32,
}

/// Size of a drop record in the ring buffer, bytes.
pub const DROP_RECORD_SIZE: usize = HOP_RECORD_SIZE + 16;
const _: () = assert!(size_of::<DropRecord>() == DROP_RECORD_SIZE);
const _: () = assert!(size_of::<DropRecord>().is_multiple_of(8));

impl DropRecord {
    /// Decodes a record by copy; `None` if the sample has not exactly the size of a record, or does not say that it is
    /// one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != DROP_RECORD_SIZE {
            return None;
        }
        // SAFETY: the length was checked, the type is repr(C) without padding and valid for any bit pattern,
        // and read_unaligned asks for no alignment.
        let record = unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast::<Self>()) };
        (record.packet.direction == DIRECTION_NONE).then_some(record)
    }
}

/// Most bytes of a packet behind its hop record; a power of two.
pub const MAX_SNAPLEN: usize = 1 << 14;
const _: () = assert!(MAX_SNAPLEN.is_power_of_two());

/// A hop record and the packet's first bytes behind it, from where its device counts it: the link header, where the
/// device has one, else the IP header.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CapturedRecord {
    pub record: HopRecord,
    /// In the ring only as many as were captured.
    pub bytes: [u8; MAX_SNAPLEN],
}
const _: () = assert!(size_of::<CapturedRecord>() == HOP_RECORD_SIZE + MAX_SNAPLEN);

/// The record and the packet's bytes of a sample with both; `None` for any other.
#[must_use]
pub fn split_captured(sample: &[u8]) -> Option<(HopRecord, &[u8])> {
    let (record, bytes) = sample.split_at_checked(HOP_RECORD_SIZE)?;
    let record = HopRecord::from_bytes(record)?;
    (record.direction != DIRECTION_NONE && matches!(bytes.len(), 1..=MAX_SNAPLEN)).then_some((record, bytes))
}

/// A sample of the ring buffer without a packet's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    Hop(HopRecord),
    Drop(DropRecord),
}

impl Record {
    /// Decodes a sample by copy. The kinds differ in size, and a record says its kind as well (`DIRECTION_*`); `None`
    /// where the two contradict each other.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if let Some(record) = DropRecord::from_bytes(bytes) {
            return Some(Self::Drop(record));
        }
        HopRecord::from_ring(bytes).filter(|record| record.direction != DIRECTION_NONE).map(Self::Hop)
    }
}
