//! What is written is read again as it was; what others wrote is understood; what makes no sense is said to.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracer_common::record::{HOP_RECORD_SIZE, HopRecord};
use tracer_pcap::link::{COOKED_2, ETHERNET, RAW};
use tracer_pcap::read::{CaptureReader, Packet as FilePacket, Way};
use tracer_pcap::write::{NewInterface, NewPacket, PcapngWriter};

use super::files::Rotation;
use super::foreign::Place;
use super::read::{Book, CaptureFile, Found};
use super::write::CaptureWriter;
use crate::agent::decode;
use crate::follow::wall::WallClocks;
use crate::node::event::Event;
use crate::node::site::Names;
use crate::trajectory::correlate::CorrelatorConfig;
use crate::trajectory::model::{ClockId, Direction, Frame, ObservationPoint, Sighting, Trajectory};
use crate::trajectory::testing::{World, run, two_nodes};

const CLUSTER: &str = r#"
kind: List
apiVersion: v1
items:
- {kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.168.64.15}]}}
- {kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 192.168.64.17}]}}
- kind: Pod
  metadata: {namespace: default, name: curl, uid: uid-curl}
  spec: {nodeName: n1}
  status: {phase: Running, podIPs: [{ip: 10.244.0.153}]}
- kind: Pod
  metadata: {namespace: default, name: httpbin, uid: uid-httpbin}
  spec: {nodeName: n2}
  status: {phase: Running, podIPs: [{ip: 10.244.1.246}]}
- kind: Pod
  metadata: {namespace: secret, name: vault, uid: u3}
  spec: {nodeName: n2}
  status: {phase: Running, podIPs: [{ip: 10.244.1.99}]}
"#;
const WALL: u64 = 1_795_313_343_000_000_000;

fn names() -> Names {
    let names = Names::none();
    names.add(CLUSTER, 0).unwrap();
    names
}

/// A ping's record at a point, as the kernel side makes it.
fn record(point: &ObservationPoint, time_ns: u64, sequence: u32) -> HopRecord {
    let mapped = |octets: [u8; 4]| tracer_common::filter::mapped(octets);
    HopRecord {
        time_ns,
        ifindex: point.ifindex,
        direction: u8::from(point.direction == Direction::Egress),
        fingerprint: 7 + u64::from(sequence),
        source: mapped([10, 244, 0, 153]),
        destination: mapped([10, 244, 1, 246]),
        version: 4,
        protocol: 1,
        icmp_type: 8,
        sequence,
        ttl: if &*point.node == "n1" { 64 } else { 62 },
        length: 98,
        payload_length: 56,
        identification: 500 + sequence,
        ..HopRecord::default()
    }
}

fn frame(record: &HopRecord, bytes: &[u8]) -> Frame {
    // SAFETY: the record is made of integers without padding.
    let raw = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast::<u8>(), HOP_RECORD_SIZE) };
    Frame([raw, bytes].concat().into())
}

/// Pings over a tunnel-less path, with frames.
fn sightings(world: &World, count: u32) -> Vec<Sighting> {
    let hooks = ["n1/curl:eth0>", "n1/eth0>", "n2/eth0<", "n2/httpbin:eth0<"];
    let mut sightings = Vec::new();
    for sequence in 1..=count {
        for (hop, hook) in (0_u64..).zip(hooks) {
            let Some(point) = world.points.iter().find(|point| name(point) == hook) else { continue };
            let record =
                record(point, 1_000_000_000 + u64::from(sequence) * 1_000_000 + hop * 10_000, sequence);
            let bytes = format!("ping {sequence} hop {hop}");
            sightings.push(decode::sighting(
                &record,
                Some(frame(&record, bytes.as_bytes())),
                Arc::clone(point),
            ));
        }
    }
    sightings
}

fn name(point: &ObservationPoint) -> String {
    let way = if point.direction == Direction::Egress { '>' } else { '<' };
    match &point.pod {
        Some(pod) if &*point.device == "eth0" => format!("{}/{}:eth0{way}", point.node, pod.name),
        _ => format!("{}/{}{way}", point.node, point.device),
    }
}

fn world() -> World {
    two_nodes(false, "")
}

/// The capture of some pings, and the trajectories in it.
fn captured(count: u32) -> (Vec<u8>, Vec<Trajectory>, World) {
    let world = world();
    let mut correlator = world.correlator(CorrelatorConfig::default());
    let told = run(&mut correlator, sightings(&world, count));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cap.pcapng");
    let mut writer =
        CaptureWriter::begin(Some(path.clone()), Rotation::default(), 0, "pings".to_owned(), WALL).unwrap();
    let mut clocks = WallClocks::default();
    for clock in [ClockId(0), ClockId(1)] {
        writer.hear(&Event::Clock { clock, boot_id: format!("boot {}", clock.0) }, WALL, &clocks).unwrap();
        writer.hear_wall_clock(clock, 0, WALL).unwrap();
        clocks.hear(clock, 0, WALL);
    }
    for point in &world.points {
        writer.hear(&Event::Point { point: Arc::clone(point), since_ns: 0 }, WALL, &clocks).unwrap();
    }
    writer.hear(&Event::Lost { node: "n2".into(), records: 3 }, WALL, &clocks).unwrap();
    for trajectory in &told {
        writer.take(trajectory, &names(), &clocks).unwrap();
    }
    writer.flush(WALL + 2_000_000_000, &BTreeMap::new, &clocks).unwrap();
    writer.finish(WALL + 3_000_000_000, &BTreeMap::new(), &clocks).unwrap();
    (std::fs::read(path).unwrap(), told, world)
}

fn found(file: &[u8], place: &str) -> (Vec<Found>, Book, super::read::Skipped) {
    let mut book = Book::default();
    let mut reader = CaptureFile::begin(file, place.parse().unwrap()).unwrap();
    let (mut all, names) = (Vec::new(), names());
    while let Some(found) = reader.read_found(&mut book, &names).unwrap() {
        all.push(found);
    }
    (all, book, reader.skipped())
}

#[test]
fn a_capture_gives_the_sightings_that_it_was_made_from() {
    let (file, told, world) = captured(3);
    assert_eq!(told.len(), 3);
    let (found, book, skipped) = found(&file, "cap.pcapng");
    assert_eq!(skipped.unusable(), 0);
    assert_eq!(book.points().len(), world.points.len());

    let read: Vec<&Sighting> = found
        .iter()
        .filter_map(|found| match found {
            Found::Sighting { sighting, .. } => Some(sighting),
            _ => None,
        })
        .collect();
    let written: Vec<_> = told.iter().flat_map(|trajectory| &trajectory.hops).collect();
    assert_eq!(read.len(), written.len());
    for hop in written {
        let same = |sighting: &&&Sighting| {
            name(&sighting.point) == name(&hop.point)
                && sighting.time_ns == hop.time_ns
                && sighting.packet == hop.packet
        };
        assert_eq!(read.iter().filter(same).count(), 1, "{} at {}", hop.time_ns, name(&hop.point));
    }
    let lost = found.iter().any(|found| matches!(found, Found::Event(Event::Lost { records: 3, .. })));
    assert!(lost, "what was lost is in the file");
}

#[test]
fn a_capture_has_the_names_of_its_packets_and_no_others() {
    let (file, ..) = captured(1);
    let (found, ..) = found(&file, "cap.pcapng");
    let objects: String = found
        .iter()
        .filter_map(|found| match found {
            Found::Objects(objects) => Some(objects.as_str()),
            _ => None,
        })
        .collect();
    let names = Names::none();
    names.add(&objects, 0).unwrap();
    let pods = names.with(|inventory| {
        inventory.pods().map(|entry| format!("{} on {}", entry.pod.name, entry.node)).collect::<Vec<_>>()
    });
    assert_eq!(pods, ["curl on n1", "httpbin on n2"]);
    assert!(!objects.contains("vault"));
}

#[test]
fn packets_have_their_bytes_interface_time_and_who_they_are() {
    let (file, ..) = captured(2);
    let mut reader = CaptureReader::begin(&*file).unwrap();
    let mut packet = FilePacket::default();
    let mut seen = Vec::new();
    while reader.read_packet(&mut packet).unwrap() {
        let interface = reader.interfaces()[packet.interface].clone();
        seen.push((packet.time_ns.unwrap() - WALL, interface.name.unwrap(), packet.clone()));
    }
    let times: Vec<_> = seen.iter().map(|(time_ns, ..)| *time_ns).collect();
    assert!(times.is_sorted(), "{times:?}");
    let (time_ns, interface, first) = &seen[0];
    assert_eq!((*time_ns, interface.as_str()), (1_001_000_000, "n1/curl/curl:eth0/egress"));
    assert_eq!((&*first.bytes, first.length, first.way), (&b"ping 1 hop 0"[..], 98, Some(Way::Out)));
    assert_eq!(
        first.comments,
        ["#1, hop 1 of 6: leaves pod curl pod default/curl -> pod default/httpbin delivered"],
        "(lines are one where they are read)"
    );
    let json = first.custom.iter().find(|custom| custom.value.starts_with(b"{")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.value).unwrap();
    assert_eq!(json, serde_json::json!({ "trajectory": 1, "hop": 1, "hops": 6, "verdict": "delivered" }));
}

#[test]
fn a_capture_that_is_cut_anywhere_gives_what_is_whole() {
    let (file, ..) = captured(2);
    let names = names();
    let mut most = 0;
    for cut in (28..=file.len()).rev().step_by(3).collect::<Vec<_>>().into_iter().rev() {
        let Ok(mut reader) = CaptureFile::begin(&file[..cut], Place::default()) else { continue };
        let (mut book, mut count) = (Book::default(), 0);
        while let Ok(Some(found)) = reader.read_found(&mut book, &names) {
            count += usize::from(matches!(found, Found::Sighting { .. }));
        }
        assert!(count >= most, "cut at {cut}");
        most = count;
    }
    assert_eq!(most, 8);
}

/// An ICMP echo request from curl to httpbin.
fn echo(sequence: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 36, 1, sequence, 0, 0, 64, 1, 0, 0, 10, 244, 0, 153, 10, 244, 1, 246];
    packet.extend([8, 0, 0, 0, 0, 77, 0, sequence]);
    packet.extend([sequence; 8]);
    packet
}

fn foreign(link_type: u16, packets: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut writer = PcapngWriter::begin(&mut file, "somebody", "").unwrap();
    let interface =
        NewInterface { link_type, snaplen: 0, name: "any", description: "", custom_text: None, custom: None };
    let interface = writer.add_interface(&interface).unwrap();
    for (time_ns, bytes) in packets {
        let length = bytes.len() as u32;
        writer
            .packet(&NewPacket {
                interface,
                time_ns: *time_ns,
                length,
                bytes,
                way: None,
                comment: "",
                custom_text: None,
                custom: None,
            })
            .unwrap();
    }
    writer.flush().unwrap();
    file
}

fn points(found: &[Found]) -> Vec<String> {
    let sightings = found.iter().filter_map(|found| match found {
        Found::Sighting { sighting, .. } => Some(&sighting.point),
        _ => None,
    });
    sightings.map(|point| format!("{} {:?}", name(point), point.role)).collect()
}

#[test]
fn where_a_capture_was_taken_is_said_by_the_user_and_which_way_by_the_inventory() {
    let raw = foreign(RAW, &[(WALL, echo(1))]);
    let ethernet = [&[0; 12][..], &[8, 0], &echo(1)].concat();
    let ethernet = foreign(ETHERNET, &[(WALL, ethernet)]);
    for (file, place, expected) in [
        (&raw, "n1/tunl0=x", "n1/tunl0> Tunnel"),
        (&raw, "n2/tunl0=x", "n2/tunl0< Tunnel"),
        (&ethernet, "n1/cali123=x", "n1/cali123< PodPeer"),
        (&ethernet, "n2/lxc9=x", "n2/lxc9> PodPeer"),
        (&ethernet, "n1/eth0=x", "n1/eth0> Nic"),
        (&ethernet, "n2/default/httpbin/eth0=x", "n2/httpbin:eth0< PodInterface"),
        (&ethernet, "n1/cni0=x", "n1/cni0< Bridge"),
        (&ethernet, "n1=x", "n1/any> Nic"),
    ] {
        let (found, _, skipped) = found(file, place);
        assert_eq!((points(&found), skipped.unusable()), (vec![expected.to_owned()], 0), "{place}");
    }
}

#[test]
fn what_gives_no_sighting_is_counted_by_why() {
    let mut cut = echo(1);
    cut.truncate(22);
    let mut impossible = echo(1);
    impossible[0] = 0x41;
    let file = foreign(RAW, &[(WALL, cut), (WALL, impossible), (WALL, vec![0xf0; 40]), (WALL, echo(2))]);
    let (found, _, skipped) = found(&file, "n1/tunl0=x");
    assert_eq!(points(&found).len(), 1);
    assert_eq!((skipped.truncated, skipped.malformed, skipped.other), (1, 1, 1), "{skipped:?}");
    let (_, _, skipped) = self::found(&foreign(147, &[(WALL, echo(1))]), "x");
    assert_eq!(skipped.unknown_link, 1);
    let (_, _, skipped) = self::found(&foreign(COOKED_2, &[(WALL, vec![0; 4])]), "x");
    assert_eq!(skipped.truncated, 1);
}

#[test]
fn a_place_is_a_node_a_device_and_perhaps_a_pod() {
    let place: Place = "n1/default/curl/eth0=a=b.pcap".parse().unwrap();
    assert_eq!((place.node.as_deref(), place.device.as_deref()), (Some("n1"), Some("eth0")));
    assert_eq!(place.pod, Some(("default".to_owned(), "curl".to_owned())));
    assert_eq!(place.path.to_str(), Some("a=b.pcap"));
    assert_eq!("a.pcap".parse::<Place>().unwrap().node, None);
    for wrong in ["=x", "n1=", "a/b/c=x", "a///d=x", "a/b/c/d/e=x"] {
        assert!(wrong.parse::<Place>().is_err(), "{wrong}");
    }
}

#[test]
fn a_new_file_begins_with_all_that_it_needs() {
    let world = world();
    let mut correlator = world.correlator(CorrelatorConfig::default());
    let told = run(&mut correlator, sightings(&world, 4));
    let directory = tempfile::tempdir().unwrap();
    let rotation = Rotation { bytes: Some(1), ..Rotation::default() };
    let path = directory.path().join("cap.pcapng");
    let mut writer = CaptureWriter::begin(Some(path), rotation, 0, String::new(), WALL).unwrap();
    let mut clocks = WallClocks::default();
    for clock in [ClockId(0), ClockId(1)] {
        writer.hear_wall_clock(clock, 0, WALL).unwrap();
        clocks.hear(clock, 0, WALL);
    }
    for point in &world.points {
        writer.hear(&Event::Point { point: Arc::clone(point), since_ns: 0 }, WALL, &clocks).unwrap();
    }
    for (turn, trajectory) in (2_u64..).zip(&told) {
        writer.take(trajectory, &names(), &clocks).unwrap();
        writer.flush(WALL + turn * 1_000_000_000, &BTreeMap::new, &clocks).unwrap();
    }
    writer.finish(WALL + 9_000_000_000, &BTreeMap::new(), &clocks).unwrap();
    let mut files: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 5);
    for file in &files[..4] {
        let (found, book, skipped) = found(&std::fs::read(file).unwrap(), "x");
        assert_eq!(
            (points(&found).len(), book.points().len()),
            (4, world.points.len()),
            "{}",
            file.display()
        );
        assert_eq!(skipped.unusable(), 0);
    }
}
