//! Hostile bytes: no panic, no read outside the packet, bounded work.

use std::cell::Cell;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::Index;
use tracer_common::packet::{
    DEFAULT_VXLAN_PORTS, Headers, Link, MAX_EXTENSIONS, MAX_LAYERS, MAX_OFFSET, MAX_VLAN_TAGS, ParseError,
    Reader, SliceReader,
};
use tracer_common::record::HopRecord;

use crate::bytes::{
    AUTHENTICATION, ETHER_IPV4, ETHER_IPV6, ETHER_VLAN, FRAGMENT, OPTIONS, TCP, Tcp, UDP, V4, V6,
    authentication, ethernet, extension, fragment, join, udp, vlan,
};
use crate::observe;
use crate::random;

/// Most steps of one packet: of each layer an EtherType, its VLAN tags, IP, its extensions and the transport; the end of the
/// walk, twelve TCP options, and three of the description.
const MOST_STEPS: u32 = MAX_LAYERS * (1 + MAX_VLAN_TAGS + 1 + MAX_EXTENSIONS + 1) + 1 + 12 + 3;
/// Most reads of one packet, parsed and described. Each costs a bounds check in the kernel.
const MOST_READS: u32 = 100;

/// Watches what is read, and judges it by bounds of its own.
struct Watched<'a> {
    packet: SliceReader<'a>,
    bytes: &'a [u8],
    reads: Cell<u32>,
    steps: Cell<u32>,
}

impl<'a> Watched<'a> {
    fn new(bytes: &'a [u8], length: u32) -> Self {
        let packet = SliceReader::with_length(bytes, length);
        Self { packet, bytes, reads: Cell::new(0), steps: Cell::new(0) }
    }

    fn watch<T>(&self, offset: u32, size: u32, value: Option<T>) -> Option<T> {
        self.reads.set(self.reads.get() + 1);
        assert!(offset + size - 1 <= MAX_OFFSET, "asked for {size} bytes at {offset}");
        let inside = (offset + size) as usize <= self.bytes.len();
        assert_eq!(value.is_some(), inside, "{size} bytes at {offset} of {}", self.bytes.len());
        value
    }
}

impl Reader for Watched<'_> {
    fn u8(&self, offset: u32) -> Option<u8> {
        self.watch(offset, 1, self.packet.u8(offset))
    }

    fn u16(&self, offset: u32) -> Option<u16> {
        self.watch(offset, 2, self.packet.u16(offset))
    }

    fn u32(&self, offset: u32) -> Option<u32> {
        self.watch(offset, 4, self.packet.u32(offset))
    }

    fn word(&self, offset: u32) -> Option<u64> {
        self.watch(offset, 8, self.packet.word(offset))
    }

    fn words(&self, offset: u32) -> Option<[u64; 2]> {
        self.watch(offset, 16, self.packet.words(offset))
    }

    fn length(&self) -> u32 {
        self.packet.length()
    }

    fn step(&self) {
        self.steps.set(self.steps.get() + 1);
    }
}

/// Parses and describes with all that is asked being watched; gives the number of reads.
fn survive(bytes: &[u8], length: u32, gso_size: u16) -> u32 {
    [Link::Ethernet, Link::None]
        .map(|link| {
            let reader = Watched::new(bytes, length);
            let mut headers = Headers::default();
            if headers.parse(&reader, link, &DEFAULT_VXLAN_PORTS).is_ok() {
                let mut record = HopRecord { gso_size, ..HopRecord::default() };
                // Each may refuse the packet, none may fail otherwise.
                let _ = headers.addresses(&reader);
                let _ = headers.ports(&reader);
                let _ = headers.describe(&reader, &mut record);
            }
            assert!(reader.steps.get() <= MOST_STEPS, "{} steps", reader.steps.get());
            assert!(reader.reads.get() <= MOST_READS, "{} reads", reader.reads.get());
            reader.reads.get()
        })
        .into_iter()
        .max()
        .unwrap_or(0)
}

/// Random bytes that get past the first checks more often than not.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        vec(any::<u8>(), 1..24),
        prop_oneof![Just(ETHER_IPV4), Just(ETHER_IPV6), Just(ETHER_VLAN)]
            .prop_map(|ether_type| ethernet(ether_type, b"")),
        (any::<u8>(), any::<u16>()).prop_map(|(next, length)| V4::default().with_length(length, next, b"")),
        (any::<u8>(), any::<u16>()).prop_map(|(next, length)| V6::default().with_length(length, next, b"")),
        prop_oneof![Just(0), Just(4), Just(17), Just(41), Just(43), Just(44), Just(47), Just(51), Just(60)]
            .prop_map(|next| V6::default().with_length(0, next, b"")),
        (prop_oneof![Just(0), Just(44), Just(43), Just(60), Just(51), Just(4), Just(41)], any::<u8>())
            .prop_map(|(next, units)| extension(next, units, b"")),
        prop_oneof![Just(4789), Just(8472), Just(6081)].prop_map(|port| udp(
            1,
            port,
            0,
            &[8, 0, 0x65, 0x58, 0, 0, 1, 0]
        )),
        vec(any::<u8>(), 0..40).prop_map(|options| Tcp { options, ..Tcp::default() }.around(b"")),
    ];
    vec(piece, 1..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(
        bytes in vec(any::<u8>(), 0..600),
        length in any::<u32>(),
        gso_size in any::<u16>(),
    ) {
        survive(&bytes, length, gso_size);
        survive(&bytes, bytes.len() as u32, gso_size);
    }

    #[test]
    fn bytes_made_of_headers_do_no_harm(
        bytes in plausible(),
        length in any::<u32>(),
        gso_size in any::<u16>(),
    ) {
        survive(&bytes, length, gso_size);
        survive(&bytes, bytes.len() as u32, gso_size);
    }

    #[test]
    fn damaged_packets_do_no_harm(
        (packet, dress) in (random::packet(), random::dress()),
        damage in vec((any::<Index>(), any::<u8>()), 0..8),
        cut in proptest::option::of(any::<Index>()),
        (length, gso_size) in any::<(u32, u16)>(),
    ) {
        let (mut bytes, _) = dress.around(&packet);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] ^= byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        survive(&bytes, length, gso_size);
        survive(&bytes, bytes.len() as u32, gso_size);
    }

    #[test]
    fn a_packet_cut_anywhere_is_described_whole_or_not_at_all(
        (packet, dress) in (random::packet(), random::dress()),
        cut in any::<Index>(),
    ) {
        let (bytes, link) = dress.around(&packet);
        let cut = &bytes[..cut.index(bytes.len())];

        let whole = observe::observe(&bytes, link, 0);
        let seen = observe::observe_with(
            &SliceReader::with_length(cut, bytes.len() as u32), link, &DEFAULT_VXLAN_PORTS, 0,
        );

        prop_assert!(seen == whole || seen == Err(ParseError::Truncated), "{seen:?}");
    }

    #[test]
    fn what_was_parsed_before_leaves_no_trace(first in plausible(), second in random::packet()) {
        let bytes = second.bytes();
        let reader = SliceReader::new(&bytes);
        let (mut used, mut fresh) = (Headers::default(), Headers::default());
        let _ = used.parse(&SliceReader::new(&first), Link::Ethernet, &DEFAULT_VXLAN_PORTS);

        prop_assert_eq!(used.parse(&reader, Link::None, &DEFAULT_VXLAN_PORTS), Ok(()));
        prop_assert_eq!(fresh.parse(&reader, Link::None, &DEFAULT_VXLAN_PORTS), Ok(()));
        prop_assert_eq!(used, fresh);
    }
}

#[test]
fn a_reader_in_memory_refuses_what_the_one_in_the_kernel_refuses() {
    let bytes = vec![7; 2 * MAX_OFFSET as usize];
    let reader = SliceReader::new(&bytes);
    for offset in [MAX_OFFSET + 1, bytes.len() as u32 - 8, bytes.len() as u32, u32::MAX] {
        let answers = (reader.u8(offset), reader.u16(offset), reader.u32(offset), reader.word(offset));
        assert_eq!(answers, (None, None, None, None), "at {offset}");
    }
    assert_eq!((reader.u8(MAX_OFFSET), reader.word(MAX_OFFSET)), (Some(7), Some(0x0707_0707_0707_0707)));
    let short = SliceReader::with_length(&bytes[..3], 1000);
    assert_eq!((short.u16(1), short.u16(2), short.u8(3), short.length()), (Some(0x0707), None, None, 1000));
}

#[test]
fn endless_vlan_tags_are_too_deep() {
    let ip = V4::default().around(UDP, &udp(1, 2, 0, b"x"));
    let tags = |count: usize| {
        let nested = (1..count).fold(vlan(1, ETHER_IPV4, &ip), |inner, _| vlan(1, ETHER_VLAN, &inner));
        ethernet(ETHER_VLAN, &nested)
    };
    let most = MAX_VLAN_TAGS as usize;

    assert!(observe::ethernet(&tags(most)).is_ok());
    assert_eq!(observe::ethernet(&tags(most + 1)), Err(ParseError::TooDeep));
    assert_eq!(observe::ethernet(&tags(400)), Err(ParseError::TooDeep));
    survive(&tags(400), u32::MAX, 0);
}

#[test]
fn endless_extension_headers_are_too_deep() {
    let datagram = udp(1, 2, 0, b"x");
    let chain = |count: usize| {
        let nested = (1..count).fold(extension(UDP, 0, &datagram), |inner, _| extension(OPTIONS, 0, &inner));
        V6::default().around(OPTIONS, &nested)
    };
    let most = MAX_EXTENSIONS as usize;

    assert!(observe::ip(&chain(most)).is_ok());
    assert_eq!(observe::ip(&chain(most + 1)), Err(ParseError::TooDeep));
    let authentications = (0..200).fold(datagram, |inner, _| authentication(AUTHENTICATION, &inner));
    let authentications = V6::default().around(AUTHENTICATION, &authentications);
    assert_eq!(observe::ip(&authentications), Err(ParseError::TooDeep));
    survive(&authentications, u32::MAX, 0);
}

#[test]
fn headers_too_far_away_are_too_deep_and_not_truncated() {
    let segment = Tcp { options: vec![1; 40], ..Tcp::default() }.around(&[0; 40]);
    // 40 bytes of IPv6 and an extension header as long as it takes to get there.
    let with_transport_at = |offset: u32| {
        let units = ((offset - 40) / 8 - 1) as u8;
        V6::default().around(OPTIONS, &extension(TCP, units, &segment))
    };
    let last = MAX_OFFSET - 127;

    for offset in (48..=last).step_by(8) {
        assert!(observe::ip(&with_transport_at(offset)).is_ok(), "{offset}");
    }
    for offset in (last..2080).step_by(8).skip(1) {
        assert_eq!(observe::ip(&with_transport_at(offset)), Err(ParseError::TooDeep), "{offset}");
        survive(&with_transport_at(offset), u32::MAX, 0);
    }
}

#[test]
fn how_far_is_too_far_does_not_depend_on_the_headers_that_may_still_come() {
    // A chain whose fragment header ends the walk: IPv6, `small` headers of 8 bytes, a large one, the fragment's.
    let chain = |small: u32, fragment_at: u32| {
        let units = ((fragment_at - 40 - 8 * small) / 8 - 1) as u8;
        let large = extension(FRAGMENT, units, &fragment(UDP, 8, false, 1, &[0; 64]));
        let nested = (0..small).fold(large, |inner, _| extension(OPTIONS, 0, &inner));
        V6::default().around(OPTIONS, &nested)
    };
    let most = MAX_EXTENSIONS - 2;
    let last = MAX_OFFSET - 127;

    for small in [most - 1, most] {
        assert!(observe::ip(&chain(small, last - 8)).is_ok());
        assert_eq!(observe::ip(&chain(small, last)), Err(ParseError::TooDeep));
    }
}

#[test]
fn the_most_work_that_a_packet_can_ask_for_is_bounded() {
    // Two tunnels with all there is around, TCP with as many options as are looked at, and a chain of extensions.
    let options = join(&[&[1; 40]]);
    let inner = V6::default().around(
        OPTIONS,
        &(0..4).fold(extension(TCP, 0, &Tcp { options, ..Tcp::default() }.around(b"")), |inner, _| {
            extension(OPTIONS, 0, &inner)
        }),
    );
    let middle = V6::default().around(41, &inner);
    let frame = ethernet(ETHER_VLAN, &vlan(1, ETHER_IPV6, &V6::default().around(41, &middle)));
    assert!(observe::ethernet(&frame).is_ok());

    let reads = survive(&frame, frame.len() as u32, 0);

    assert!((40..MOST_READS).contains(&reads), "{reads} reads");
}
