//! Arbitrary packets and arbitrary ways for them to travel.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use tracer_common::packet::Link;

use crate::bytes::{
    ETHER_BRIDGING, ETHER_IPV4, ETHER_IPV6, ETHER_QINQ, ETHER_VLAN, GRE, ICMP, ICMPV6, IPV4, IPV6, SCTP, TCP,
    Tcp, UDP, V4, V6, echo, ethernet, geneve, gre, icmp, join, sctp, sctp_data, sctp_init, syn_options, udp,
    usual_timestamps, vlan, vxlan,
};

/// A packet by meaning, so that a test can change one thing of it and write it anew.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) ip: Ip,
    pub(crate) transport: Transport,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) enum Ip {
    V4(V4),
    V6(V6),
}

#[derive(Clone, Debug)]
pub(crate) enum Transport {
    Tcp { header: Tcp, timestamps: Timestamps },
    Udp { source_port: u16, destination_port: u16, checksum: u16 },
    Echo { reply: bool, checksum: u16, identifier: u16, sequence: u16 },
    SctpData { source_port: u16, destination_port: u16, checksum: u32, tsn: u32 },
    SctpInit { source_port: u16, destination_port: u16, checksum: u32, tag: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Timestamps {
    None,
    Usual(u32, u32),
    Syn(u32, u32),
}

impl Packet {
    /// From its IP header on.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let v6 = matches!(self.ip, Ip::V6(_));
        let (protocol, transport) = self.transport.bytes(v6, &self.payload);
        self.ip.around(protocol, &transport)
    }
}

impl Ip {
    pub(crate) fn around(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::V4(ip) => ip.around(protocol, payload),
            Self::V6(ip) => ip.around(protocol, payload),
        }
    }

    const fn ether_type(&self) -> u16 {
        match self {
            Self::V4(_) => ETHER_IPV4,
            Self::V6(_) => ETHER_IPV6,
        }
    }
}

impl Transport {
    fn bytes(&self, v6: bool, payload: &[u8]) -> (u8, Vec<u8>) {
        match self {
            Self::Tcp { header, timestamps } => {
                let options = match *timestamps {
                    Timestamps::None => header.options.clone(),
                    Timestamps::Usual(value, echo) => {
                        join(&[&usual_timestamps(value, echo), &header.options])
                    }
                    Timestamps::Syn(value, echo) => syn_options(value, echo),
                };
                (TCP, Tcp { options, ..header.clone() }.around(payload))
            }
            Self::Udp { source_port, destination_port, checksum } => {
                (UDP, udp(*source_port, *destination_port, *checksum, payload))
            }
            Self::Echo { reply, checksum, identifier, sequence } => {
                let (protocol, kind) = match (v6, reply) {
                    (false, false) => (ICMP, 8),
                    (false, true) => (ICMP, 0),
                    (true, false) => (ICMPV6, 128),
                    (true, true) => (ICMPV6, 129),
                };
                (protocol, echo(kind, *checksum, *identifier, *sequence, payload))
            }
            Self::SctpData { source_port, destination_port, checksum, tsn } => {
                (SCTP, sctp(*source_port, *destination_port, *checksum, &sctp_data(*tsn, payload)))
            }
            Self::SctpInit { source_port, destination_port, checksum, tag } => {
                (SCTP, sctp(*source_port, *destination_port, *checksum, &sctp_init(*tag)))
            }
        }
    }
}

/// Everything that NAT may write.
#[derive(Clone, Debug)]
pub(crate) struct Nat {
    source: [u8; 16],
    destination: [u8; 16],
    source_port: u16,
    destination_port: u16,
    identifier: u16,
    checksum: u32,
}

impl Nat {
    pub(crate) fn rewrite(&self, packet: &mut Packet) {
        match &mut packet.ip {
            Ip::V4(ip) => {
                ip.source.copy_from_slice(&self.source[..4]);
                ip.destination.copy_from_slice(&self.destination[..4]);
                ip.checksum = !self.checksum as u16;
            }
            Ip::V6(ip) => {
                ip.source = self.source;
                ip.destination = self.destination;
            }
        }
        match &mut packet.transport {
            Transport::Tcp { header, .. } => {
                header.source_port = self.source_port;
                header.destination_port = self.destination_port;
                header.checksum = self.checksum as u16;
            }
            Transport::Udp { source_port, destination_port, checksum } => {
                *source_port = self.source_port;
                *destination_port = self.destination_port;
                *checksum = self.checksum as u16;
            }
            Transport::Echo { checksum, identifier, .. } => {
                *checksum = self.checksum as u16;
                *identifier = self.identifier;
            }
            Transport::SctpData { source_port, destination_port, checksum, .. }
            | Transport::SctpInit { source_port, destination_port, checksum, .. } => {
                *source_port = self.source_port;
                *destination_port = self.destination_port;
                *checksum = self.checksum;
            }
        }
    }
}

pub(crate) fn nat() -> impl Strategy<Value = Nat> {
    (any::<[u8; 16]>(), any::<[u8; 16]>(), port(), port(), any::<u16>(), any::<u32>()).prop_map(
        |(source, destination, source_port, destination_port, identifier, checksum)| Nat {
            source,
            destination,
            source_port,
            destination_port,
            identifier,
            checksum,
        },
    )
}

/// One encapsulation.
#[derive(Clone, Debug)]
pub(crate) struct Tunnel {
    outer: Ip,
    source_port: u16,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Ip,
    Vxlan { port: u16, vni: u32, vlan: Option<u16> },
    Geneve { vni: u32, options: usize, ethernet: bool },
    Gre { checksum: bool, key: Option<u32>, sequence: bool, ethernet: bool },
}

impl Tunnel {
    fn around(&self, inner: &[u8], ether_type: u16) -> Vec<u8> {
        let frame = |bridged| if bridged { ethernet(ether_type, inner) } else { inner.to_vec() };
        let announced = |bridged| if bridged { ETHER_BRIDGING } else { ether_type };
        let (protocol, payload) = match &self.kind {
            Kind::Ip => (if ether_type == ETHER_IPV4 { IPV4 } else { IPV6 }, inner.to_vec()),
            Kind::Vxlan { port, vni, vlan } => {
                (UDP, udp(self.source_port, *port, 0, &vxlan(*vni, &tagged(*vlan, ether_type, inner))))
            }
            Kind::Geneve { vni, options, ethernet } => {
                let inner = geneve(*vni, &vec![0x55; 4 * options], announced(*ethernet), &frame(*ethernet));
                (UDP, udp(self.source_port, 6081, 0, &inner))
            }
            Kind::Gre { checksum, key, sequence, ethernet } => {
                (GRE, gre(*checksum, *key, *sequence, announced(*ethernet), &frame(*ethernet)))
            }
        };
        self.outer.around(protocol, &payload)
    }
}

fn tagged(id: Option<u16>, ether_type: u16, inner: &[u8]) -> Vec<u8> {
    match id {
        None => ethernet(ether_type, inner),
        Some(id) => ethernet(ETHER_VLAN, &vlan(id, ether_type, inner)),
    }
}

/// How a packet looks at one device: what is around it.
#[derive(Clone, Debug)]
pub(crate) struct Dress {
    /// Innermost first, at most two.
    pub(crate) tunnels: Vec<Tunnel>,
    /// Ethernet with these tags, or no Ethernet header.
    pub(crate) tags: Option<Vec<u16>>,
}

impl Dress {
    pub(crate) fn around(&self, packet: &Packet) -> (Vec<u8>, Link) {
        self.around_bytes(packet.bytes(), packet.ip.ether_type())
    }

    pub(crate) fn around_bytes(&self, ip: Vec<u8>, ether_type: u16) -> (Vec<u8>, Link) {
        let (packet, ether_type) =
            self.tunnels.iter().fold((ip, ether_type), |(inner, ether_type), tunnel| {
                (tunnel.around(&inner, ether_type), tunnel.outer.ether_type())
            });
        let frame = match self.tags.as_deref() {
            None => return (packet, Link::None),
            Some([]) => ethernet(ether_type, &packet),
            Some([tag]) => ethernet(ETHER_VLAN, &vlan(*tag, ether_type, &packet)),
            Some([outer, rest @ ..]) => {
                let inner = vlan(rest[0], ether_type, &packet);
                ethernet(ETHER_QINQ, &vlan(*outer, ETHER_VLAN, &inner))
            }
        };
        (frame, Link::Ethernet)
    }
}

pub(crate) fn dress() -> impl Strategy<Value = Dress> {
    (vec(tunnel(), 0..=2), tags()).prop_map(|(tunnels, tags)| Dress { tunnels, tags })
}

pub(crate) fn tags() -> impl Strategy<Value = Option<Vec<u16>>> {
    prop_oneof![Just(None), vec(any::<u16>(), 0..=2).prop_map(Some)]
}

pub(crate) fn tunnel() -> impl Strategy<Value = Tunnel> {
    let vni = 0..1_u32 << 24;
    let kind = prop_oneof![
        Just(Kind::Ip),
        (prop_oneof![Just(4789), Just(8472)], vni.clone(), any::<Option<u16>>())
            .prop_map(|(port, vni, vlan)| Kind::Vxlan { port, vni, vlan }),
        (vni, 0..64_usize, any::<bool>()).prop_map(|(vni, options, ethernet)| Kind::Geneve {
            vni,
            options,
            ethernet
        }),
        (any::<bool>(), any::<Option<u32>>(), any::<bool>(), any::<bool>())
            .prop_map(|(checksum, key, sequence, ethernet)| Kind::Gre { checksum, key, sequence, ethernet }),
    ];
    (ip(), port(), kind).prop_map(|(outer, source_port, kind)| Tunnel { outer, source_port, kind })
}

/// What nearly all packets look like: TCP or UDP behind an IP header without options, bare or in one VXLAN over IPv4.
pub(crate) fn plain() -> impl Strategy<Value = (Packet, Dress)> {
    let vxlan = (v4(), port(), prop_oneof![Just(4789), Just(8472)], 0..1_u32 << 24).prop_map(
        |(outer, source_port, port, vni)| Tunnel {
            outer: without_options(Ip::V4(outer)),
            source_port,
            kind: Kind::Vxlan { port, vni, vlan: None },
        },
    );
    let packet = packet_of(prop_oneof![tcp(), datagram()])
        .prop_map(|packet| Packet { ip: without_options(packet.ip), ..packet });
    (packet, vec(vxlan, 0..=1))
        .prop_map(|(packet, tunnels)| (packet, Dress { tunnels, tags: Some(Vec::new()) }))
}

fn without_options(ip: Ip) -> Ip {
    match ip {
        Ip::V4(ip) => Ip::V4(V4 { options: Vec::new(), ..ip }),
        Ip::V6(ip) => Ip::V6(ip),
    }
}

/// Ports, among them those of the tunnels.
pub(crate) fn port() -> impl Strategy<Value = u16> {
    prop_oneof![4 => any::<u16>(), 1 => Just(4789), 1 => Just(8472), 1 => Just(6081)]
}

/// Not a fragment.
pub(crate) fn ip() -> impl Strategy<Value = Ip> {
    prop_oneof![v4().prop_map(Ip::V4), v6().prop_map(Ip::V6)]
}

pub(crate) fn v4() -> impl Strategy<Value = V4> {
    let header = (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<u8>(), any::<u16>(), any::<bool>(), any::<u8>());
    let id = prop_oneof![3 => any::<u16>(), 1 => Just(0)];
    (header, id, 0..=10_usize).prop_map(
        |((source, destination, traffic_class, checksum, keep_whole, ttl), identification, options)| V4 {
            source,
            destination,
            traffic_class,
            identification,
            fragment: u16::from(keep_whole) << 14,
            ttl,
            checksum,
            options: vec![1; 4 * options],
        },
    )
}

pub(crate) fn v6() -> impl Strategy<Value = V6> {
    (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u8>(), 0..1_u32 << 20, any::<u8>()).prop_map(
        |(source, destination, traffic_class, flow_label, hop_limit)| V6 {
            source,
            destination,
            traffic_class,
            flow_label,
            hop_limit,
        },
    )
}

/// Any packet of TCP, UDP, ICMP, ICMPv6 or SCTP.
pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    packet_of(prop_oneof![2 => tcp(), 2 => datagram(), 2 => ping(), 1 => sctp_chunk()])
}

pub(crate) fn packet_of(transport: impl Strategy<Value = Transport>) -> impl Strategy<Value = Packet> {
    (ip(), transport, payload()).prop_map(|(ip, transport, payload)| Packet { ip, transport, payload })
}

/// Short ones and those around the length of the prefix that is hashed come often.
pub(crate) fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..=40), vec(any::<u8>(), 0..=400)]
}

pub(crate) fn tcp() -> impl Strategy<Value = Transport> {
    let timestamps = prop_oneof![
        Just(Timestamps::None),
        any::<(u32, u32)>().prop_map(|(value, echo)| Timestamps::Usual(value, echo)),
        any::<(u32, u32)>().prop_map(|(value, echo)| Timestamps::Syn(value, echo)),
    ];
    let header = (port(), port(), any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>(), any::<u16>());
    (header, 0..=7_usize, timestamps).prop_map(
        |(
            (source_port, destination_port, sequence, acknowledgment, flags, window, checksum),
            words,
            timestamps,
        )| {
            let options = vec![1; 4 * words];
            Transport::Tcp {
                header: Tcp {
                    source_port,
                    destination_port,
                    sequence,
                    acknowledgment,
                    flags,
                    window,
                    checksum,
                    options,
                },
                timestamps,
            }
        },
    )
}

pub(crate) fn datagram() -> impl Strategy<Value = Transport> {
    (port(), port(), any::<u16>()).prop_map(|(source_port, destination_port, checksum)| Transport::Udp {
        source_port,
        destination_port,
        checksum,
    })
}

pub(crate) fn ping() -> impl Strategy<Value = Transport> {
    (any::<bool>(), any::<u16>(), any::<u16>(), any::<u16>()).prop_map(
        |(reply, checksum, identifier, sequence)| Transport::Echo { reply, checksum, identifier, sequence },
    )
}

pub(crate) fn sctp_chunk() -> impl Strategy<Value = Transport> {
    (any::<bool>(), port(), port(), any::<u32>(), any::<u32>()).prop_map(
        |(data, source_port, destination_port, checksum, tsn)| {
            if data {
                Transport::SctpData { source_port, destination_port, checksum, tsn }
            } else {
                Transport::SctpInit { source_port, destination_port, checksum, tag: tsn }
            }
        },
    )
}

/// An ICMP error of this family that quotes `quoted` bytes of a packet, in its packet's own IP header.
pub(crate) fn icmp_error(around: &Ip, quote: &Packet, quoted: usize, kind: u8, checksum: u16) -> Vec<u8> {
    let protocol = if matches!(around, Ip::V4(_)) { ICMP } else { ICMPV6 };
    let quote = quote.bytes();
    let quoted = &quote[..quoted.min(quote.len())];
    around.around(protocol, &icmp(kind, 0, checksum, [0, 0, 5, 220], quoted))
}
