//! Hand-built nodes, points and packets for tests.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::trajectory::correlate::{Correlator, CorrelatorConfig};
use crate::trajectory::model::{
    ClockId, DeviceRole, Direction, Directory, DropPlace, DropSighting, Encapsulation, IcmpHeader,
    ObservationPoint, Owner, Packet, PodRef, PointId, Quote, ServiceRef, Sighting, Trajectory,
};

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000_000_000;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Protocol, Service address, endpoint address.
type Translation = (u8, (IpAddr, u16), (IpAddr, u16));

/// An inventory made of literals.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    owners: HashMap<IpAddr, Owner>,
    translations: HashSet<Translation>,
}

impl Directory for Book {
    fn owner(&self, address: IpAddr, _at_ns: u64) -> Owner {
        self.owners.get(&address).cloned().unwrap_or(Owner::Unknown)
    }

    fn is_service_translation(&self, protocol: u8, from: (IpAddr, u16), to: (IpAddr, u16)) -> bool {
        self.translations.contains(&(protocol, from, to))
    }
}

/// Nodes, pods and devices.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) book: Book,
    pub(crate) points: Vec<Arc<ObservationPoint>>,
    clocks: HashMap<String, ClockId>,
    /// What each clock shows more than true time.
    offsets: HashMap<ClockId, u64>,
}

impl World {
    pub(crate) fn node(&mut self, name: &str, address: &str, offset_ns: u64) {
        let clock = ClockId(self.clocks.len() as u32);
        self.node_with_clock(name, address, clock, offset_ns);
    }

    /// Nodes of one machine share its clock.
    pub(crate) fn node_with_clock(&mut self, name: &str, address: &str, clock: ClockId, offset_ns: u64) {
        self.clocks.insert(name.to_owned(), clock);
        self.offsets.insert(clock, offset_ns);
        self.book.owners.insert(ip(address), Owner::Node(Arc::from(name)));
    }

    fn device(
        &mut self,
        node: &str,
        device: &str,
        kind: &str,
        role: DeviceRole,
        pod: Option<Arc<PodRef>>,
        bridge: Option<u32>,
    ) -> u32 {
        let ifindex = self.points.len() as u32 + 2;
        for direction in [Direction::Ingress, Direction::Egress] {
            self.points.push(Arc::new(ObservationPoint {
                id: PointId(self.points.len() as u32),
                node: Arc::from(node),
                clock: self.clocks[node],
                pod: pod.clone(),
                device: Arc::from(device),
                kind: Arc::from(kind),
                ifindex,
                has_ethernet_header: true,
                direction,
                role,
                bridge,
                foreign_programs: Vec::new(),
                hidden_by: None,
            }));
        }
        ifindex
    }

    /// A pod with `eth0` and a peer that is named `peer`.
    pub(crate) fn pod(&mut self, node: &str, name: &str, address: &str, peer: &str, bridge: Option<u32>) {
        let pod = Arc::new(PodRef {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
        });
        self.book.owners.insert(ip(address), Owner::Pod { pod: pod.clone(), node: Arc::from(node) });
        self.device(node, &format!("{name}:eth0"), "veth", DeviceRole::PodInterface, Some(pod.clone()), None);
        self.device(node, peer, "veth", DeviceRole::PodPeer, Some(pod), bridge);
    }

    pub(crate) fn bridge(&mut self, node: &str, device: &str) -> u32 {
        self.device(node, device, "bridge", DeviceRole::Bridge, None, None)
    }

    pub(crate) fn tunnel(&mut self, node: &str, device: &str, kind: &str) {
        self.device(node, device, kind, DeviceRole::Tunnel, None, None);
    }

    pub(crate) fn nic(&mut self, node: &str, device: &str) {
        self.device(node, device, "", DeviceRole::Nic, None, None);
    }

    pub(crate) fn other(&mut self, node: &str, device: &str) {
        self.device(node, device, "dummy", DeviceRole::Other, None, None);
    }

    /// A NodePort: an address of a node that leads to endpoints.
    pub(crate) fn node_port(&mut self, address: (&str, u16), endpoint: (&str, u16)) {
        for protocol in [6, 17] {
            let (from, to) = ((ip(address.0), address.1), (ip(endpoint.0), endpoint.1));
            self.book.translations.insert((protocol, from, to));
        }
    }

    pub(crate) fn service(&mut self, name: &str, address: (&str, u16), endpoints: &[(&str, u16)]) {
        let service = ServiceRef { namespace: "default".to_owned(), name: name.to_owned() };
        self.book.owners.insert(ip(address.0), Owner::Service(Arc::new(service)));
        for endpoint in endpoints {
            for protocol in [6, 17] {
                self.book.translations.insert((
                    protocol,
                    (ip(address.0), address.1),
                    (ip(endpoint.0), endpoint.1),
                ));
            }
        }
    }

    /// Puts somebody else's program on a hook, `"node/device>"` for egress, `"node/device<"` for ingress.
    pub(crate) fn foreign(&mut self, hook: &str, program: &str) {
        let id = self.at(hook).id;
        let point = &mut self.points[id.0 as usize];
        Arc::make_mut(point).foreign_programs.push(Arc::from(program));
    }

    /// Puts somebody else's TCX program in front of ours, which is a legacy filter.
    pub(crate) fn hide(&mut self, hook: &str, program: &str) {
        self.foreign(hook, program);
        let id = self.at(hook).id;
        Arc::make_mut(&mut self.points[id.0 as usize]).hidden_by = Some(Arc::from(program));
    }

    /// Stops observing a hook.
    pub(crate) fn blind(&mut self, hook: &str) -> PointId {
        self.at(hook).id
    }

    /// The point of a hook, `"node/device>"` for egress, `"node/device<"` for ingress.
    pub(crate) fn at(&self, hook: &str) -> Arc<ObservationPoint> {
        let direction = if hook.ends_with('>') { Direction::Egress } else { Direction::Ingress };
        let (node, device) = hook[..hook.len() - 1].split_once('/').unwrap();
        self.points
            .iter()
            .find(|point| &*point.node == node && &*point.device == device && point.direction == direction)
            .unwrap_or_else(|| panic!("no hook {hook}"))
            .clone()
    }

    /// A packet seen at a hook at a true time.
    pub(crate) fn see(&self, hook: &str, time_ns: u64, packet: &Packet) -> Sighting {
        let point = self.at(hook);
        let time_ns = time_ns + self.offsets[&point.clock];
        let mut packet = packet.clone();
        packet.length = packet.payload_length
            + if packet.source.is_ipv4() { 20 } else { 40 }
            + 8
            + 36 * packet.encapsulation.len() as u32;
        Sighting { point, time_ns, follows: 1, packet, frame: None }
    }

    /// A walk: each step is a hook, the time since the step before, and what changes there.
    pub(crate) fn walk(&self, start_ns: u64, packet: &Packet, steps: &[Step<'_>]) -> Vec<Sighting> {
        let mut packet = packet.clone();
        let mut now = start_ns;
        let mut seen = Vec::new();
        for (hook, change) in steps {
            now += 1_000;
            for change in *change {
                change.apply(&mut packet);
            }
            seen.push(self.see(hook, now, &packet));
        }
        seen
    }

    pub(crate) fn correlator(&self, config: CorrelatorConfig) -> Correlator<Book> {
        let mut correlator = Correlator::new(config, self.book.clone());
        for point in &self.points {
            correlator.add_point(point.clone(), 0);
        }
        correlator
    }

    /// Correlates sightings as they come, and waits long enough.
    pub(crate) fn correlate(&self, sightings: Vec<Sighting>) -> Vec<Trajectory> {
        run(&mut self.correlator(CorrelatorConfig::default()), sightings)
    }
}

/// Pushes everything, lets the grace time pass, and collects.
pub(crate) fn run(correlator: &mut Correlator<Book>, sightings: Vec<Sighting>) -> Vec<Trajectory> {
    let mut out = Vec::new();
    correlator.advance(SECOND, &mut |trajectory| out.push(trajectory));
    for sighting in sightings {
        correlator.push(sighting);
    }
    correlator.advance(2 * SECOND, &mut |trajectory| out.push(trajectory));
    correlator.advance(3 * SECOND, &mut |trajectory| out.push(trajectory));
    correlator.advance(4 * SECOND, &mut |trajectory| out.push(trajectory));
    correlator.finish(&mut |trajectory| out.push(trajectory));
    out
}

pub(crate) type Step<'a> = (&'a str, &'a [Change<'a>]);

/// What happens to a packet between two hooks.
#[derive(Clone, Copy)]
pub(crate) enum Change<'a> {
    Ttl,
    /// New destination.
    To(&'a str, u16),
    /// New source.
    From(&'a str, u16),
    /// Into VXLAN with this VNI from node to node.
    Encap(u32, &'a str, &'a str),
    Decap,
}

impl Change<'_> {
    fn apply(self, packet: &mut Packet) {
        match self {
            Change::Ttl => packet.ttl -= 1,
            Change::To(address, port) => {
                packet.destination = ip(address);
                packet.ports = packet.ports.map(|(source, _)| (source, port));
            }
            Change::From(address, port) => {
                packet.source = ip(address);
                packet.ports = packet.ports.map(|(_, destination)| (port, destination));
            }
            Change::Encap(vni, source, destination) => packet.encapsulation.push(Encapsulation {
                kind: tracer_common::record::TUNNEL_VXLAN,
                source: ip(source),
                destination: ip(destination),
                port: 8472,
                identifier: vni,
                ttl: 64,
            }),
            Change::Decap => {
                packet.encapsulation.pop();
            }
        }
    }
}

fn packet(protocol: u8, source: &str, destination: &str, ports: Option<(u16, u16)>) -> Packet {
    Packet {
        fingerprint: 0,
        source: ip(source),
        destination: ip(destination),
        ports,
        protocol,
        ttl: 64,
        length: 0,
        payload_length: 0,
        gso_segments: 0,
        gso_size: 0,
        sequence: 0,
        acknowledgment: 0,
        tcp_timestamps: None,
        tcp_flags: 0,
        window: 502,
        identification: 0,
        fragment: None,
        icmp: None,
        quote: None,
        encapsulation: Vec::new(),
    }
}

/// A TCP packet with timestamps; the sequence number also gives IPv4 id and time, as a sender would.
pub(crate) fn tcp(
    source: (&str, u16),
    destination: (&str, u16),
    sequence: u32,
    payload: u32,
    flags: u8,
) -> Packet {
    let mut packet = packet(6, source.0, destination.0, Some((source.1, destination.1)));
    packet.sequence = sequence;
    packet.acknowledgment = if flags & ACK == 0 { 0 } else { 7000 };
    packet.payload_length = payload;
    packet.tcp_flags = flags;
    packet.tcp_timestamps = Some((100_000, 200_000));
    packet.identification = if packet.source.is_ipv4() { 1 + sequence / 1398 } else { 0 };
    stamp(packet)
}

/// A UDP datagram; `content` stands for its first bytes.
pub(crate) fn udp(
    source: (&str, u16),
    destination: (&str, u16),
    payload: u32,
    id: u32,
    content: u32,
) -> Packet {
    let mut packet = packet(17, source.0, destination.0, Some((source.1, destination.1)));
    packet.payload_length = payload;
    packet.identification = id;
    packet.window = content as u16;
    packet.sequence = 0;
    stamp(packet)
}

/// An ICMP echo request.
pub(crate) fn ping(source: &str, destination: &str, sequence: u32) -> Packet {
    let mut packet = packet(1, source, destination, None);
    packet.icmp = Some(IcmpHeader { kind: 8, code: 0, identifier: 77 });
    packet.sequence = sequence;
    packet.payload_length = 56;
    packet.identification = 500 + sequence;
    stamp(packet)
}

/// The ICMP error that somebody sends about a packet, as it is at that place.
pub(crate) fn icmp_error(from: &str, about: &Packet, kind: u8, code: u8) -> Packet {
    let mut error = packet(1, from, &about.source.to_string(), None);
    error.icmp = Some(IcmpHeader { kind, code, identifier: 0 });
    error.identification = 900 + about.identification;
    error.payload_length = 28;
    error.quote = Some(Box::new(Quote {
        destination: about.destination,
        protocol: about.protocol,
        identification: about.identification as u16,
        ports: about.ports,
        sequence: Some(if about.protocol == 17 { about.payload_length } else { about.sequence }),
        mtu: (code == 4).then_some(1400),
    }));
    stamp(error)
}

/// The fragments of a datagram, with `size` bytes behind the IP header in each but the last.
pub(crate) fn fragments(datagram: &Packet, size: u16) -> Vec<Packet> {
    let total = datagram.payload_length + 8;
    (0..total)
        .step_by(size.into())
        .map(|offset| {
            let mut fragment = datagram.clone();
            let length = u32::from(size).min(total - offset);
            fragment.fragment = Some((offset as u16, offset + length < total));
            fragment.payload_length = if offset == 0 { length - 8 } else { length };
            if offset != 0 {
                fragment.ports = None;
                fragment.icmp = fragment.icmp.map(|_| IcmpHeader { kind: 0, code: 0, identifier: 0 });
                fragment.sequence = 0;
            }
            fragment.window = 0;
            stamp(fragment)
        })
        .collect()
}

/// Computes the fingerprint from what tracer-common's covers.
pub(crate) fn stamp(mut packet: Packet) -> Packet {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hash = DefaultHasher::new();
    packet.protocol.hash(&mut hash);
    packet.identification.hash(&mut hash);
    packet.fragment.hash(&mut hash);
    match packet.protocol {
        6 => {
            (packet.sequence, packet.acknowledgment, packet.tcp_flags & 6).hash(&mut hash);
            packet.tcp_timestamps.map(|(value, _)| value).hash(&mut hash);
        }
        17 => {
            let wire = if packet.gso_segments > 1 { packet.gso_size.into() } else { packet.payload_length };
            (wire, packet.window).hash(&mut hash);
        }
        _ => {
            (packet.sequence, packet.payload_length, packet.icmp.map(|i| i.kind)).hash(&mut hash);
            let quoted =
                packet.quote.as_ref().map(|quote| (quote.identification, quote.protocol, quote.sequence));
            quoted.hash(&mut hash);
        }
    }
    packet.fingerprint = hash.finish();
    packet
}

/// Marks a packet as standing for several segments.
pub(crate) fn gso(mut packet: Packet, size: u16) -> Packet {
    packet.gso_size = size;
    packet.gso_segments = packet.payload_length.div_ceil(size.into()) as u16;
    stamp(packet)
}

/// Cuts a packet as GSO does.
pub(crate) fn cut(packet: &Packet, size: u32) -> Vec<Packet> {
    (0..packet.payload_length.div_ceil(size))
        .map(|i| {
            let mut segment = packet.clone();
            segment.payload_length = size.min(packet.payload_length - i * size);
            segment.gso_segments = 0;
            segment.gso_size = 0;
            if packet.protocol == 6 {
                segment.sequence = packet.sequence.wrapping_add(i * size);
            } else {
                segment.window = packet.window.wrapping_add(i as u16);
            }
            if packet.source.is_ipv4() {
                segment.identification = packet.identification + i;
            }
            stamp(segment)
        })
        .collect()
}

/// Hooks of a trajectory as `node/device>` or `<`.
pub(crate) fn hooks(trajectory: &Trajectory) -> Vec<String> {
    trajectory
        .hops
        .iter()
        .map(|hop| {
            let arrow = if hop.point.direction == Direction::Egress { '>' } else { '<' };
            format!("{}/{}{arrow}", hop.point.node, hop.point.device)
        })
        .collect()
}

pub(crate) const CURL: &str = "10.244.0.153";
pub(crate) const HTTPBIN: &str = "10.244.1.246";
pub(crate) const NODE_1: &str = "10.135.0.11";
pub(crate) const NODE_2: &str = "10.135.0.12";
pub(crate) const CLUSTER_IP: &str = "10.96.0.10";

/// Two nodes, 37 s apart, with pods `curl` and `dns` on the first and `httpbin` on the second, `web` in front.
pub(crate) fn two_nodes(bridge: bool, tunnel: &str) -> World {
    let mut world = World::default();
    world.node("n1", NODE_1, 1_000 * SECOND);
    world.node("n2", NODE_2, 1_037 * SECOND);
    furnish(world, bridge, tunnel)
}

/// The same on one machine.
pub(crate) fn two_nodes_with_one_clock(tunnel: &str) -> World {
    let mut world = World::default();
    world.node_with_clock("n1", NODE_1, ClockId(0), 0);
    world.node_with_clock("n2", NODE_2, ClockId(0), 0);
    furnish(world, false, tunnel)
}

fn furnish(mut world: World, bridge: bool, tunnel: &str) -> World {
    let (mut b1, mut b2) = (None, None);
    if bridge {
        b1 = Some(world.bridge("n1", "cni0"));
        b2 = Some(world.bridge("n2", "cni0"));
    }
    world.pod("n1", "curl", CURL, "vethcurl", b1);
    world.pod("n1", "dns", "10.244.0.20", "vethdns", b1);
    world.pod("n2", "httpbin", HTTPBIN, "vethhttp", b2);
    for node in ["n1", "n2"] {
        if !tunnel.is_empty() {
            world.tunnel(node, tunnel, "vxlan");
        }
        world.nic(node, "eth0");
    }
    world.service("web", (CLUSTER_IP, 80), &[(HTTPBIN, 8080), ("10.244.0.20", 8080)]);
    world
}

/// The way from curl to httpbin over routed veths and VXLAN.
pub(crate) const ROUTED: &[Step<'static>] = &[
    ("n1/curl:eth0>", &[]),
    ("n1/vethcurl<", &[]),
    ("n1/vxlan>", &[Change::Ttl]),
    ("n1/eth0>", &[Change::Encap(2735, NODE_1, NODE_2)]),
    ("n2/eth0<", &[]),
    ("n2/vxlan<", &[Change::Decap]),
    ("n2/vethhttp>", &[Change::Ttl]),
    ("n2/httpbin:eth0<", &[]),
];

/// The same with the destination rewritten on the first node.
pub(crate) const ROUTED_SERVICE: &[Step<'static>] = &[
    ("n1/curl:eth0>", &[]),
    ("n1/vethcurl<", &[]),
    ("n1/vxlan>", &[Change::Ttl, Change::To(HTTPBIN, 8080)]),
    ("n1/eth0>", &[Change::Encap(2735, NODE_1, NODE_2)]),
    ("n2/eth0<", &[]),
    ("n2/vxlan<", &[Change::Decap]),
    ("n2/vethhttp>", &[Change::Ttl]),
    ("n2/httpbin:eth0<", &[]),
];

/// That the kernel threw a packet away: `place` is `NODE` or `NODE/POD`.
pub(crate) fn drop_at(
    world: &World,
    place: &str,
    reason: &str,
    time_ns: u64,
    packet: &Packet,
) -> DropSighting {
    let (node, pod) = place.split_once('/').map_or((place, None), |(node, pod)| (node, Some(pod)));
    let pod = pod.and_then(|name| {
        world.points.iter().find_map(|point| point.pod.clone().filter(|pod| pod.name == name))
    });
    let clock = world.clocks[node];
    let place = DropPlace { node: Arc::from(node), pod, device: None, function: None };
    let mut packet = packet.clone();
    packet.encapsulation.clear();
    DropSighting {
        place: Arc::new(place),
        clock,
        time_ns: time_ns + world.offsets[&clock],
        follows: 1,
        reason: Arc::from(reason),
        packet,
    }
}
