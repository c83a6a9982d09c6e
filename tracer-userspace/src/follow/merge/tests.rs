use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use clap::Parser as _;
use serde_json::Value;

use super::*;
use crate::cli::{Cli, Command};
use crate::follow::teller::Teller;
use crate::stream::Heartbeat;
use crate::stream::read::StreamReader;
use crate::stream::write::StreamWriter;
use crate::trajectory::testing::{CURL, HTTPBIN, ROUTED, Step, World, drop_at, ping, tcp, two_nodes, udp};

const CLUSTER: &str = "\
kind: List
apiVersion: v1
items:
- {apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 10.135.0.11}]}}
- {apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 10.135.0.12}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: curl, namespace: default, uid: uid-curl}, spec: {nodeName: n1, containers: []},
   status: {phase: Running, podIP: 10.244.0.153}}
- {apiVersion: v1, kind: Pod, metadata: {name: httpbin, namespace: default, uid: uid-httpbin}, spec: {nodeName: n2, containers: []},
   status: {phase: Running, podIP: 10.244.1.246}}
";

/// The way back.
const BACK: &[Step<'static>] = &[
    ("n2/httpbin:eth0>", &[]),
    ("n2/vethhttp<", &[]),
    ("n2/vxlan>", &[]),
    ("n2/eth0>", &[]),
    ("n1/eth0<", &[]),
    ("n1/vxlan<", &[]),
    ("n1/vethcurl>", &[]),
    ("n1/curl:eth0<", &[]),
];

#[test]
fn whatever_a_clock_shows_and_how_fast_it_runs_the_trajectories_are_the_same() {
    let [near, far] = recorded();
    let expected = joined(&[near.clone(), far.clone()], one_after_the_other);
    assert_eq!(expected.len(), 10, "{expected:#?}");
    for told in &expected {
        assert!(told.starts_with("delivered "), "{told}");
    }
    for (offset_ns, per_mille) in
        [(37_000_000_000, 1010), (37_000_000_000, 990), (-400_000_000_000, 1010), (1 << 50, 1000)]
    {
        let shifted = shifted(&far, offset_ns, per_mille);
        for order in [one_after_the_other, backwards, in_turns] {
            assert_eq!(joined(&[near.clone(), shifted.clone()], order), expected, "{offset_ns} {per_mille}");
            assert_eq!(joined(&[shifted.clone(), near.clone()], order), expected, "{offset_ns} {per_mille}");
        }
    }
}

#[test]
fn two_streams_of_one_node_count_its_hops_once() {
    let [near, far] = recorded();
    let expected = joined(&[near.clone(), far.clone()], in_turns);
    assert_eq!(joined(&[near.clone(), far, near], one_after_the_other), expected);
}

#[test]
fn a_drop_ends_its_packet_once_however_many_streams_tell_it_and_whatever_their_clocks_show() {
    let world = two_nodes(false, "vxlan");
    let request = ping(CURL, HTTPBIN, 1);
    let sightings = world.walk(1_000_000, &request, &ROUTED[..6]);
    let last_ns = sightings.iter().map(|sighting| sighting.time_ns).max().unwrap();
    let drop = [drop_at(&world, "n2", "NETFILTER_DROP", last_ns + 100, &request)];
    let near = stream(&world, "n1", &sightings, &drop);
    let far = stream(&world, "n2", &sightings, &drop);

    let expected = joined(&[near.clone(), far.clone()], one_after_the_other);

    assert_eq!(expected.len(), 1, "{expected:#?}");
    assert!(expected[0].starts_with("dropped icmp"), "{expected:#?}");
    for order in [one_after_the_other, backwards, in_turns] {
        assert_eq!(joined(&[near.clone(), far.clone(), far.clone()], order), expected);
        let shifted = shifted(&far, 37_000_000_000, 1010);
        assert_eq!(joined(&[shifted, near.clone()], order), expected);
    }
}

#[test]
fn times_of_all_hops_are_told_by_the_wall_clock_of_the_first_stream() {
    let [near, far] = recorded();
    // Wall clocks that differ by what the monotonic ones do.
    let far = shifted(&far, 400_000_000_000, 1010);
    for (streams, first) in [([near.clone(), far.clone()], "n1"), ([far, near], "n2")] {
        let mut told_by_both = 0;
        for line in told(&streams, in_turns) {
            let told: Value = serde_json::from_str(&line).unwrap();
            let hops: Vec<_> = told["hops"].as_array().into_iter().flatten().collect();
            let time = |hop: &Value| hop["time_ns"].as_u64().unwrap();
            assert!(hops.iter().all(|hop| hop["node"] != first || hop["time_ns"] == hop["monotonic_ns"]));
            assert!(hops.windows(2).all(|pair| time(pair[0]) <= time(pair[1])), "{line}");
            // A packet takes 7 us in this world, and the second clock runs a hundredth faster.
            if let [first, .., last] = &hops[..] {
                assert!(time(last) - time(first) < 100_000, "{line}");
                told_by_both += 1;
            }
        }
        assert_eq!(told_by_both, 10);
    }
}

#[test]
fn legs_between_two_machines_are_told_with_a_bound_that_holds() {
    let [near, far] = recorded();
    for (offset_ns, per_mille) in [(0, 1000), (37_000_000_000, 1010), (-400_000_000_000, 990)] {
        let streams = [near.clone(), shifted(&far, offset_ns, per_mille)];
        for line in told(&streams, one_after_the_other) {
            let told: Value = serde_json::from_str(&line).unwrap();
            if told["hops"].is_null() {
                continue;
            }
            let leg = &told["legs"][3];
            if !told["ambiguous"].is_null() {
                assert_eq!(leg["latency_unknown"], "the packet is ambiguous", "{line}");
                continue;
            }
            let [ns, error_ns] = ["latency_ns", "latency_error_ns"].map(|field| leg[field].as_u64().unwrap());
            // 1 us, which is 1.01 us in the second clock's seconds.
            assert!(error_ns <= ns && (ns - error_ns..=ns + error_ns).contains(&1_000), "{leg}");
            assert!(error_ns < 20_000, "{leg}");
        }
    }
}

/// Packets both ways, among them datagrams of equal content shortly after each other, as two streams.
fn recorded() -> [Vec<u8>; 2] {
    let world = two_nodes(false, "vxlan");
    let mut sightings = Vec::new();
    for number in 0..2u64 {
        let at = 1_000_000 * (1 + number);
        let n = number as u32;
        let (curl, web, names) = ((CURL, 40_000), (HTTPBIN, 80), (HTTPBIN, 53));
        sightings.extend(world.walk(at, &tcp(curl, web, 1000 + 500 * n, 400, 0x18), ROUTED));
        sightings.extend(world.walk(at + 100, &tcp(web, curl, 9000 + 500 * n, 400, 0x18), BACK));
        sightings.extend(world.walk(at + 200, &udp(curl, names, 60, 0, 7), ROUTED));
        sightings.extend(world.walk(at + 300, &ping(CURL, HTTPBIN, n), ROUTED));
        sightings.extend(world.walk(at + 400, &ping(HTTPBIN, CURL, 100 + n), BACK));
    }
    ["n1", "n2"].map(|node| stream(&world, node, &sightings, &[]))
}

/// What a node tells of these.
fn stream(world: &World, node: &str, sightings: &[Sighting], drops: &[DropSighting]) -> Vec<u8> {
    let hello = Hello {
        tracer: String::new(),
        kernel_release: String::new(),
        boot_id: node.to_owned(),
        nodes: vec![node.to_owned()],
        watches_drops: true,
        monotonic_ns: 0,
        wall_ns: 0,
    };
    let mut writer = StreamWriter::begin(Vec::new(), hello).unwrap();
    for point in world.points.iter().filter(|point| &*point.node == node) {
        writer.point(point, 0).unwrap();
    }
    let mut last_ns = 0;
    for sighting in sightings.iter().filter(|sighting| &*sighting.point.node == node) {
        last_ns = last_ns.max(sighting.time_ns);
        writer.sighting(sighting).unwrap();
        writer.heartbeat(Heartbeat { monotonic_ns: last_ns, wall_ns: last_ns }).unwrap();
    }
    for drop in drops.iter().filter(|drop| &*drop.place.node == node) {
        writer.dropped(drop).unwrap();
    }
    writer.end("interrupted").unwrap()
}

fn decoded(stream: &[u8]) -> Vec<Told> {
    let mut reader = StreamReader::begin(stream).unwrap();
    std::iter::from_fn(|| reader.read_told().unwrap()).collect()
}

/// The same stream of a machine whose clock shows other times.
fn shifted(stream: &[u8], offset_ns: i64, per_mille: i64) -> Vec<u8> {
    let shift = |time_ns: u64| (time_ns as i64 / 1000 * per_mille + offset_ns) as u64;
    let mut told = decoded(stream).into_iter();
    let Some(Told::Hello(hello)) = told.next() else { panic!("no hello") };
    let mut writer =
        StreamWriter::begin(Vec::new(), Hello { boot_id: hello.boot_id.clone() + " shifted", ..hello })
            .unwrap();
    let mut points = HashMap::new();
    for told in told {
        match told {
            Told::Hello(_) => panic!("a second hello"),
            Told::Point { point, since_ns } => {
                writer.point(&point, shift(since_ns)).unwrap();
                points.insert(point.id.0, Arc::new(*point));
            }
            Told::PointGone(id) => writer.point_gone(PointId(id)).unwrap(),
            Told::Sightings(sightings) => {
                for Sighted { point, time_ns, packet, .. } in sightings {
                    let point = Arc::clone(&points[&point]);
                    writer
                        .sighting(&Sighting {
                            point,
                            time_ns: shift(time_ns),
                            follows: 1,
                            packet,
                            frame: None,
                        })
                        .unwrap();
                }
            }
            Told::Drop(drop) => {
                writer.dropped(&DropSighting { time_ns: shift(drop.time_ns), ..*drop }).unwrap();
            }
            Told::Counts(counts) => writer.counts(&counts).unwrap(),
            Told::Heartbeat(Heartbeat { monotonic_ns, wall_ns }) => {
                let (monotonic_ns, wall_ns) = (shift(monotonic_ns), shift(wall_ns));
                writer.heartbeat(Heartbeat { monotonic_ns, wall_ns }).unwrap();
            }
            Told::End { reason } => return writer.end(&reason).unwrap(),
        }
    }
    panic!("no end")
}

type Order = fn(Vec<(usize, Vec<Told>)>) -> Vec<(usize, Told)>;

fn one_after_the_other(streams: Vec<(usize, Vec<Told>)>) -> Vec<(usize, Told)> {
    streams.into_iter().flat_map(|(index, told)| told.into_iter().map(move |told| (index, told))).collect()
}

fn backwards(mut streams: Vec<(usize, Vec<Told>)>) -> Vec<(usize, Told)> {
    streams.reverse();
    one_after_the_other(streams)
}

fn in_turns(streams: Vec<(usize, Vec<Told>)>) -> Vec<(usize, Told)> {
    let mut all: Vec<_> = streams
        .into_iter()
        .flat_map(|(index, told)| told.into_iter().enumerate().map(move |(turn, told)| (turn, index, told)))
        .collect();
    all.sort_by_key(|(turn, index, _)| (*turn, *index));
    all.into_iter().map(|(_, index, told)| (index, told)).collect()
}

/// What a follow of these streams tells, without times and numbers, sorted.
fn joined(streams: &[Vec<u8>], order: Order) -> Vec<String> {
    let mut lines: Vec<String> = told(streams, order).iter().filter_map(|line| in_words(line)).collect();
    lines.sort();
    lines
}

/// The lines of JSON of a follow of these streams.
fn told(streams: &[Vec<u8>], order: Order) -> Vec<String> {
    let out = Shared::default();
    let cli = Cli::parse_from([
        "tracer",
        "follow",
        "--inventory",
        "x",
        "--pod",
        "curl",
        "--to",
        "httpbin",
        "--from",
        "x",
        "-o",
        "json",
        "--packets",
    ]);
    let Command::Follow(args) = cli.command else { panic!("it is a follow") };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.yaml");
    std::fs::write(&path, CLUSTER).unwrap();
    let names = Names::open(&path).unwrap();
    let selection = names.with(|inventory| resolve(inventory, &args.run.selection)).unwrap();
    let teller = Teller::to(Box::new(out.clone()), &args.telling, &args.run.choice, names.clone()).unwrap();
    let config = CorrelatorConfig { scopes: vec![scope_of(&selection)], ..CorrelatorConfig::default() };
    let joining = Joining::with(teller, config, names, 1);
    let described = (0..streams.len()).map(|index| (format!("stream {index}"), true));
    let mut merge = Merge::new(&args.run, selection, joining, described);
    let told = streams.iter().map(|stream| decoded(stream)).enumerate().collect();
    for (index, told) in order(told) {
        merge.take(index, Heard::Told(told));
        merge.tell_finished().unwrap();
    }
    merge.finish(Ending::Done).unwrap();
    let text = String::from_utf8(out.0.take()).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Verdict, hops, and which legs are known.
fn in_words(line: &str) -> Option<String> {
    let told: Value = serde_json::from_str(line).unwrap();
    let hops = told["hops"].as_array()?.iter();
    let hops = hops.map(|hop| {
        format!(
            "{} {} {}",
            hop["node"].as_str().unwrap(),
            hop["device"].as_str().unwrap(),
            hop["direction"].as_str().unwrap()
        )
    });
    let legs = told["legs"].as_array()?.iter();
    let legs: String = legs.map(|leg| if leg["latency_ns"].is_null() { '?' } else { '=' }).collect();
    Some(format!(
        "{} {} {} {} {} [{}]: {legs} {}",
        told["verdict"].as_str().unwrap(),
        told["protocol"].as_str().unwrap(),
        told["tcp"]["seq"],
        told["icmp"]["seq"],
        told["src"]["ip"],
        told["ambiguous"],
        hops.collect::<Vec<_>>().join(", "),
    ))
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
