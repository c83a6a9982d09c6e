//! Hand-built conversations for tests.

use crate::trajectory::exchange::{Config, Ending, Exchange, Exchanges, Finding, Role};
use crate::trajectory::model::{Sighting, Trajectory};
use crate::trajectory::testing::{
    ACK, CLUSTER_IP, CURL, Change, HTTPBIN, MS, NODE_1, NODE_2, ROUTED_SERVICE, SECOND, SYN, Step, World,
    stamp, tcp,
};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const RST: u8 = 0x04;

/// The way from httpbin back to curl, which asked the Service.
pub(crate) const ROUTED_BACK: &[Step<'static>] = &[
    ("n2/httpbin:eth0>", &[]),
    ("n2/vethhttp<", &[]),
    ("n2/vxlan>", &[Change::Ttl]),
    ("n2/eth0>", &[Change::Encap(2735, NODE_2, NODE_1)]),
    ("n1/eth0<", &[]),
    ("n1/vxlan<", &[Change::Decap]),
    ("n1/vethcurl>", &[Change::Ttl, Change::From(CLUSTER_IP, 80)]),
    ("n1/curl:eth0<", &[]),
];

/// A connection from curl to the Service: says who sends what when, in true time.
pub(crate) struct Talk<'a> {
    pub(crate) world: &'a World,
    pub(crate) sightings: Vec<Sighting>,
    port: u16,
    sent: u32,
}

impl<'a> Talk<'a> {
    pub(crate) fn new(world: &'a World, port: u16) -> Self {
        Self { world, sightings: Vec::new(), port, sent: 0 }
    }

    /// From curl: sequence and acknowledgment numbers from 0, payload bytes, flags. Passes `hops` points.
    pub(crate) fn ask(&mut self, at_ns: u64, numbers: (u32, u32), payload: u32, flags: u8, hops: usize) {
        self.ask_with(at_ns, numbers, payload, flags, hops, 502);
    }

    pub(crate) fn ask_with(
        &mut self,
        at_ns: u64,
        (sequence, acknowledgment): (u32, u32),
        payload: u32,
        flags: u8,
        hops: usize,
        window: u16,
    ) {
        let packet = tcp((CURL, self.port), (CLUSTER_IP, 80), 1_000 + sequence, payload, flags);
        self.send(at_ns, packet, 5_000 + acknowledgment, flags, &ROUTED_SERVICE[..hops], window);
    }

    /// From httpbin.
    pub(crate) fn answer(&mut self, at_ns: u64, numbers: (u32, u32), payload: u32, flags: u8, hops: usize) {
        self.answer_with(at_ns, numbers, payload, flags, hops, 502);
    }

    pub(crate) fn answer_with(
        &mut self,
        at_ns: u64,
        (sequence, acknowledgment): (u32, u32),
        payload: u32,
        flags: u8,
        hops: usize,
        window: u16,
    ) {
        let packet = tcp((HTTPBIN, 8080), (CURL, self.port), 5_000 + sequence, payload, flags);
        self.send(at_ns, packet, 1_000 + acknowledgment, flags, &ROUTED_BACK[..hops], window);
    }

    fn send(
        &mut self,
        at_ns: u64,
        mut packet: crate::trajectory::model::Packet,
        acknowledgment: u32,
        flags: u8,
        steps: &[Step<'_>],
        window: u16,
    ) {
        self.sent += 1;
        packet.acknowledgment = if flags & ACK == 0 { 0 } else { acknowledgment };
        packet.window = window;
        packet.identification = self.sent;
        packet.tcp_timestamps = Some(((at_ns / MS) as u32, 1));
        // The walk takes its first step 1 us after it begins.
        self.sightings.extend(self.world.walk(SECOND + at_ns - 1_000, &stamp(packet), steps));
    }

    pub(crate) fn handshake(&mut self, at_ns: u64) {
        self.ask(at_ns, (0, 0), 0, SYN, 8);
        self.answer(at_ns + MS, (0, 1), 0, SYN | ACK, 8);
        self.ask(at_ns + 2 * MS, (1, 1), 0, ACK, 8);
    }

    pub(crate) fn goodbye(&mut self, at_ns: u64, (asked, answered): (u32, u32)) {
        self.ask(at_ns, (asked, answered), 0, FIN | ACK, 8);
        self.answer(at_ns + MS, (answered, asked + 1), 0, FIN | ACK, 8);
        self.ask(at_ns + 2 * MS, (asked + 1, answered + 1), 0, ACK, 8);
    }

    pub(crate) fn exchanges(self) -> Vec<Exchange> {
        exchanges(self.world, self.sightings)
    }
}

/// All exchanges of what was seen, as they end.
pub(crate) fn exchanges(world: &World, sightings: Vec<Sighting>) -> Vec<Exchange> {
    of_trajectories(Config::default(), world.correlate(sightings)).0
}

/// Pushes all at once and lets time pass; exchanges and lone packets.
pub(crate) fn of_trajectories(
    config: Config,
    trajectories: Vec<Trajectory>,
) -> (Vec<Exchange>, Vec<Trajectory>) {
    let mut exchanges = Exchanges::new(config);
    let (mut ended, mut lone) = (Vec::new(), Vec::new());
    let emit = &mut |finding: Finding<'_>| match finding {
        Finding::Exchange(exchange) if exchange.ending.is_some() => ended.push(exchange.clone()),
        Finding::Exchange(_) => {}
        Finding::Lone(trajectory) => lone.push(trajectory.clone()),
    };
    exchanges.advance(SECOND, emit);
    for trajectory in trajectories {
        exchanges.push(trajectory, emit);
    }
    exchanges.advance(SECOND + 500 * MS, emit);
    exchanges.finish(emit);
    (ended, lone)
}

/// The roles of an exchange's packets: `>` before those of the requester.
pub(crate) fn roles(exchange: &Exchange) -> Vec<String> {
    let arrow = |from_requester| if from_requester { '>' } else { '<' };
    exchange
        .members
        .iter()
        .map(|member| format!("{}{}", arrow(member.from_requester), member.role.name()))
        .collect()
}

pub(crate) fn role_of(exchange: &Exchange, index: usize) -> Role {
    exchange.members[index].role
}

pub(crate) fn endings(exchanges: &[Exchange]) -> Vec<Ending> {
    exchanges.iter().filter_map(|exchange| exchange.ending).collect()
}
