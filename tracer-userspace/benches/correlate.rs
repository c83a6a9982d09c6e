//! How many hop records a second the correlator joins on one core, alone: no ring, no decoding, no output.
//!
//! The traffic is what a Service behind VXLAN makes: each request is a GSO packet of three segments that the node of the
//! client translates, the wire cuts and the receiver merges again; each answer is a pure ACK that is translated back. Every
//! packet passes 8 points of two nodes with clocks of their own. Many flows run at the same time.

use std::collections::HashMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustix::time::{ClockId as ThreadClock, clock_gettime};
use tracer::expression::Expression;
use tracer::trajectory::correlate::{Correlator, CorrelatorConfig};
use tracer::trajectory::model::{
    ClockId, DeviceRole, Direction, Directory, Encapsulation, ObservationPoint, Owner, Packet, PodRef,
    PointId, ServiceRef, Sighting, Verdict,
};

const FLOWS: u32 = 500;
const ROUNDS: u32 = 12;
const SEGMENT: u32 = 1398;
/// Records that come at once, as the ring's reader hands them on.
const BATCH: usize = 512;
/// Between one flow's packets, nanoseconds; with `FLOWS` flows some 80,000 packets a second.
const SPACING_NS: u64 = 6_000_000;
const TCP: u8 = 6;
const ACK: u8 = 0x10;
const SERVICE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 10), 80);
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 244, 1, 246), 8080);
const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 135, 0, 11), Ipv4Addr::new(10, 135, 0, 12)];

/// An inventory that answers as fast as a map does.
#[derive(Clone)]
struct Book(Arc<HashMap<IpAddr, Owner>>);

impl Directory for Book {
    fn owner(&self, address: IpAddr, _at_ns: u64) -> Owner {
        self.0.get(&address).cloned().unwrap_or(Owner::Unknown)
    }

    fn is_service_translation(&self, protocol: u8, from: (IpAddr, u16), to: (IpAddr, u16)) -> bool {
        let is = |end: (IpAddr, u16), known: (Ipv4Addr, u16)| end == (known.0.into(), known.1);
        protocol == TCP && is(from, SERVICE) && is(to, SERVER)
    }
}

/// Two nodes with a client and a server, and the records of their traffic in the order in which they come.
struct Traffic {
    book: Book,
    points: Vec<Arc<ObservationPoint>>,
    sightings: Vec<Sighting>,
    packets: u64,
}

impl Traffic {
    fn new() -> Self {
        let pod = |name: &str| {
            let (namespace, uid) = ("default".to_owned(), format!("uid-{name}"));
            Arc::new(PodRef { namespace, name: name.to_owned(), uid })
        };
        let pods = [pod("client"), pod("server")];
        let mut points = Vec::new();
        for (node, pod) in pods.iter().enumerate() {
            let devices = [
                ("eth0", "veth", DeviceRole::PodInterface),
                ("veth0", "veth", DeviceRole::PodPeer),
                ("vxlan", "vxlan", DeviceRole::Tunnel),
                ("eth0", "", DeviceRole::Nic),
            ];
            for (number, (device, kind, role)) in devices.into_iter().enumerate() {
                for direction in [Direction::Ingress, Direction::Egress] {
                    points.push(Arc::new(ObservationPoint {
                        id: PointId(points.len() as u32),
                        node: Arc::from(format!("n{}", node + 1)),
                        clock: ClockId(node as u32),
                        pod: (number < 2).then(|| pod.clone()),
                        device: Arc::from(device),
                        kind: Arc::from(kind),
                        ifindex: number as u32 + 2,
                        has_ethernet_header: true,
                        direction,
                        role,
                        bridge: None,
                        foreign_programs: Vec::new(),
                        hidden_by: None,
                    }));
                }
            }
        }
        let [client_pod, server_pod] = pods;
        let service = ServiceRef { namespace: "default".to_owned(), name: "web".to_owned() };
        let mut owners = HashMap::from([
            (SERVER.0.into(), Owner::Pod { pod: server_pod, node: Arc::from("n2") }),
            (SERVICE.0.into(), Owner::Service(Arc::new(service))),
            (NODES[0].into(), Owner::Node(Arc::from("n1"))),
            (NODES[1].into(), Owner::Node(Arc::from("n2"))),
        ]);
        owners.insert(client(0).0.into(), Owner::Pod { pod: client_pod, node: Arc::from("n1") });
        let mut traffic = Self { book: Book(Arc::new(owners)), points, sightings: Vec::new(), packets: 0 };
        for round in 0..ROUNDS {
            for flow in 0..FLOWS {
                let start = u64::from(round) * SPACING_NS + u64::from(flow) * SPACING_NS / u64::from(FLOWS);
                traffic.request(start, flow, round);
                traffic.answer(start + 150_000, flow, round);
            }
        }
        traffic.packets = u64::from(2 * FLOWS * ROUNDS);
        traffic.sightings.sort_by_key(|sighting| sighting.time_ns);
        traffic
    }

    fn request(&mut self, start_ns: u64, flow: u32, round: u32) {
        let mut packet = packet(client(flow), SERVICE, flow, round);
        packet.payload_length = 3 * SEGMENT;
        packet.gso_segments = 3;
        packet.gso_size = SEGMENT as u16;
        for (hop, point) in [1, 2, 5, 7, 14, 12, 11, 8].into_iter().enumerate() {
            if hop == 2 {
                packet.destination = SERVER.0.into();
                packet.ports = Some((client(flow).1, SERVER.1));
                packet.ttl -= 1;
            }
            self.pass(start_ns, hop, point, NODES, &packet, hop == 4);
        }
    }

    fn answer(&mut self, start_ns: u64, flow: u32, round: u32) {
        let mut packet = packet(SERVER, client(flow), flow, round);
        packet.fingerprint ^= 0x5555;
        for (hop, point) in [9, 10, 13, 15, 6, 4, 3, 0].into_iter().enumerate() {
            if hop == 6 {
                packet.source = SERVICE.0.into();
                packet.ports = Some((SERVICE.1, client(flow).1));
                packet.ttl -= 1;
            }
            self.pass(start_ns, hop, point, [NODES[1], NODES[0]], &packet, false);
        }
    }

    /// Records a packet at one of its 8 points; the tunnel's headers are on between the two NICs.
    fn pass(
        &mut self,
        start_ns: u64,
        hop: usize,
        point: usize,
        [from, to]: [Ipv4Addr; 2],
        packet: &Packet,
        cut: bool,
    ) {
        let mut packet = packet.clone();
        if matches!(hop, 3 | 4) {
            let (source, destination) = (from.into(), to.into());
            packet.encapsulation =
                vec![Encapsulation { kind: 1, source, destination, port: 8472, identifier: 1, ttl: 64 }];
        }
        let pieces = if cut { u32::from(packet.gso_segments) } else { 1 };
        for piece in 0..pieces {
            let mut packet = packet.clone();
            if cut {
                packet.sequence += piece * SEGMENT;
                packet.identification += piece;
                packet.payload_length = SEGMENT;
                packet.fingerprint ^= u64::from(piece) << 48;
                (packet.gso_segments, packet.gso_size) = (0, 0);
            }
            let time_ns = 1_000_000_000 + start_ns + hop as u64 * 9_000 + u64::from(piece);
            self.sightings.push(Sighting {
                point: self.points[point].clone(),
                time_ns,
                follows: 1,
                packet,
                frame: None,
            });
        }
    }

    fn correlator(&self) -> Correlator<Book> {
        let mut correlator = Correlator::new(CorrelatorConfig::default(), self.book.clone());
        self.points.iter().for_each(|point| correlator.add_point(point.clone(), 0));
        correlator
    }

    /// Joins everything; gives the time that it took, and the most packets that were under way at once.
    fn join(&self) -> (Duration, usize) {
        let mut correlator = self.correlator();
        let batches: Vec<Vec<Sighting>> = self.sightings.chunks(BATCH).map(<[Sighting]>::to_vec).collect();
        let (mut delivered, mut most_open) = (0, 0);
        let begin = processor_time();
        for batch in batches {
            let now_ns = batch.last().map_or(0, |sighting| sighting.time_ns);
            batch.into_iter().for_each(|sighting| correlator.push(sighting));
            most_open = most_open.max(correlator.counters().open);
            correlator.advance(now_ns, &mut |trajectory| {
                delivered += u64::from(black_box(trajectory).verdict == Verdict::Delivered);
            });
        }
        // The last ones wait for a packet the other way, which would tell more of the clocks.
        correlator.finish(&mut |trajectory| {
            delivered += u64::from(black_box(trajectory).verdict == Verdict::Delivered);
        });
        let took = processor_time().saturating_sub(begin);
        assert_eq!(delivered, self.packets, "all packets are told, and told right");
        (took, most_open)
    }
}

/// What this thread has used of a core: other work on the machine does not count.
fn processor_time() -> Duration {
    let time = clock_gettime(ThreadClock::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Flows of one pod differ by port.
const fn client(flow: u32) -> (Ipv4Addr, u16) {
    (Ipv4Addr::new(10, 244, 0, 153), 30_000 + flow as u16)
}

fn packet(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), flow: u32, round: u32) -> Packet {
    Packet {
        fingerprint: (u64::from(flow) << 32 | u64::from(round)).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        source: source.0.into(),
        destination: destination.0.into(),
        ports: Some((source.1, destination.1)),
        protocol: TCP,
        ttl: 64,
        length: 1500,
        payload_length: 0,
        gso_segments: 0,
        gso_size: 0,
        sequence: (flow << 20) | (round * 3 * SEGMENT),
        acknowledgment: flow,
        tcp_timestamps: Some((1000 + round, 2000 + round)),
        tcp_flags: ACK,
        window: 502,
        identification: 1 + round * 3,
        fragment: None,
        icmp: None,
        quote: None,
        encapsulation: Vec::new(),
    }
}

fn join(criterion: &mut Criterion) {
    let traffic = Traffic::new();
    let (_, most_open) = traffic.join();
    // A packet is under way for 72 us and waits for its batch: what is kept is what is in flight, not what passed.
    assert!(most_open < 200, "{most_open} packets under way of {}", traffic.packets);
    let mut group = criterion.benchmark_group("correlate");
    group.throughput(Throughput::Elements(traffic.sightings.len() as u64));
    group.bench_function("hop records of a Service over VXLAN", |bencher| {
        bencher.iter_custom(|times| (0..times).map(|_| traffic.join().0).sum());
    });
    group.finish();
}

/// What `--filter` costs at each hop.
fn choose(criterion: &mut Criterion) {
    let words = ["tcp port 80 and not host 10.0.0.1 and tcp[tcpflags] & (tcp-syn|tcp-fin) = 0".to_owned()];
    let expression = Expression::parse(&words).ok().flatten();
    let traffic = Traffic::new();
    let packets: Vec<_> = traffic.sightings.iter().map(|sighting| &sighting.packet).collect();
    let mut group = criterion.benchmark_group("filter");
    group.throughput(Throughput::Elements(packets.len() as u64));
    group.bench_function("an expression of four conditions", |bencher| {
        bencher.iter(|| {
            packets.iter().filter(|packet| expression.as_ref().is_some_and(|all| all.holds(packet))).count()
        });
    });
    group.finish();
}

criterion_group!(benches, join, choose);
criterion_main!(benches);
