//! The short way: nearly all packets of a datapath are TCP or UDP behind an IP header without options, bare or in one VXLAN. Of
//! these shapes all offsets are known beforehand, so that a few reads tell whether anybody wants the packet. What has
//! any other shape, or is odd in any way, is left to [`Headers::parse`]; of what is told here, that tells the same.

use super::describe::{
    PROTOCOL_TCP, PROTOCOL_UDP, USUAL_TIMESTAMP_OPTION, clear_transport, describe_tunnel, is_dns, mapped_low,
    wide,
};
use super::walk::{
    ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, ETHERNET_ADDRESSES, GENEVE_PORT, SMALLEST_TUNNEL, VXLAN_FLAGS, byte,
    long, short,
};
use super::{Headers, Reader, TunnelAt};
use crate::fingerprint;
use crate::record::{FLAG_PORTS, FLAG_TCP_TIMESTAMP, HopRecord, TUNNEL_VXLAN};

/// An Ethernet header without VLAN tags, bytes.
const ETHERNET: u32 = ETHERNET_ADDRESSES + 2;
/// An IPv4 header without options.
const IPV4: u32 = 20;
const IPV6: u32 = 40;
/// UDP and VXLAN headers.
const VXLAN: u32 = 16;
const UDP: u32 = 8;

/// What a glance tells of a packet that begins with an Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Of the innermost packet, IPv4 as IPv4-mapped IPv6.
    pub source: [u8; 16],
    pub destination: [u8; 16],
    /// Source and destination port in host order.
    pub ports: (u16, u16),
    layer: Layer,
    tunnel: TunnelAt,
    /// 0: not known. verifier: no `Option`, in which the other half may be anything.
    fingerprint: u64,
}

impl Glance {
    /// `None` if the packet is none of these shapes, or if its bytes are not all where they can be read. `identify`: whether
    /// the fingerprint is asked for.
    #[inline(always)]
    pub fn of<R: Reader>(reader: &R, vxlan_ports: &[u16; 4], identify: Identify) -> Option<Self> {
        match ether_type(reader, 0)? {
            ETHER_TYPE_IPV4 => {
                let outer = Layer::ipv4(reader, ETHERNET)?;
                match outer.inside(reader, vxlan_ports)? {
                    None => outer.look(reader, TunnelAt::default(), identify),
                    Some(tunnel) => Self::inside(reader, vxlan_ports, tunnel, identify),
                }
            }
            ETHER_TYPE_IPV6 => {
                Layer::ipv6(reader, ETHERNET)?.alone(reader, vxlan_ports, TunnelAt::default(), identify)
            }
            _ => None,
        }
    }

    /// The packet's [`fingerprint`], where it was asked for and a glance is enough for it.
    #[inline(always)]
    #[must_use]
    pub const fn fingerprint(&self) -> Option<u64> {
        if self.fingerprint == 0 { None } else { Some(self.fingerprint) }
    }

    /// IANA protocol number.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(&self) -> u32 {
        self.layer.protocol
    }

    /// Where the headers are: what [`Headers::parse`] finds.
    #[inline(always)]
    #[must_use]
    pub fn headers(&self) -> Headers {
        Headers {
            network: self.layer.network,
            transport: self.layer.transport,
            end: self.layer.end,
            version: self.layer.version,
            protocol: self.layer.protocol,
            identification: self.layer.identification,
            tunnel_count: u32::from(self.tunnel.kind != 0),
            outer: self.tunnel,
            ..Headers::default()
        }
    }

    /// Fills all of `record` that comes from the packet's bytes, as [`Headers::describe`] does, but for entries of
    /// [`HopRecord::tunnels`] that the packet does not use: they are left alone, and so are the fields of the observation.
    /// `record.gso_size` must be set before. `None` where a glance is not enough for it; `record` is then partly filled.
    #[inline(always)]
    pub fn describe<R: Reader>(&self, reader: &R, record: &mut HopRecord) -> Option<()> {
        clear_transport(record);
        record.source = self.source;
        record.destination = self.destination;
        record.source_port = self.ports.0.to_be_bytes();
        record.destination_port = self.ports.1.to_be_bytes();
        record.flags = FLAG_PORTS;
        record.reserved = 0;
        record.fragment_offset = 0;
        self.layer.network_fields(reader, record)?;
        if self.layer.protocol == PROTOCOL_TCP {
            self.layer.tcp_fields(reader, record)?;
        } else {
            self.layer.udp_fields(reader, record)?;
        }
        record.tunnel_count = 0;
        if self.tunnel.kind != 0 {
            record.tunnel_count = 1;
            describe_tunnel(reader, &self.tunnel, &mut record.tunnels[0])?;
        }
        Some(())
    }

    /// Of the packet in a VXLAN over IPv4.
    #[inline(always)]
    fn inside<R: Reader>(
        reader: &R,
        vxlan_ports: &[u16; 4],
        tunnel: TunnelAt,
        identify: Identify,
    ) -> Option<Self> {
        const BEGIN: u32 = ETHERNET + IPV4 + VXLAN;
        let network = BEGIN + ETHERNET;
        // One after the other, so that all offsets stay known.
        match ether_type(reader, BEGIN)? {
            ETHER_TYPE_IPV4 => Layer::ipv4(reader, network)?.alone(reader, vxlan_ports, tunnel, identify),
            ETHER_TYPE_IPV6 => Layer::ipv6(reader, network)?.alone(reader, vxlan_ports, tunnel, identify),
            _ => None,
        }
    }
}

/// EtherType of the Ethernet header at `begin`.
#[inline(always)]
fn ether_type<R: Reader>(reader: &R, begin: u32) -> Option<u32> {
    reader.u16(begin + ETHERNET_ADDRESSES).map(u32::from)
}

/// Whether a packet's fingerprint is asked for, and the size of its segments if it is a GSO packet.
#[derive(Clone, Copy, Debug)]
pub struct Identify {
    pub is_asked_for: bool,
    pub gso_size: u16,
}

/// One IP header, and what is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layer {
    network: u32,
    transport: u32,
    end: u32,
    version: u32,
    protocol: u32,
    identification: u32,
}

impl Layer {
    /// RFC 791, without options; no fragment.
    #[inline(always)]
    fn ipv4<R: Reader>(reader: &R, network: u32) -> Option<Self> {
        const FRAGMENT: u32 = 0x3fff;
        let [low, high] = reader.words(network)?;
        let total_length = short(low, 2);
        if byte(low, 0) != 0x45 || short(low, 6) & FRAGMENT != 0 || total_length < IPV4 {
            return None;
        }
        Some(Self {
            network,
            transport: network + IPV4,
            end: network + total_length,
            version: 4,
            protocol: byte(high, 1),
            identification: short(low, 4),
        })
    }

    /// RFC 8200, without extension headers.
    #[inline(always)]
    fn ipv6<R: Reader>(reader: &R, network: u32) -> Option<Self> {
        let word = reader.word(network)?;
        let payload_length = short(word, 4);
        if byte(word, 0) >> 4 != 6 || payload_length == 0 {
            return None;
        }
        let transport = network + IPV6;
        let (end, protocol) = (transport + payload_length, byte(word, 6));
        Some(Self { network, transport, end, version: 6, protocol, identification: 0 })
    }

    /// The tunnel that this is: `Some(None)` for none, `None` where that takes a longer look.
    #[inline(always)]
    fn inside<R: Reader>(&self, reader: &R, vxlan_ports: &[u16; 4]) -> Option<Option<TunnelAt>> {
        if self.protocol == PROTOCOL_TCP {
            return Some(None);
        }
        if self.protocol != PROTOCOL_UDP {
            return None;
        }
        if self.end < self.transport + SMALLEST_TUNNEL {
            return Some(None);
        }
        let [udp, tunnel] = reader.words(self.transport)?;
        let port = short(udp, 2);
        let [first, second, third, fourth] = *vxlan_ports;
        let is_vxlan = [first, second, third, fourth].map(u32::from).map(|known| known == port);
        let [first, second, third, fourth] = is_vxlan;
        if port == 0 || port == GENEVE_PORT {
            return None;
        }
        if !(first | second | third | fourth) {
            return Some(None);
        }
        let identifier = long(tunnel, 4);
        if long(tunnel, 0) != VXLAN_FLAGS || identifier & 0xff != 0 {
            return None;
        }
        let (kind, identifier) = (u32::from(TUNNEL_VXLAN), identifier >> 8);
        Some(Some(TunnelAt { network: self.network, identifier, kind, port }))
    }

    /// The packet, if no other one is inside.
    #[inline(always)]
    fn alone<R: Reader>(
        &self,
        reader: &R,
        vxlan_ports: &[u16; 4],
        tunnel: TunnelAt,
        identify: Identify,
    ) -> Option<Glance> {
        match self.inside(reader, vxlan_ports)? {
            None => self.look(reader, tunnel, identify),
            Some(_) => None,
        }
    }

    /// The packet, in a tunnel or in none.
    #[inline(always)]
    fn look<R: Reader>(&self, reader: &R, tunnel: TunnelAt, identify: Identify) -> Option<Glance> {
        let (source, destination) = self.addresses(reader)?;
        let fingerprint =
            if identify.is_asked_for { self.fingerprint(reader, identify.gso_size).unwrap_or(0) } else { 0 };
        let both = reader.u32(self.transport)?;
        let ports = ((both >> 16) as u16, both as u16);
        Some(Glance { source, destination, ports, layer: *self, tunnel, fingerprint })
    }

    #[inline(always)]
    fn addresses<R: Reader>(&self, reader: &R) -> Option<([u8; 16], [u8; 16])> {
        if self.version == 4 {
            let both = reader.word(self.network + 12)?;
            return Some((mapped_low(both), mapped_low(both >> 32)));
        }
        let ([a, b], [c, d]) = (reader.words(self.network + 8)?, reader.words(self.network + 24)?);
        Some((wide(a, b), wide(c, d)))
    }

    /// The fingerprint, where [`Layer::segment`] or [`Layer::datagram`] tells of the packet.
    #[inline(always)]
    fn fingerprint<R: Reader>(&self, reader: &R, gso_size: u16) -> Option<u64> {
        if self.protocol == PROTOCOL_UDP {
            self.datagram(reader, gso_size)
        } else {
            Some(self.segment(reader)?.fingerprint)
        }
    }

    #[inline(always)]
    fn network_fields<R: Reader>(&self, reader: &R, record: &mut HopRecord) -> Option<()> {
        record.version = self.version as u8;
        record.protocol = self.protocol as u8;
        record.identification = self.identification;
        let word = reader.word(self.network)?;
        if self.version == 4 {
            record.traffic_class = byte(word, 1) as u8;
            record.ttl = reader.u8(self.network + 8)?;
        } else {
            record.traffic_class = (short(word, 0) >> 4) as u8;
            record.ttl = byte(word, 7) as u8;
        }
        Some(())
    }

    #[inline(always)]
    fn tcp_fields<R: Reader>(&self, reader: &R, record: &mut HopRecord) -> Option<()> {
        let segment = self.segment(reader)?;
        record.sequence = segment.sequence;
        record.acknowledgment = segment.acknowledgment;
        record.tcp_flags = segment.flags;
        record.window = segment.window;
        record.timestamp_value = segment.timestamps.0;
        record.timestamp_echo = segment.timestamps.1;
        if segment.has_timestamps {
            record.flags |= FLAG_TCP_TIMESTAMP;
        }
        record.payload_length = self.end - segment.payload;
        record.fingerprint = segment.fingerprint;
        Some(())
    }

    #[inline(always)]
    fn udp_fields<R: Reader>(&self, reader: &R, record: &mut HopRecord) -> Option<()> {
        record.fingerprint = self.datagram(reader, record.gso_size)?;
        let payload = self.transport + UDP;
        record.payload_length = self.end - payload;
        if is_dns(record) {
            record.sequence = u32::from(reader.u16(payload)?);
        }
        Some(())
    }

    /// A TCP header without options or with the usual timestamp.
    #[inline(always)]
    fn segment<R: Reader>(&self, reader: &R) -> Option<Segment> {
        let [low, high] = reader.words(self.transport)?;
        let header_length = (byte(high, 4) >> 4) * 4;
        let payload = self.transport + header_length;
        if payload > self.end {
            return None;
        }
        let (has_timestamps, timestamps) = match header_length {
            20 => (false, (0, 0)),
            32.. => {
                let [options, rest] = reader.words(self.transport + 16)?;
                if long(options, 4) != USUAL_TIMESTAMP_OPTION {
                    return None;
                }
                (true, (long(rest, 0), long(rest, 4)))
            }
            _ => return None,
        };
        let (sequence, acknowledgment, flags) = (long(low, 4), long(high, 0), byte(high, 5) as u8);
        let begun = fingerprint::begin(self.protocol, self.identification);
        let fingerprint = fingerprint::tcp(begun, (sequence, acknowledgment), flags, timestamps.0);
        let window = short(high, 6) as u16;
        Some(Segment {
            sequence,
            acknowledgment,
            flags,
            window,
            has_timestamps,
            timestamps,
            payload,
            fingerprint,
        })
    }

    /// The fingerprint of a datagram that is not too short.
    #[inline(always)]
    fn datagram<R: Reader>(&self, reader: &R, gso_size: u16) -> Option<u64> {
        let payload = self.transport + UDP;
        if self.end < payload + fingerprint::PAYLOAD_PREFIX {
            return None;
        }
        let on_wire = fingerprint::on_wire(gso_size, self.end - payload);
        if on_wire < fingerprint::PAYLOAD_PREFIX {
            return None;
        }
        let begun = fingerprint::begin(self.protocol, self.identification);
        fingerprint::long_datagram(reader, begun, payload, on_wire)
    }
}

/// What a TCP header says (RFC 9293, 7323); zeros where there are no timestamps.
struct Segment {
    sequence: u32,
    acknowledgment: u32,
    flags: u8,
    window: u16,
    has_timestamps: bool,
    timestamps: (u32, u32),
    /// Offset of the payload.
    payload: u32,
    fingerprint: u64,
}
