//! Which hops a packet should have shown, why one is missing, and what became of the packet.
//!
//! The way is cut into visits, one per node. Each visit is a walk over the device transition model of [`table`];
//! what the walk expects is laid beside what was seen. A hook that nobody observes is not expected. A hook that
//! is missing has a reason: passed by with `bpf_redirect` (a foreign program on the hook before it can do that),
//! not attached yet, its record lost, or, with nothing lost, a suspected loss of the packet.

pub mod table;
pub mod topology;

use std::sync::Arc;

use crate::trajectory::expect::table::{At, When};
use crate::trajectory::expect::topology::{Learnt, Lookup, Topology, Way};
use crate::trajectory::model::{DeviceRole, Direction, ObservationPoint, Owner, Packet, PodRef};
use crate::trajectory::order::{
    BRIDGE_DOWN, BRIDGE_UP, NIC_IN, NIC_OUT, PEER_IN, POD_IN, Stage, TUNNEL_IN, TUNNEL_OUT,
};
use crate::trajectory::rewrite::Endpoint;

/// A hop, as far as expectation needs it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub point: &'a Arc<ObservationPoint>,
    pub packet: &'a Packet,
    /// In the point's clock, nanoseconds.
    pub time_ns: u64,
    /// All bytes of the packet were seen here.
    pub whole: bool,
}

/// Everything but the hops.
pub struct Facts<'a> {
    pub topology: &'a Topology,
    pub learnt: &'a Learnt,
    /// Owner of the first hop's source.
    pub source: &'a Owner,
    /// Owner of the last hop's destination, or of what NAT is known to make of it for this flow.
    pub destination: &'a Owner,
    /// Records lost on a node while the packet was under way.
    pub lost_on: &'a dyn Fn(&str) -> u64,
    /// Why no more sightings can come although the packet may be under way (`finish`, eviction).
    pub cut_short: Option<&'static str>,
}

/// One step of the way, seen or not.
#[derive(Clone, Debug)]
pub enum Step {
    /// Index of the hop.
    Seen(usize),
    Missing(Absent),
}

/// A hop that was expected and not seen.
#[derive(Clone, Debug)]
pub struct Absent {
    pub stage: Stage,
    pub node: Arc<str>,
    /// The pod whose device it is.
    pub pod: Option<Arc<PodRef>>,
    /// The device, if only one can be meant.
    pub point: Option<Arc<ObservationPoint>>,
    pub why: Why,
}

/// Why a hop is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A BPF program redirected the packet past it.
    PassedBy { mechanism: &'static str, program: Arc<str>, device: Arc<str> },
    /// The point was attached after the packet had passed.
    NotAttachedYet,
    /// Nothing on the node is observed.
    NodeNotObserved,
    /// Records were lost on its node: this one may be among them.
    RecordsLost { records: u64 },
    /// The packet was first seen later on its way.
    BeganLater,
    /// The packet was seen after it, and nothing explains that it was not seen here.
    Unexplained,
    /// The packet was not seen here nor later, and no record was lost.
    SuspectedLoss,
    /// Comes after the suspected loss.
    NotReached,
}

impl Why {
    /// Whether the absence is normal and says nothing about the packet.
    #[must_use]
    pub fn is_explained(&self) -> bool {
        matches!(self, Self::PassedBy { .. } | Self::NotAttachedYet | Self::NodeNotObserved)
    }
}

/// What became of the packet, with hops by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Delivered,
    Lost { after: usize, expected: String },
    Unknown(String),
}

/// The way as it should have been.
#[derive(Clone, Debug)]
pub struct Expectation {
    pub steps: Vec<Step>,
    pub end: End,
    /// Records lost on the nodes involved.
    pub lost_records: u64,
}

impl Expectation {
    /// The packet was delivered and no hop is missing without explanation.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.end == End::Delivered && self.missing().all(|absent| absent.why.is_explained())
    }

    /// The missing hops in order.
    pub fn missing(&self) -> impl Iterator<Item = &Absent> {
        self.steps.iter().filter_map(|step| match step {
            Step::Missing(absent) => Some(absent),
            Step::Seen(_) => None,
        })
    }
}

/// Judges the hops of one packet, given in path order.
#[must_use]
pub fn judge(seen: &[Seen<'_>], facts: &Facts<'_>) -> Expectation {
    let visits = plan_visits(seen, facts);
    let mut steps = Vec::with_capacity(seen.len() + 4);
    for index in 0..visits.len() {
        walk(seen, facts, &visits, index, &mut steps);
    }
    explain(seen, facts, &mut steps);

    let mut nodes: Vec<&str> = Vec::with_capacity(4);
    for visit in &visits {
        if !nodes.contains(&&*visit.node) {
            nodes.push(&visit.node);
        }
    }
    let lost_records = nodes.iter().map(|node| (facts.lost_on)(node)).sum();
    let end = conclude(seen, facts, &visits, &steps, lost_records);
    Expectation { steps, end, lost_records }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit<'a> {
    Pod(&'a Arc<PodRef>),
    Host,
    Wire,
    /// To an address that the inventory does not know: it may be outside or on this very node.
    Outside,
    /// Still addressed to a Service or to an address that NAT rewrites.
    Unresolved,
}

/// One node on the way, with the hops seen there (maybe none).
#[derive(Clone, Debug)]
struct Visit<'a> {
    node: Arc<str>,
    hops: std::ops::Range<usize>,
    entry: At,
    exit: Exit<'a>,
    observed: bool,
}

fn node_of(owner: &Owner) -> Option<&Arc<str>> {
    match owner {
        Owner::Pod { node, .. } | Owner::Node(node) => Some(node),
        Owner::Service(_) | Owner::Unknown => None,
    }
}

fn plan_visits<'a>(seen: &[Seen<'_>], facts: &Facts<'a>) -> Vec<Visit<'a>> {
    let mut visits: Vec<Visit<'a>> = Vec::with_capacity(3);
    let empty = |node: &Arc<str>, at: usize| Visit {
        node: node.clone(),
        hops: at..at,
        entry: At::FromWire,
        exit: Exit::Wire,
        observed: facts.topology.observes_node(node),
    };
    for (i, hop) in seen.iter().enumerate() {
        let continues = i > 0
            && seen[i - 1].point.node == hop.point.node
            && !(Stage::of(seen[i - 1].point) == NIC_OUT && Stage::of(hop.point) == NIC_IN);
        match visits.last_mut() {
            Some(visit) if continues => visit.hops.end = i + 1,
            _ => visits.push(Visit { hops: i..i + 1, ..empty(&hop.point.node, i) }),
        }
    }

    let destination = resolved_destination(seen, facts);
    if let Some(node) = node_of(facts.source)
        && visits.first().is_some_and(|visit| visit.node != *node)
    {
        visits.insert(0, empty(node, 0));
    }
    if let Some(node) = destination.and_then(node_of) {
        let left = seen.last().is_some_and(|hop| Stage::of(hop.point) == NIC_OUT);
        if left || visits.last().is_some_and(|visit| visit.node != *node) {
            visits.push(empty(node, seen.len()));
        }
    }

    let last = visits.len().saturating_sub(1);
    for (i, visit) in visits.iter_mut().enumerate() {
        if i == 0 {
            visit.entry = match facts.source {
                Owner::Pod { node, .. } if *node == visit.node => At::FromPod,
                Owner::Node(node) if *node == visit.node => At::FromHost,
                _ if seen[visit.hops.clone()]
                    .first()
                    .is_some_and(|hop| matches!(Stage::of(hop.point), NIC_IN | TUNNEL_IN)) =>
                {
                    At::FromWire
                }
                _ => At::FromHost,
            };
        }
        if i == last {
            visit.exit = match destination {
                None => Exit::Unresolved,
                Some(Owner::Pod { pod, node }) if *node == visit.node => Exit::Pod(pod),
                Some(Owner::Node(node)) if *node == visit.node => Exit::Host,
                Some(_) => Exit::Outside,
            };
        }
    }
    visits
}

/// The owner of the place where the packet is to end, or `None` if NAT has yet to say.
fn resolved_destination<'a>(seen: &[Seen<'_>], facts: &Facts<'a>) -> Option<&'a Owner> {
    if matches!(facts.destination, Owner::Service(_)) {
        return None;
    }
    if matches!(facts.destination, Owner::Pod { .. }) {
        return Some(facts.destination);
    }
    let packet = seen.last()?.packet;
    let to = Endpoint::destination(packet);
    let translated =
        to.port.is_some_and(|port| facts.learnt.is_translated(packet.protocol, to.address, port));
    (!translated).then_some(facts.destination)
}

/// Lays what the table expects of one visit beside the hops seen there.
fn walk(seen: &[Seen<'_>], facts: &Facts<'_>, visits: &[Visit<'_>], index: usize, steps: &mut Vec<Step>) {
    let visit = &visits[index];
    let mut next_hop = visit.hops.start;
    if !visit.observed {
        steps.push(Step::Missing(Absent {
            stage: if index == 0 { NIC_OUT } else { NIC_IN },
            node: visit.node.clone(),
            pod: None,
            point: None,
            why: Why::NodeNotObserved,
        }));
        return;
    }
    let conditions = Conditions::of(seen, facts, visits, index);
    let mut at = visit.entry;
    loop {
        at = table::next(at, |when| conditions.hold(when, at));
        let stage = match at {
            At::Hook(stage) => stage,
            At::Done => break,
            _ => continue,
        };
        let found = (next_hop..visit.hops.end).find(|&i| Stage::of(seen[i].point) == stage);
        if let Some(found) = found {
            steps.extend((next_hop..=found).map(Step::Seen));
            next_hop = found + 1;
        } else if let Some((pod, point)) = conditions.resolve(stage, facts, visit) {
            let node = visit.node.clone();
            steps.push(Step::Missing(Absent { stage, node, pod, point, why: Why::Unexplained }));
        }
    }
    steps.extend((next_hop..visit.hops.end).map(Step::Seen));
}

/// What the rows of the table ask about one visit.
struct Conditions<'a> {
    source_pod: Option<&'a Arc<PodRef>>,
    target_pod: Option<&'a Arc<PodRef>>,
    source_bridge: Option<u32>,
    target_bridge: Option<u32>,
    source_routed: bool,
    target_routed: bool,
    arrives_encapsulated: bool,
    leaves_encapsulated: bool,
    arrives_encrypted: bool,
    leaves_encrypted: bool,
    to_wire: bool,
    way_in: Option<Way>,
    way_out: Option<Way>,
}

impl<'a> Conditions<'a> {
    fn of(seen: &[Seen<'_>], facts: &Facts<'a>, visits: &[Visit<'a>], index: usize) -> Self {
        let visit = &visits[index];
        let hops = &seen[visit.hops.clone()];
        let previous = index.checked_sub(1).map(|i| &visits[i]);
        let next = visits.get(index + 1);
        let topology = facts.topology;

        let source_pod = match (visit.entry, facts.source) {
            (At::FromPod, Owner::Pod { pod, .. }) => Some(pod),
            _ => None,
        };
        let target_pod = if let Exit::Pod(pod) = visit.exit { Some(pod) } else { None };
        let source_bridge = source_pod.and_then(|pod| topology.bridge_of(pod));
        let target_bridge = target_pod.and_then(|pod| topology.bridge_of(pod));
        // Between two ports of one bridge nothing but evidence tells routed from bridged. Leaving by the bridge is none:
        // what br_netfilter translates to another port does that until the neighbour is known, and was not routed.
        let at_bridge = |direction| {
            let mut points = hops.iter().map(|hop| hop.point);
            points.any(|point| point.role == DeviceRole::Bridge && point.direction == direction)
        };
        let routed = at_bridge(Direction::Ingress)
            || hops.windows(2).any(|pair| pair[1].packet.ttl < pair[0].packet.ttl);
        let one_bridge = source_bridge.is_some() && source_bridge == target_bridge;
        let unresolved = matches!(visit.exit, Exit::Unresolved | Exit::Outside | Exit::Host);

        let way_in = previous.and_then(|from| facts.learnt.way(&from.node, &visit.node));
        let way_out = next.and_then(|to| facts.learnt.way(&visit.node, &to.node));
        let of = |visit: Option<&Visit<'_>>| visit.map_or(&seen[0..0], |visit| &seen[visit.hops.clone()]);
        let arriving = Tunnelled::on(of(previous), NIC_OUT, TUNNEL_OUT).or(hops, NIC_IN, TUNNEL_IN);
        let leaving = Tunnelled::on(of(next), NIC_IN, TUNNEL_IN).or(hops, NIC_OUT, TUNNEL_OUT);
        let kind_is_encrypted = |id| topology.get(id).is_some_and(|point| is_encrypted(&point.kind));
        Self {
            source_pod,
            target_pod,
            source_bridge,
            target_bridge,
            source_routed: source_bridge.is_some() && (routed || !(one_bridge || unresolved)),
            target_routed: target_bridge.is_some() && (routed || !one_bridge || at_bridge(Direction::Egress)),
            arrives_encapsulated: arriving
                .known()
                .unwrap_or_else(|| way_in.is_some_and(|way| way.tunnel_in.is_some())),
            leaves_encapsulated: leaving
                .known()
                .unwrap_or_else(|| way_out.is_some_and(|way| way.tunnel_out.is_some())),
            arrives_encrypted: arriving.encrypted
                || way_in.and_then(|way| way.tunnel_in).is_some_and(kind_is_encrypted),
            leaves_encrypted: leaving.encrypted
                || way_out.and_then(|way| way.tunnel_out).is_some_and(kind_is_encrypted),
            to_wire: matches!(visit.exit, Exit::Wire),
            way_in,
            way_out,
        }
    }

    fn hold(&self, when: When, at: At) -> bool {
        match when {
            When::Always => true,
            When::SourceRoutedOverBridge => self.source_routed,
            When::TargetRoutedOverBridge => self.target_pod.is_some() && self.target_routed,
            When::ArrivedEncapsulated => self.arrives_encapsulated,
            When::LeavesEncapsulated => self.to_wire && self.leaves_encapsulated,
            When::Encrypted if at == At::FromWire => self.arrives_encrypted,
            When::Encrypted => self.leaves_encrypted,
            When::ToPod => self.target_pod.is_some(),
            When::ToWire => self.to_wire,
        }
    }

    /// The device of a missing stage; `None` if no such hook is observed, so that it cannot be missed.
    #[expect(clippy::type_complexity, reason = "private, read in one place")]
    fn resolve(
        &self,
        stage: Stage,
        facts: &Facts<'_>,
        visit: &Visit<'_>,
    ) -> Option<(Option<Arc<PodRef>>, Option<Arc<ObservationPoint>>)> {
        let topology = facts.topology;
        if stage.is_single() {
            let pod = if stage.rank() < 2 { self.source_pod } else { self.target_pod }?;
            return topology.of_pod(pod, stage).map(|point| (Some(pod.clone()), Some(point.clone())));
        }
        let learnt = match stage {
            TUNNEL_IN => self.way_in.and_then(|way| way.tunnel_in),
            NIC_IN => self.way_in.and_then(|way| way.nic_in),
            TUNNEL_OUT => self.way_out.and_then(|way| way.tunnel_out),
            NIC_OUT => self.way_out.and_then(|way| way.nic_out),
            _ => None,
        };
        if let Some(point) = learnt.and_then(|id| topology.get(id)) {
            return Some((None, Some(point.clone())));
        }
        let ifindex = match stage {
            BRIDGE_UP => self.source_bridge,
            BRIDGE_DOWN => self.target_bridge,
            _ => None,
        };
        match topology.of_node(&visit.node, stage, ifindex) {
            Lookup::None => None,
            Lookup::One(point) => Some((None, Some(point.clone()))),
            Lookup::Several => Some((None, None)),
        }
    }
}

/// What the hops at one end of a wire say about a tunnel.
#[derive(Clone, Copy, Default)]
struct Tunnelled {
    yes: bool,
    /// A NIC showed the bare packet.
    bare: bool,
    encrypted: bool,
}

impl Tunnelled {
    fn on(hops: &[Seen<'_>], nic: Stage, tunnel: Stage) -> Self {
        let mut result = Self::default();
        for hop in hops {
            let stage = Stage::of(hop.point);
            if stage == nic {
                result.yes |= !hop.packet.encapsulation.is_empty();
                result.bare |= hop.packet.encapsulation.is_empty();
            } else if stage == tunnel {
                result.yes = true;
                result.encrypted |= is_encrypted(&hop.point.kind);
            }
        }
        result
    }

    fn or(self, hops: &[Seen<'_>], nic: Stage, tunnel: Stage) -> Self {
        let other = Self::on(hops, nic, tunnel);
        Self {
            yes: self.yes || other.yes,
            bare: self.bare || other.bare,
            encrypted: self.encrypted || other.encrypted,
        }
    }

    fn known(self) -> Option<bool> {
        if self.yes {
            Some(true)
        } else if self.bare {
            Some(false)
        } else {
            None
        }
    }
}

fn is_encrypted(kind: &str) -> bool {
    kind == "wireguard"
}

/// Gives each missing hop its reason, and drops those that this datapath is known to pass by.
fn explain(seen: &[Seen<'_>], facts: &Facts<'_>, steps: &mut Vec<Step>) {
    let last_seen = steps.iter().rposition(|step| matches!(step, Step::Seen(_)));
    let mut before: Option<usize> = None;
    let mut suspected = false;
    let mut keep = vec![true; steps.len()];
    for i in 0..steps.len() {
        let after = steps[i + 1..].iter().find_map(|step| match step {
            Step::Seen(hop) => Some(*hop),
            Step::Missing(_) => None,
        });
        let absent = match &mut steps[i] {
            Step::Seen(hop) => {
                before = Some(*hop);
                continue;
            }
            Step::Missing(absent) => absent,
        };
        if absent.why == Why::NodeNotObserved {
            continue;
        }
        let lost = (facts.lost_on)(&absent.node);
        let at_end = last_seen.is_none_or(|last| i > last);
        let learnt = match (before, &absent.point) {
            (Some(hop), Some(point)) => facts.learnt.skips(seen[hop].point.id, point.id),
            _ => false,
        };
        if at_end && learnt {
            keep[i] = false;
            continue;
        }
        let passed_by = before.zip(after).and_then(|(hop, next)| {
            passed_by(&seen[hop], seen[next].point, absent).filter(|_| lost == 0 || learnt)
        });
        absent.why = if let Some(why) = passed_by {
            why
        } else if attached_later(seen, facts, absent) {
            Why::NotAttachedYet
        } else if lost > 0 {
            Why::RecordsLost { records: lost }
        } else if before.is_none() {
            Why::BeganLater
        } else if !at_end {
            Why::Unexplained
        } else if suspected {
            Why::NotReached
        } else {
            suspected = true;
            Why::SuspectedLoss
        };
    }
    let mut keep = keep.into_iter();
    steps.retain(|_| keep.next().unwrap_or(true));
}

fn passed_by(before: &Seen<'_>, next: &ObservationPoint, absent: &Absent) -> Option<Why> {
    if before.point.node != absent.node {
        return None;
    }
    let program = before.point.foreign_programs.last()?;
    let mechanism = table::skip(absent.stage, Stage::of(next))?;
    Some(Why::PassedBy { mechanism, program: program.clone(), device: before.point.device.clone() })
}

fn attached_later(seen: &[Seen<'_>], facts: &Facts<'_>, absent: &Absent) -> bool {
    let Some(point) = &absent.point else { return false };
    let Some(since) = facts.topology.since(point.id) else { return false };
    let mut times =
        seen.iter().filter(|hop| hop.point.clock == point.clock).map(|hop| hop.time_ns).peekable();
    times.peek().is_some() && times.all(|time| time < since)
}

fn conclude(
    seen: &[Seen<'_>],
    facts: &Facts<'_>,
    visits: &[Visit<'_>],
    steps: &[Step],
    lost_records: u64,
) -> End {
    let (Some(last_visit), Some(last)) = (visits.last(), seen.last()) else {
        return End::Unknown("nothing was seen of it".to_owned());
    };
    let last_index = seen.len() - 1;
    let tail: Vec<&Absent> = steps
        .iter()
        .rev()
        .map_while(|step| match step {
            Step::Missing(absent) => Some(absent),
            Step::Seen(_) => None,
        })
        .collect();
    let arrived = match last_visit.exit {
        Exit::Pod(_) => Stage::of(last.point) == POD_IN,
        Exit::Host => tail.is_empty() && !last_visit.hops.is_empty(),
        Exit::Outside => Stage::of(last.point) == NIC_OUT,
        Exit::Wire | Exit::Unresolved => false,
    };
    if arrived && last.whole {
        return End::Delivered;
    }
    if lost_records > 0 {
        return End::Unknown(format!(
            "{} lost on its nodes meanwhile; last seen at {}",
            records_were(lost_records),
            describe(last.point)
        ));
    }
    if let Some(reason) = facts.cut_short {
        return End::Unknown(format!("{reason}; last seen at {}", describe(last.point)));
    }
    let head_missing = steps.iter().map_while(|step| match step {
        Step::Missing(absent) => Some(absent),
        Step::Seen(_) => None,
    });
    if head_missing.into_iter().any(|absent| matches!(absent.why, Why::BeganLater | Why::NotAttachedYet)) {
        return End::Unknown(format!(
            "its way was seen only from {} on: it was under way when tracing began, or records are missing",
            describe(seen[0].point)
        ));
    }
    if arrived {
        let after = seen.iter().rposition(|hop| hop.whole).unwrap_or(0);
        return End::Lost { after, expected: format!("all of its bytes at {}", describe(last.point)) };
    }
    if let Some(absent) = tail.iter().rev().find(|absent| absent.why == Why::NodeNotObserved) {
        return End::Unknown(format!(
            "nothing is observed on node {}; last seen at {}",
            absent.node,
            describe(last.point)
        ));
    }
    let last_seen_at = describe(last.point);
    match last_visit.exit {
        Exit::Unresolved => conclude_unresolved(last, facts),
        Exit::Outside => End::Unknown(format!(
            "the inventory does not know {}; last seen at {last_seen_at}",
            last.packet.destination
        )),
        Exit::Pod(pod)
            if facts.topology.of_pod(pod, POD_IN).is_none() && only_delivery_missing(&tail, last) =>
        {
            End::Unknown(format!(
                "the device inside pod {}/{} is not observed; last seen at {last_seen_at}",
                pod.namespace, pod.name
            ))
        }
        _ => match tail.last() {
            Some(absent) if absent.why == Why::NotAttachedYet => End::Unknown(format!(
                "{} was not observed yet; last seen at {last_seen_at}",
                absent.describe()
            )),
            Some(absent) => End::Lost { after: last_index, expected: absent.describe() },
            None => {
                End::Unknown(format!("no later device on its way is observed; last seen at {last_seen_at}"))
            }
        },
    }
}

/// Nothing but the last step into the pod is open, which cannot be seen without a hook inside the pod.
fn only_delivery_missing(tail: &[&Absent], last: &Seen<'_>) -> bool {
    match tail {
        [] => true,
        [absent] => absent.stage == PEER_IN && !last.point.foreign_programs.is_empty(),
        _ => false,
    }
}

/// Still addressed to a Service. Its endpoint may be a process of this very node, which no later hook would
/// show, so nothing can be said about loss.
fn conclude_unresolved(last: &Seen<'_>, facts: &Facts<'_>) -> End {
    let whose = match facts.destination {
        Owner::Service(service) => format!("Service {}/{}", service.namespace, service.name),
        _ => last.packet.destination.to_string(),
    };
    End::Unknown(format!(
        "last seen at {}, still addressed to {whose}; what NAT made of it was not seen",
        describe(last.point)
    ))
}

impl Absent {
    /// Device and direction, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        if self.why == Why::NodeNotObserved {
            return format!("node {}", self.node);
        }
        if let Some(point) = &self.point {
            return describe(point);
        }
        let device = match self.stage.role {
            DeviceRole::Nic => "a NIC",
            DeviceRole::Tunnel => "a tunnel device",
            DeviceRole::Bridge => "a bridge",
            DeviceRole::PodInterface | DeviceRole::PodPeer | DeviceRole::Other => "a device",
        };
        format!("{device} of {} {}", self.node, direction(self.stage))
    }

    /// The reason, for people.
    #[must_use]
    pub fn reason(&self) -> String {
        match &self.why {
            Why::PassedBy { mechanism, program, device } => {
                format!("passed by with {mechanism} ({program} on {device})")
            }
            Why::NotAttachedYet => "not observed yet when the packet passed".to_owned(),
            Why::NodeNotObserved => "nothing is observed on that node".to_owned(),
            Why::RecordsLost { records } => {
                format!("record lost? {} lost on {} meanwhile", records_were(*records), self.node)
            }
            Why::BeganLater => "the packet was first seen later on its way".to_owned(),
            Why::Unexplained => "not seen here though the packet went on; no record was lost".to_owned(),
            Why::SuspectedLoss => "suspected loss: seen neither here nor later, 0 records lost".to_owned(),
            Why::NotReached => "not reached".to_owned(),
        }
    }
}

fn records_were(count: u64) -> String {
    if count == 1 { "1 record was".to_owned() } else { format!("{count} records were") }
}

fn direction(stage: Stage) -> &'static str {
    match stage.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// Device, direction and where it is, for people.
#[must_use]
pub fn describe(point: &ObservationPoint) -> String {
    let direction = direction(Stage::of(point));
    match (&point.pod, point.role) {
        (Some(pod), DeviceRole::PodInterface) => {
            format!("{} {direction} in pod {}/{}", point.device, pod.namespace, pod.name)
        }
        _ => format!("{} {direction} on {}", point.device, point.node),
    }
}

/// Remembers what a complete trajectory shows about paths and skipped hooks.
pub fn learn(learnt: &mut Learnt, seen: &[Seen<'_>], expectation: &Expectation) {
    let mut way = Way::default();
    for (i, hop) in seen.iter().enumerate() {
        let id = Some(hop.point.id);
        match Stage::of(hop.point) {
            TUNNEL_OUT => way.tunnel_out = id,
            NIC_OUT => way.nic_out = id,
            NIC_IN => way.nic_in = id,
            TUNNEL_IN => way.tunnel_in = id,
            _ => {}
        }
        let Some(next) = seen.get(i + 1).filter(|next| next.point.node != hop.point.node) else { continue };
        for arriving in &seen[i + 1..] {
            let id = Some(arriving.point.id);
            match Stage::of(arriving.point) {
                NIC_IN => way.nic_in = id,
                TUNNEL_IN => way.tunnel_in = id,
                _ => break,
            }
        }
        learnt.learn_way(&hop.point.node, &next.point.node, way);
        way = Way::default();
    }
    if expectation.lost_records > 0 {
        return;
    }
    let mut before: Option<usize> = None;
    for step in &expectation.steps {
        match step {
            Step::Seen(hop) => before = Some(*hop),
            Step::Missing(absent) => {
                if let (Some(hop), Some(point), Why::PassedBy { .. }) = (before, &absent.point, &absent.why) {
                    learnt.learn_skip(seen[hop].point.id, point.id);
                }
            }
        }
    }
}
