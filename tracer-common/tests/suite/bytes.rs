//! Packets written byte by byte. Nothing here comes from the parser or its constants.

pub(crate) const ETHER_IPV4: u16 = 0x0800;
pub(crate) const ETHER_IPV6: u16 = 0x86dd;
pub(crate) const ETHER_ARP: u16 = 0x0806;
pub(crate) const ETHER_VLAN: u16 = 0x8100;
pub(crate) const ETHER_QINQ: u16 = 0x88a8;
pub(crate) const ETHER_QINQ_OLD: u16 = 0x9100;
pub(crate) const ETHER_BRIDGING: u16 = 0x6558;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ICMP: u8 = 1;
pub(crate) const IPV4: u8 = 4;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const IPV6: u8 = 41;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const GRE: u8 = 47;
pub(crate) const ESP: u8 = 50;
pub(crate) const AUTHENTICATION: u8 = 51;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const NO_NEXT: u8 = 59;
pub(crate) const OPTIONS: u8 = 60;
pub(crate) const SCTP: u8 = 132;

pub(crate) fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

pub(crate) fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    join(&[&[0x02, 0, 0, 0, 0, 1], &[0x02, 0, 0, 0, 0, 2], &ether_type.to_be_bytes(), payload])
}

/// What is behind the EtherType that announces a VLAN tag.
pub(crate) fn vlan(id: u16, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    join(&[&id.to_be_bytes(), &ether_type.to_be_bytes(), payload])
}

/// The IPv4 header, RFC 791.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct V4 {
    pub(crate) source: [u8; 4],
    pub(crate) destination: [u8; 4],
    pub(crate) traffic_class: u8,
    pub(crate) identification: u16,
    /// Flags and offset (in units of eight bytes) as they are in the header.
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) checksum: u16,
    /// A multiple of four bytes.
    pub(crate) options: Vec<u8>,
}

impl Default for V4 {
    fn default() -> Self {
        Self {
            source: [10, 244, 1, 7],
            destination: [10, 244, 2, 9],
            traffic_class: 0,
            identification: 0x1234,
            fragment: 0x4000,
            ttl: 64,
            checksum: 0xbeef,
            options: Vec::new(),
        }
    }
}

impl V4 {
    pub(crate) fn around(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        self.with_length((20 + self.options.len() + payload.len()) as u16, protocol, payload)
    }

    pub(crate) fn with_length(&self, total_length: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
        join(&[
            &[0x40 | (5 + self.options.len() / 4) as u8, self.traffic_class],
            &total_length.to_be_bytes(),
            &self.identification.to_be_bytes(),
            &self.fragment.to_be_bytes(),
            &[self.ttl, protocol],
            &self.checksum.to_be_bytes(),
            &self.source,
            &self.destination,
            &self.options,
            payload,
        ])
    }
}

/// The IPv6 header, RFC 8200.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct V6 {
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
    pub(crate) traffic_class: u8,
    pub(crate) flow_label: u32,
    pub(crate) hop_limit: u8,
}

impl Default for V6 {
    fn default() -> Self {
        Self {
            source: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x07],
            destination: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x09],
            traffic_class: 0,
            flow_label: 0x5_4321,
            hop_limit: 64,
        }
    }
}

impl V6 {
    pub(crate) fn around(&self, next: u8, payload: &[u8]) -> Vec<u8> {
        self.with_length(payload.len() as u16, next, payload)
    }

    pub(crate) fn with_length(&self, payload_length: u16, next: u8, payload: &[u8]) -> Vec<u8> {
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label;
        join(&[
            &first.to_be_bytes(),
            &payload_length.to_be_bytes(),
            &[next, self.hop_limit],
            &self.source,
            &self.destination,
            payload,
        ])
    }
}

/// Hop-by-hop, destination options or routing header of `8 * (1 + units)` bytes.
pub(crate) fn extension(next: u8, units: u8, payload: &[u8]) -> Vec<u8> {
    join(&[&[next, units], &vec![0x3c; 6 + 8 * usize::from(units)], payload])
}

/// RFC 4302, with an integrity check value of 12 bytes.
pub(crate) fn authentication(next: u8, payload: &[u8]) -> Vec<u8> {
    join(&[&[next, 4, 0, 0], &[0x77; 20], payload])
}

/// The fragment header of IPv6; `offset` in bytes.
pub(crate) fn fragment(next: u8, offset: u16, more: bool, identification: u32, payload: &[u8]) -> Vec<u8> {
    let field = offset & 0xfff8 | u16::from(more);
    join(&[&[next, 0], &field.to_be_bytes(), &identification.to_be_bytes(), payload])
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tcp {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) checksum: u16,
    /// A multiple of four bytes.
    pub(crate) options: Vec<u8>,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            source_port: 40_000,
            destination_port: 443,
            sequence: 0x1122_3344,
            acknowledgment: 0x5566_7788,
            flags: 0x18,
            window: 501,
            checksum: 0xcafe,
            options: Vec::new(),
        }
    }
}

impl Tcp {
    pub(crate) fn around(&self, payload: &[u8]) -> Vec<u8> {
        join(&[
            &self.source_port.to_be_bytes(),
            &self.destination_port.to_be_bytes(),
            &self.sequence.to_be_bytes(),
            &self.acknowledgment.to_be_bytes(),
            &[((5 + self.options.len() / 4) as u8) << 4, self.flags],
            &self.window.to_be_bytes(),
            &self.checksum.to_be_bytes(),
            &[0, 0],
            &self.options,
            payload,
        ])
    }
}

/// NOP, NOP, timestamps.
pub(crate) fn usual_timestamps(value: u32, echo: u32) -> Vec<u8> {
    join(&[&[1, 1, 8, 10], &value.to_be_bytes(), &echo.to_be_bytes()])
}

/// What Linux puts into a SYN: MSS, SACK permitted, timestamps, NOP, window scale.
pub(crate) fn syn_options(value: u32, echo: u32) -> Vec<u8> {
    join(&[&[2, 4, 5, 0xb4, 4, 2, 8, 10], &value.to_be_bytes(), &echo.to_be_bytes(), &[1, 3, 3, 7]])
}

pub(crate) fn udp(source_port: u16, destination_port: u16, checksum: u16, payload: &[u8]) -> Vec<u8> {
    join(&[
        &source_port.to_be_bytes(),
        &destination_port.to_be_bytes(),
        &((8 + payload.len()) as u16).to_be_bytes(),
        &checksum.to_be_bytes(),
        payload,
    ])
}

/// ICMP and ICMPv6: type, code, checksum, rest of header.
pub(crate) fn icmp(kind: u8, code: u8, checksum: u16, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    join(&[&[kind, code], &checksum.to_be_bytes(), &rest, payload])
}

pub(crate) fn echo(kind: u8, checksum: u16, identifier: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let [i, j] = identifier.to_be_bytes();
    let [s, t] = sequence.to_be_bytes();
    icmp(kind, 0, checksum, [i, j, s, t], payload)
}

/// The common header of SCTP (RFC 9260) and what follows.
pub(crate) fn sctp(source_port: u16, destination_port: u16, checksum: u32, chunks: &[u8]) -> Vec<u8> {
    join(&[
        &source_port.to_be_bytes(),
        &destination_port.to_be_bytes(),
        &[0xaa, 0xbb, 0xcc, 0xdd],
        &checksum.to_be_bytes(),
        chunks,
    ])
}

pub(crate) fn sctp_data(tsn: u32, payload: &[u8]) -> Vec<u8> {
    let length = (16 + payload.len()) as u16;
    join(&[&[0, 3], &length.to_be_bytes(), &tsn.to_be_bytes(), &[0, 1, 0, 2, 0, 0, 0, 0], payload])
}

pub(crate) fn sctp_init(tag: u32) -> Vec<u8> {
    join(&[&[1, 0, 0, 20], &tag.to_be_bytes(), &[0, 1, 0, 0, 0, 10, 0xff, 0xff], &tag.to_be_bytes()])
}

/// RFC 7348, with an Ethernet frame inside.
pub(crate) fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    join(&[&[8, 0, 0, 0], &(vni << 8).to_be_bytes(), frame])
}

/// RFC 8926; `options` is a multiple of four bytes.
pub(crate) fn geneve(vni: u32, options: &[u8], protocol: u16, payload: &[u8]) -> Vec<u8> {
    join(&[
        &[(options.len() / 4) as u8, 0],
        &protocol.to_be_bytes(),
        &(vni << 8).to_be_bytes(),
        options,
        payload,
    ])
}

/// RFC 2784 and 2890.
pub(crate) fn gre(
    checksum: bool,
    key: Option<u32>,
    sequence: bool,
    protocol: u16,
    payload: &[u8],
) -> Vec<u8> {
    let flags = u16::from(checksum) << 15 | u16::from(key.is_some()) << 13 | u16::from(sequence) << 12;
    let mut bytes = join(&[&flags.to_be_bytes(), &protocol.to_be_bytes()]);
    if checksum {
        bytes.extend([0xde, 0xad, 0, 0]);
    }
    bytes.extend(key.iter().flat_map(|key| key.to_be_bytes()));
    if sequence {
        bytes.extend([0, 0, 0, 99]);
    }
    bytes.extend(payload);
    bytes
}

/// IPv4 as IPv4-mapped IPv6.
pub(crate) fn mapped(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[10..12].fill(0xff);
    bytes[12..].copy_from_slice(&address);
    bytes
}
