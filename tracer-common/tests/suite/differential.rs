//! `etherparse` as judge: what it writes we read alike, and what it reads we read alike.

use etherparse::{
    DoubleVlanHeader, IpAuthHeader, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header,
    Ipv4Options, Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, Ipv6RoutingExtensions,
    NetSlice, PacketBuilder, PacketBuilderStep, SingleVlanHeader, SlicedPacket, TcpHeader, TcpOptionElement,
    TransportSlice, VlanHeader,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::Index;
use proptest::test_runner::{TestCaseError, TestCaseResult};
use tracer_common::packet::{Link, ParseError};
use tracer_common::record::{
    FLAG_FRAGMENT, FLAG_MORE_FRAGMENTS, FLAG_PORTS, FLAG_QUOTE, FLAG_QUOTE_TRANSPORT, FLAG_TCP_TIMESTAMP,
    HopRecord, QuoteRecord, TUNNEL_IP4_IN_IP6, TUNNEL_IP6_IN_IP6, TUNNEL_IPIP, TUNNEL_SIT, TUNNEL_VXLAN,
    Tunnel,
};

use crate::bytes::{ETHER_IPV4, ETHER_IPV6, ethernet, mapped, vxlan};
use crate::observe;
use crate::random::payload;

/// What goes behind the IP headers.
#[derive(Clone, Debug)]
enum Above {
    Udp(u16, u16),
    Tcp(Box<TcpHeader>, Option<(u32, u32)>),
    Echo { reply: bool, identifier: u16, sequence: u16 },
    OtherIcmp { kind: u8, code: u8 },
    Protocol(u8),
}

/// A packet for etherparse to write.
#[derive(Clone, Debug)]
struct Order {
    vlan: Option<Option<VlanHeader>>,
    ip: IpHeaders,
    above: Above,
    payload: Vec<u8>,
}

impl Order {
    fn link(&self) -> Link {
        if self.vlan.is_some() { Link::Ethernet } else { Link::None }
    }

    fn written(&self) -> Vec<u8> {
        let ip = self.ip.clone();
        let ethernet = || PacketBuilder::ethernet2([2; 6], [4; 6]);
        self.written_behind(match self.vlan.clone() {
            None => PacketBuilder::ip(ip),
            Some(None) => ethernet().ip(ip),
            Some(Some(vlan)) => ethernet().vlan(vlan).ip(ip),
        })
    }

    fn written_behind(&self, start: PacketBuilderStep<IpHeaders>) -> Vec<u8> {
        let (mut bytes, payload) = (Vec::new(), &self.payload);
        let v4 = matches!(self.ip, IpHeaders::Ipv4(..));
        match &self.above {
            Above::Udp(source, destination) => start.udp(*source, *destination).write(&mut bytes, payload),
            Above::Tcp(header, _) => start.tcp_header(TcpHeader::clone(header)).write(&mut bytes, payload),
            Above::Echo { reply, identifier, sequence } => match (v4, reply) {
                (true, false) => start.icmpv4_echo_request(*identifier, *sequence).write(&mut bytes, payload),
                (true, true) => start.icmpv4_echo_reply(*identifier, *sequence).write(&mut bytes, payload),
                (false, false) => {
                    start.icmpv6_echo_request(*identifier, *sequence).write(&mut bytes, payload)
                }
                (false, true) => start.icmpv6_echo_reply(*identifier, *sequence).write(&mut bytes, payload),
            },
            Above::OtherIcmp { kind, code } if v4 => {
                start.icmpv4_raw(*kind, *code, [1, 2, 3, 4]).write(&mut bytes, payload)
            }
            Above::OtherIcmp { kind, code } => {
                start.icmpv6_raw(*kind, *code, [1, 2, 3, 4]).write(&mut bytes, payload)
            }
            Above::Protocol(protocol) => start.write(&mut bytes, IpNumber(*protocol), payload),
        }
        .expect("a packet that etherparse can write");
        bytes
    }

    /// The record that says what was ordered.
    fn expected(&self) -> HopRecord {
        let mut record = expected_of_ip(&self.ip);
        let v4 = record.version == 4;
        let icmp = if v4 { 1 } else { 58 };
        let (protocol, header_length) = match &self.above {
            Above::Udp(..) => (17, 8),
            Above::Tcp(header, _) => (6, header.header_len()),
            Above::Echo { .. } | Above::OtherIcmp { .. } => (icmp, 8),
            Above::Protocol(protocol) => (*protocol, 0),
        };
        record.protocol = protocol;
        if record.fragment_offset != 0 {
            record.payload_length = (header_length + self.payload.len()) as u32;
            return record;
        }
        record.payload_length = self.payload.len() as u32;
        match &self.above {
            Above::Udp(source, destination) => {
                set_ports(&mut record, *source, *destination);
                if let (true, [first, second, ..]) =
                    (*source == 53 || *destination == 53, self.payload.as_slice())
                {
                    record.sequence = u16::from_be_bytes([*first, *second]).into();
                }
            }
            Above::Tcp(header, timestamps) => {
                set_ports(&mut record, header.source_port, header.destination_port);
                record.sequence = header.sequence_number;
                record.acknowledgment = header.acknowledgment_number;
                record.window = header.window_size;
                record.tcp_flags = tcp_flags(header);
                if let Some((value, echo)) = *timestamps {
                    record.flags |= FLAG_TCP_TIMESTAMP;
                    (record.timestamp_value, record.timestamp_echo) = (value, echo);
                }
            }
            Above::Echo { reply, identifier, sequence } => {
                record.icmp_type = match (v4, reply) {
                    (true, false) => 8,
                    (true, true) => 0,
                    (false, reply) => 128 + u8::from(*reply),
                };
                record.icmp_identifier = *identifier;
                record.sequence = u32::from(*sequence);
            }
            Above::OtherIcmp { kind, code } => (record.icmp_type, record.icmp_code) = (*kind, *code),
            Above::Protocol(_) => {}
        }
        record
    }
}

fn expected_of_ip(ip: &IpHeaders) -> HopRecord {
    let mut record = HopRecord::default();
    let (offset, more) = match ip {
        IpHeaders::Ipv4(ip, _) => {
            record.version = 4;
            record.source = mapped(ip.source);
            record.destination = mapped(ip.destination);
            record.ttl = ip.time_to_live;
            record.traffic_class = ip.dscp.value() << 2 | ip.ecn.value();
            record.identification = u32::from(ip.identification);
            (ip.fragment_offset.byte_offset(), ip.more_fragments)
        }
        IpHeaders::Ipv6(ip, extensions) => {
            record.version = 6;
            record.source = ip.source;
            record.destination = ip.destination;
            record.ttl = ip.hop_limit;
            record.traffic_class = ip.traffic_class;
            let fragment = extensions.fragment.as_ref();
            record.identification = fragment.map_or(0, |f| f.identification);
            fragment.map_or((0, false), |f| (f.fragment_offset.byte_offset(), f.more_fragments))
        }
    };
    record.fragment_offset = offset;
    if offset != 0 || more {
        record.flags |= FLAG_FRAGMENT;
    }
    if more {
        record.flags |= FLAG_MORE_FRAGMENTS;
    }
    record
}

fn set_ports(record: &mut HopRecord, source: u16, destination: u16) {
    record.source_port = source.to_be_bytes();
    record.destination_port = destination.to_be_bytes();
    record.flags |= FLAG_PORTS;
}

fn tcp_flags(header: &TcpHeader) -> u8 {
    let flags =
        [header.fin, header.syn, header.rst, header.psh, header.ack, header.urg, header.ece, header.cwr];
    flags.iter().enumerate().map(|(bit, set)| u8::from(*set) << bit).sum()
}

fn order() -> impl Strategy<Value = Order> {
    let vlan = option::of(option::of(vlan()));
    (vlan, prop_oneof![ipv4(true), ipv6(true)], above(), payload())
        .prop_map(|(vlan, ip, above, payload)| Order { vlan, ip, above, payload })
}

fn vlan() -> impl Strategy<Value = VlanHeader> {
    let single = || {
        (0..4096_u16, 0..8_u8, any::<bool>()).prop_map(|(id, priority, drop_eligible_indicator)| {
            SingleVlanHeader {
                pcp: priority.try_into().expect("three bits"),
                drop_eligible_indicator,
                vlan_id: id.try_into().expect("twelve bits"),
                ..SingleVlanHeader::default()
            }
        })
    };
    prop_oneof![
        single().prop_map(VlanHeader::Single),
        (single(), single()).prop_map(|(outer, inner)| VlanHeader::Double(DoubleVlanHeader { outer, inner })),
    ]
}

/// Offset in units of eight bytes and more-fragments; mostly no fragment.
fn fragment_state(fragments: bool) -> impl Strategy<Value = (IpFragOffset, bool)> {
    let offset = |units: u16| IpFragOffset::try_new(units).expect("thirteen bits");
    let some = (0..8192_u16, any::<bool>()).prop_map(move |(units, more)| (offset(units), more));
    let none = Just((IpFragOffset::ZERO, false));
    prop_oneof![3 => none, u32::from(fragments) => some]
}

fn ipv4(fragments: bool) -> proptest::strategy::BoxedStrategy<IpHeaders> {
    let header = (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<u8>(), any::<u8>(), any::<u16>(), any::<bool>());
    (header, fragment_state(fragments), 0..=10_usize, authentication())
        .prop_map(
            |(
                (source, destination, ttl, class, id, whole),
                (fragment_offset, more_fragments),
                words,
                auth,
            )| {
                let header = Ipv4Header {
                    dscp: (class >> 2).try_into().expect("six bits"),
                    ecn: (class & 3).try_into().expect("two bits"),
                    identification: id,
                    dont_fragment: whole,
                    more_fragments,
                    fragment_offset,
                    time_to_live: ttl,
                    source,
                    destination,
                    options: Ipv4Options::try_from(&vec![1; 4 * words][..]).expect("whole words"),
                    ..Ipv4Header::default()
                };
                // Of a fragment we say that the authentication header is its protocol: it is not whole.
                let auth = auth.filter(|_| !header.is_fragmenting_payload());
                IpHeaders::Ipv4(header, Ipv4Extensions { auth })
            },
        )
        .boxed()
}

fn ipv6(fragments: bool) -> proptest::strategy::BoxedStrategy<IpHeaders> {
    let raw = || {
        option::of((0..4_usize).prop_map(|units| {
            Ipv6RawExtHeader::new_raw(IpNumber::UDP, &vec![1; 6 + 8 * units]).expect("whole units")
        }))
    };
    let fragment = option::of(
        (fragment_state(fragments), any::<u32>())
            .prop_map(|((offset, more), id)| Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, id)),
    );
    let header = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u8>(), any::<u8>());
    (header, raw(), raw(), raw(), raw(), fragment, authentication())
        .prop_map(|((source, destination, ttl, class), hops, options, routing, last, fragment, auth)| {
            // Behind the header of a true fragment we look no further.
            let ends = fragment.as_ref().is_some_and(Ipv6FragmentHeader::is_fragmenting_payload);
            let extensions = Ipv6Extensions {
                hop_by_hop_options: hops,
                destination_options: options,
                routing: routing.map(|routing| Ipv6RoutingExtensions {
                    routing,
                    final_destination_options: last.filter(|_| !ends),
                }),
                fragment,
                auth: auth.filter(|_| !ends),
            };
            let header = Ipv6Header {
                traffic_class: class,
                hop_limit: ttl,
                source,
                destination,
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, extensions)
        })
        .boxed()
}

fn authentication() -> impl Strategy<Value = Option<IpAuthHeader>> {
    option::weighted(0.3, 0..8_usize).prop_map(|words| {
        // The header is a multiple of eight bytes long in IPv6.
        words.map(|words| {
            IpAuthHeader::new(IpNumber::UDP, 1, 2, &vec![3; 4 + 8 * words]).expect("whole words")
        })
    })
}

fn above() -> impl Strategy<Value = Above> {
    let port = || prop_oneof![any::<u16>(), Just(8472), Just(6081)];
    prop_oneof![
        2 => (port(), port()).prop_map(|(source, destination)| Above::Udp(source, destination)),
        3 => tcp(),
        1 => any::<(bool, u16, u16)>()
            .prop_map(|(reply, identifier, sequence)| Above::Echo { reply, identifier, sequence }),
        1 => (prop_oneof![1..8_u8, 9..128_u8, 130..=255_u8], any::<u8>())
            .prop_map(|(kind, code)| Above::OtherIcmp { kind, code }),
        1 => prop_oneof![Just(50), Just(89), Just(112), Just(59), 141..=255_u8].prop_map(Above::Protocol),
    ]
}

fn tcp() -> impl Strategy<Value = Above> {
    let option = prop_oneof![
        4 => Just(TcpOptionElement::Noop),
        1 => any::<u16>().prop_map(TcpOptionElement::MaximumSegmentSize),
        1 => any::<u8>().prop_map(TcpOptionElement::WindowScale),
        1 => Just(TcpOptionElement::SelectiveAcknowledgementPermitted),
        1 => any::<(u32, u32)>()
            .prop_map(|block| TcpOptionElement::SelectiveAcknowledgement(block, [None; 3])),
    ];
    let timestamps = option::of((any::<u32>(), any::<u32>(), any::<Index>()));
    let header = (any::<u16>(), any::<u16>(), any::<u32>(), any::<u32>(), any::<u16>(), any::<u8>());
    (header, vec(option, 0..8), timestamps).prop_filter_map(
        "options that fit",
        |((source, destination, sequence, acknowledgment, window, flags), mut options, timestamps)| {
            let timestamps = timestamps.map(|(value, echo, place)| {
                options.insert(place.index(options.len() + 1), TcpOptionElement::Timestamp(value, echo));
                (value, echo)
            });
            let bit = |n: u8| flags >> n & 1 == 1;
            let mut header = TcpHeader {
                acknowledgment_number: acknowledgment,
                fin: bit(0),
                syn: bit(1),
                rst: bit(2),
                psh: bit(3),
                ack: bit(4),
                urg: bit(5),
                ece: bit(6),
                cwr: bit(7),
                ..TcpHeader::new(source, destination, sequence, window)
            };
            header.set_options(&options).ok()?;
            Some(Above::Tcp(Box::new(header), timestamps))
        },
    )
}

/// An ICMP error's payload may look like a packet that it quotes; `quotes` has the tests of that.
fn without_quote(mut record: HopRecord) -> HopRecord {
    if record.flags & FLAG_QUOTE != 0 {
        record.set_quote(&QuoteRecord { transport: Some((0, 0)), ..QuoteRecord::default() });
        record.flags &= !(FLAG_QUOTE | FLAG_QUOTE_TRANSPORT);
    }
    record
}

proptest! {
    #[test]
    fn what_etherparse_writes_is_read_as_it_was_ordered(order in order()) {
        let record = without_quote(observe::observe(&order.written(), order.link(), 0).unwrap());

        prop_assert_eq!(record, HopRecord { fingerprint: record.fingerprint, ..order.expected() });
    }

    #[test]
    fn tunnels_that_etherparse_writes_are_read_as_they_were_ordered(
        inner in order(),
        outer in prop_oneof![ipv4(false), ipv6(false)],
        (vni, bridged) in (0..1_u32 << 24, any::<bool>()),
        port in prop_oneof![Just(4789), Just(8472)],
    ) {
        let inner = Order { vlan: None, ..inner };
        let inner_v4 = matches!(inner.ip, IpHeaders::Ipv4(..));
        let over = |above, payload| Order { vlan: None, ip: outer.clone(), above, payload }.written();
        let (packet, kind, identifier, port) = if bridged {
            let ether_type = if inner_v4 { ETHER_IPV4 } else { ETHER_IPV6 };
            let frame = vxlan(vni, &ethernet(ether_type, &inner.written()));
            (over(Above::Udp(50_000, port), frame), TUNNEL_VXLAN, vni, port)
        } else {
            let kind = match (&outer, inner_v4) {
                (IpHeaders::Ipv4(..), true) => TUNNEL_IPIP,
                (IpHeaders::Ipv4(..), false) => TUNNEL_SIT,
                (IpHeaders::Ipv6(..), true) => TUNNEL_IP4_IN_IP6,
                (IpHeaders::Ipv6(..), false) => TUNNEL_IP6_IN_IP6,
            };
            (over(Above::Protocol(if inner_v4 { 4 } else { 41 }), inner.written()), kind, 0, 0)
        };

        let record = without_quote(observe::ip(&packet).unwrap());

        let around = expected_of_ip(&outer);
        let tunnel = Tunnel {
            source: around.source,
            destination: around.destination,
            ttl: around.ttl,
            identifier,
            port: port.to_be_bytes(),
            kind,
        };
        prop_assert_eq!(record, HopRecord {
            fingerprint: record.fingerprint,
            tunnel_count: 1,
            tunnels: [tunnel, Tunnel::default()],
            ..inner.expected()
        });
    }

    #[test]
    fn what_etherparse_reads_we_read_alike(order in order()) {
        agree(&order.written(), order.link())?;
    }

    #[test]
    fn what_etherparse_still_reads_after_damage_we_read_alike(
        order in order(),
        damage in vec((any::<Index>(), any::<u8>()), 1..4),
        cut in option::weighted(0.2, any::<Index>()),
    ) {
        let mut bytes = order.written();
        for (place, byte) in damage {
            // Headers are what matters.
            let place = place.index(bytes.len().min(120));
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        agree(&bytes, order.link())?;
    }
}

/// Whatever etherparse makes sense of, we make the same sense of.
fn agree(bytes: &[u8], link: Link) -> TestCaseResult {
    let theirs = match link {
        Link::Ethernet => SlicedPacket::from_ethernet(bytes),
        Link::None => SlicedPacket::from_ip(bytes),
    };
    let Ok(theirs) = theirs else { return Ok(()) };
    let ours = observe::observe(bytes, link, 0);
    let (source, destination, payload) = match &theirs.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (mapped(header.source()), mapped(header.destination()), ip.payload().clone())
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            (header.source(), header.destination(), ip.payload().clone())
        }
        Some(NetSlice::Arp(_)) | None => {
            prop_assert_eq!(ours, Err(ParseError::NotIp));
            return Ok(());
        }
    };
    let ours = match ours {
        Ok(ours) => ours,
        // They look into no fragment, no tunnel and no SCTP.
        Err(_) if payload.fragmented || goes_on_for_us_only(payload.ip_number) => return Ok(()),
        Err(error) => return Err(TestCaseError::fail(format!("{error:?}: {theirs:?}"))),
    };
    if ours.tunnel_count != 0 {
        return Ok(());
    }
    prop_assert_eq!((ours.source, ours.destination), (source, destination));
    if goes_on_for_us_only(payload.ip_number) {
        return Ok(());
    }
    prop_assert_eq!(ours.flags & FLAG_FRAGMENT != 0, payload.fragmented);
    // Behind the header of a fragment we read no more extension headers, and behind the end of the chain nothing.
    if payload.fragmented || payload.ip_number == IpNumber::IPV6_NO_NEXT_HEADER {
        return Ok(());
    }
    prop_assert_eq!(ours.protocol, payload.ip_number.0);
    let ports = (u16::from_be_bytes(ours.source_port), u16::from_be_bytes(ours.destination_port));
    let in_ip = payload.payload.len();
    match &theirs.transport {
        Some(TransportSlice::Udp(udp)) => {
            prop_assert_eq!(ports, (udp.source_port(), udp.destination_port()));
            prop_assert_eq!(ours.payload_length as usize, in_ip - 8);
        }
        Some(TransportSlice::Tcp(tcp)) => {
            prop_assert_eq!(ports, (tcp.source_port(), tcp.destination_port()));
            prop_assert_eq!(ours.sequence, tcp.sequence_number());
            prop_assert_eq!(ours.acknowledgment, tcp.acknowledgment_number());
            prop_assert_eq!(ours.window, tcp.window_size());
            prop_assert_eq!(ours.tcp_flags, tcp_flags(&tcp.to_header()));
            prop_assert_eq!(ours.payload_length as usize, tcp.payload().len());
            let stamp =
                tcp.options_iterator().take_while(Result::is_ok).flatten().find_map(|option| match option {
                    TcpOptionElement::Timestamp(value, echo) => Some((value, echo)),
                    _ => None,
                });
            // etherparse stops at options that it does not know, we pass them.
            if let Some(stamp) = stamp {
                prop_assert_eq!((ours.timestamp_value, ours.timestamp_echo), stamp);
            }
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            prop_assert_eq!((ours.icmp_type, ours.icmp_code), (icmp.type_u8(), icmp.code_u8()));
            prop_assert_eq!(ours.payload_length as usize, in_ip - 8);
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            prop_assert_eq!((ours.icmp_type, ours.icmp_code), (icmp.type_u8(), icmp.code_u8()));
            prop_assert_eq!(ours.payload_length as usize, in_ip - 8);
        }
        Some(TransportSlice::Igmp(_)) | None => {}
    }
    Ok(())
}

/// Protocols that etherparse takes for payload: what we know of tunnels, SCTP, mobility, HIP and Shim6.
const fn goes_on_for_us_only(protocol: IpNumber) -> bool {
    matches!(protocol.0, 4 | 41 | 47 | 132 | 135 | 139 | 140)
}
