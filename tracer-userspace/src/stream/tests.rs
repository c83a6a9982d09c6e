use std::io::{self, Cursor, Read};
use std::sync::Arc;

use proptest::prelude::*;
use prost::Message as _;
use tracer_common::ABI_VERSION;

use super::read::{StreamError, StreamReader};
use super::wire::message::Kind;
use super::write::StreamWriter;
use super::*;
use crate::trajectory::model::{DropPlace, Sighting};
use crate::trajectory::testing::{CURL, HTTPBIN, ROUTED, World, drop_at, ping, two_nodes};

#[test]
fn what_is_written_is_read() {
    let (world, sightings) = some_pings();
    let bytes = stream(&world, &sightings);
    let told = read_all(&bytes[..]).unwrap();
    assert_eq!(told.first(), Some(&Told::Hello(hello())));
    assert_eq!(told.last(), Some(&Told::End { reason: "interrupted".to_owned() }));
    let read: Vec<_> = told
        .iter()
        .filter_map(|told| match told {
            Told::Sightings(sightings) => Some(sightings),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(read.len(), sightings.len());
    for (read, written) in read.iter().zip(&sightings) {
        assert_eq!(
            (read.point, read.time_ns, &read.packet),
            (written.point.id.0, written.time_ns, &written.packet)
        );
    }
    let points = told.iter().filter(|told| matches!(told, Told::Point { .. })).count();
    assert_eq!(points, world.points.len());
    let drops = told.iter().filter(|told| matches!(told, Told::Drop(_))).count();
    assert_eq!(drops, 1);
    assert!(told.contains(&Told::Heartbeat(HEARTBEAT)) && told.contains(&Told::Counts(counts())));
}

#[test]
fn a_point_is_read_as_it_was_written() {
    let (mut world, _) = some_pings();
    world.hide("n1/eth0>", "cil_to_netdev");
    for written in &world.points {
        let (read, since_ns) = convert::point_from_wire(convert::point_to_wire(written, 7)).unwrap();
        assert_eq!(since_ns, 7);
        let clock = written.clock;
        assert_eq!(ObservationPoint { clock, ..read }, **written);
    }
}

#[test]
fn a_drop_is_read_as_it_was_written() {
    let bare = dropped();
    let mut full = dropped();
    full.place = Arc::new(DropPlace {
        pod: some_pings().0.points.iter().find_map(|point| point.pod.clone()),
        device: Some("lxccurl".into()),
        function: Some("nf_hook_slow".into()),
        ..DropPlace::clone(&full.place)
    });
    assert!(full.place.pod.is_some());
    for written in [bare, full] {
        let read = convert::drop_from_wire(convert::drop_to_wire(&written)).unwrap();
        assert_eq!(DropSighting { clock: written.clock, follows: written.follows, ..read }, written);
    }
}

#[test]
fn a_stream_that_is_cut_off_anywhere_says_so_behind_what_was_whole() {
    let (world, sightings) = some_pings();
    let whole = stream(&world, &sightings);
    let all = read_all(&whole[..]).unwrap();
    for length in 1..whole.len() {
        let mut told = Vec::new();
        let error = read_into(&whole[..length], &mut told).unwrap_err();
        assert!(matches!(error, StreamError::CutOff { .. }), "{length}: {error}");
        assert_eq!(told[..], all[..told.len()], "{length}");
    }
    assert!(matches!(read_all(&whole[..0]).unwrap_err(), StreamError::Empty));
}

#[test]
fn what_is_no_stream_is_called_so() {
    for bytes in [&b"Last login: Sun Nov 22\n"[..], b"{\"schema\":\"tracer.trajectory/v1\"}", &[0; 64]] {
        assert!(matches!(read_all(bytes).unwrap_err(), StreamError::NotAStream));
    }
}

#[test]
fn a_stream_of_another_version_names_both() {
    let newer = wire::Hello { format: FORMAT + 1, abi: ABI_VERSION, ..hello_of("9.9.9") };
    let error = read_all(&raw([Kind::Hello(newer)])[..]).unwrap_err().to_string();
    assert!(error.contains("format 2") && error.contains("9.9.9") && error.contains("format 1"), "{error}");
    let other = wire::Hello { format: FORMAT, abi: ABI_VERSION + 1, ..hello_of("9.9.9") };
    let error = read_all(&raw([Kind::Hello(other)])[..]).unwrap_err().to_string();
    assert!(error.contains("ABI") && error.contains("9.9.9"), "{error}");
}

#[test]
fn what_a_later_version_adds_is_passed_over() {
    let mut bytes = raw([Kind::Hello(wire::Hello { format: FORMAT, abi: ABI_VERSION, ..hello_of("0.2.0") })]);
    // Field 99, a string: no kind that this version knows.
    bytes.extend([5, 0x9a, 0x06, 0x02, b'h', b'i']);
    bytes.extend(framed(Kind::End(wire::End { reason: "done".to_owned() })));
    assert_eq!(read_all(&bytes[..]).unwrap().last(), Some(&Told::End { reason: "done".to_owned() }));
}

#[test]
fn a_length_that_nobody_writes_is_refused_before_memory_is_taken_for_it() {
    for length in [&[0xff, 0xff, 0xff, 0x7f][..], &[0xff; 10], &[0x81, 0x80, 0x10]] {
        let mut bytes = raw([Kind::Hello(wire::Hello { format: FORMAT, abi: ABI_VERSION, ..hello_of("") })]);
        bytes.extend(length);
        let error = read_all(Cursor::new(bytes).chain(io::repeat(0))).unwrap_err();
        assert!(matches!(error, StreamError::TooLong { number: 2 }), "{error}");
    }
}

#[test]
fn what_cannot_be_true_is_an_error() {
    let good = || convert::sighting_to_wire(&some_pings().1[0], None);
    let long = || "x".repeat(600);
    let sightings = |sighting| Kind::Sightings(wire::Sightings { sightings: vec![sighting] });
    let point = |change: fn(&mut wire::Point)| {
        let mut point = convert::point_to_wire(&some_pings().0.points[0], 0);
        change(&mut point);
        Kind::Point(point)
    };
    let cases = [
        sightings(wire::Sighting { ttl: 256, ..good() }),
        sightings(wire::Sighting { gso_segments: 65536, ..good() }),
        sightings(wire::Sighting { source: vec![1, 2, 3], ..good() }),
        sightings(wire::Sighting { payload_length: u32::MAX, ..good() }),
        sightings(wire::Sighting { source_port: Some(80), destination_port: None, ..good() }),
        sightings(wire::Sighting { encapsulation: vec![wire::Encapsulation::default(); 99], ..good() }),
        Kind::Sightings(wire::Sightings { sightings: vec![good(); MAX_SIGHTINGS + 1] }),
        point(|point| point.direction = 17),
        point(|point| point.role = 0),
        point(|point| point.node.clear()),
        point(|point| point.device = "x".repeat(600)),
        Kind::Drop(Box::new(wire::Drop { packet: None, ..convert::drop_to_wire(&dropped()) })),
        Kind::Drop(Box::new(wire::Drop { node: String::new(), ..convert::drop_to_wire(&dropped()) })),
        Kind::Drop(Box::new(wire::Drop { reason: String::new(), ..convert::drop_to_wire(&dropped()) })),
        Kind::Drop(Box::new(wire::Drop { function: long(), ..convert::drop_to_wire(&dropped()) })),
        Kind::Hello(hello_of("")),
        Kind::End(wire::End { reason: long() }),
    ];
    for case in cases {
        let told = format!("{case:?}");
        let first = Kind::Hello(wire::Hello { format: FORMAT, abi: ABI_VERSION, ..hello_of("") });
        let error = read_all(&raw([first, case])[..]).unwrap_err();
        assert!(matches!(error, StreamError::Invalid { number: 2, .. }), "{told:.200}: {error}");
    }
}

proptest! {
    #[test]
    fn damaged_bytes_are_an_error_or_another_stream_and_never_a_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let (world, sightings) = some_pings();
        let mut bytes = stream(&world, &sightings);
        for (index, byte) in damage {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let mut told = Vec::new();
        let _ = read_into(&bytes[..], &mut told);
        // Whatever it says now, it can be joined with.
        let mut correlator = world.correlator(Default::default());
        for sighted in told.into_iter().flat_map(|told| if let Told::Sightings(all) = told { all } else { Vec::new() }) {
            if let Some(point) = world.points.get(sighted.point as usize) {
                let Sighted { time_ns, packet, .. } = sighted;
                correlator.push(Sighting { point: point.clone(), time_ns, follows: 1, packet, frame: None });
            }
        }
        correlator.advance(1_000, &mut |_| {});
        correlator.finish(&mut |_| {});
    }

    #[test]
    fn any_bytes_behind_the_beginning_are_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let first = Kind::Hello(wire::Hello { format: FORMAT, abi: ABI_VERSION, ..hello_of("") });
        let mut stream = raw([first]);
        stream.extend(bytes);
        let _ = read_all(&stream[..]);
    }
}

const HEARTBEAT: Heartbeat = Heartbeat { monotonic_ns: 5_000_000_000, wall_ns: 1_700_000_005_000_000_000 };

fn hello() -> Hello {
    Hello {
        tracer: "0.1.0".to_owned(),
        kernel_release: "6.12.95".to_owned(),
        boot_id: "6c3a".to_owned(),
        monotonic_ns: HEARTBEAT.monotonic_ns - 1,
        wall_ns: HEARTBEAT.wall_ns - 1,
        nodes: vec!["n1".to_owned()],
        watches_drops: true,
    }
}

fn counts() -> Counts {
    Counts {
        outcomes: [("recorded".to_owned(), 12)].into(),
        losses: Losses { ring_full: 3, ..Losses::default() },
        at_points: [(1, 3)].into(),
    }
}

fn dropped() -> DropSighting {
    drop_at(&two_nodes(false, "vxlan"), "n1", "NETFILTER_DROP", 2_500_000, &ping(CURL, HTTPBIN, 2))
}

fn some_pings() -> (World, Vec<Sighting>) {
    let world = two_nodes(false, "vxlan");
    let sightings =
        (1..4u64).flat_map(|n| world.walk(n * 1_000_000, &ping(CURL, HTTPBIN, n as u32), ROUTED)).collect();
    (world, sightings)
}

fn stream(world: &World, sightings: &[Sighting]) -> Vec<u8> {
    let mut writer = StreamWriter::begin(Vec::new(), hello()).unwrap();
    for point in &world.points {
        writer.point(point, 1).unwrap();
    }
    for sighting in sightings {
        writer.sighting(sighting).unwrap();
    }
    writer.dropped(&dropped()).unwrap();
    writer.counts(&counts()).unwrap();
    writer.heartbeat(HEARTBEAT).unwrap();
    writer.end("interrupted").unwrap()
}

fn hello_of(writer: &str) -> wire::Hello {
    wire::Hello { tracer: writer.to_owned(), boot_id: "6c3a".to_owned(), ..wire::Hello::default() }
}

fn raw(kinds: impl IntoIterator<Item = Kind>) -> Vec<u8> {
    MAGIC.into_iter().chain(kinds.into_iter().flat_map(framed)).collect()
}

fn framed(kind: Kind) -> Vec<u8> {
    wire::Message { kind: Some(kind) }.encode_length_delimited_to_vec()
}

fn read_all(bytes: impl Read) -> Result<Vec<Told>, StreamError> {
    let mut told = Vec::new();
    read_into(bytes, &mut told).map(|()| told)
}

fn read_into(bytes: impl Read, told: &mut Vec<Told>) -> Result<(), StreamError> {
    let mut reader = StreamReader::begin(bytes)?;
    while let Some(next) = reader.read_told()? {
        told.push(next);
    }
    Ok(())
}
