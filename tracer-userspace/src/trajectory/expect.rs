//! Which hops a packet should have shown, why one is missing, and what became of the packet.
//!
//! The way is cut into visits, one per node. Each visit is a walk over the device transition model of [`table`];
//! what the walk expects is laid beside what was seen. A hook that nobody observes is not expected. A hook that
//! is missing has a reason: passed by with `bpf_redirect` (a foreign program on the hook before it can do that),
//! not attached yet, its record lost, or, with nothing lost, a suspected loss of the packet.

pub mod table;
pub mod topology;
mod visit;
mod words;

use std::sync::Arc;

use crate::trajectory::expect::table::{At, Opaque};
use crate::trajectory::expect::topology::{Learnt, Topology, Way};
use crate::trajectory::expect::visit::{Conditions, Exit, Visit, plan_visits};
use crate::trajectory::expect::words::records_were;
use crate::trajectory::model::{ObservationPoint, Owner, Packet, PodRef};
use crate::trajectory::order::{NIC_IN, NIC_OUT, PEER_IN, POD_IN, Stage, TUNNEL_IN};

pub use crate::trajectory::expect::words::describe;

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
    /// Packets are also recorded under the addresses that SNAT may give them.
    pub sees_snat: bool,
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
    /// A program that runs before ours there ended the chain.
    Hidden { program: Arc<str> },
    /// The point was attached after the packet had passed.
    NotAttachedYet,
    /// Nothing on the node is observed.
    NodeNotObserved,
    /// It passed inside a tunnel that encrypts: into it or out of it at `tunnel`, from or to node `other` if that is
    /// known.
    Encrypted { tunnel: Arc<ObservationPoint>, opaque: &'static Opaque, other: Option<Arc<str>> },
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
    /// Whether it is missing because the packet was not seen any more.
    #[must_use]
    pub fn is_open_end(&self) -> bool {
        matches!(self, Self::SuspectedLoss | Self::NotReached)
    }

    /// Whether the absence is normal and says nothing about the packet.
    #[must_use]
    pub fn is_explained(&self) -> bool {
        matches!(
            self,
            Self::PassedBy { .. }
                | Self::Hidden { .. }
                | Self::NotAttachedYet
                | Self::NodeNotObserved
                | Self::Encrypted { .. }
        )
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
    let previous = index.checked_sub(1).map(|index| &visits[index].node);
    let next = visits.get(index + 1).map(|visit| &visit.node);
    let mut at = visit.entry;
    loop {
        at = table::next(at, |when| conditions.hold(when));
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
            let why = conditions.opaque(stage, previous, next).unwrap_or(Why::Unexplained);
            steps.push(Step::Missing(Absent { stage, node, pod, point, why }));
        }
    }
    steps.extend((next_hop..visit.hops.end).map(Step::Seen));
}

/// Gives each missing hop its reason, and drops those that this datapath is known to pass by.
fn explain(seen: &[Seen<'_>], facts: &Facts<'_>, steps: &mut Vec<Step>) {
    let last_seen = steps.iter().rposition(|step| matches!(step, Step::Seen(_)));
    let mut before: Option<usize> = None;
    let mut redirecting: Option<Redirecting> = None;
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
                redirecting = Redirecting::seen(seen[*hop].point);
                continue;
            }
            Step::Missing(absent) => absent,
        };
        if matches!(absent.why, Why::NodeNotObserved | Why::Encrypted { .. }) {
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
        if let Some(point) = absent.point.as_ref().filter(|point| point.hidden_by.is_some()) {
            redirecting = Redirecting::hidden(point);
            absent.why = point.hidden_by.clone().map_or(Why::Unexplained, |program| Why::Hidden { program });
            continue;
        }
        let passed_by = redirecting.as_ref().zip(after).and_then(|(redirecting, next)| {
            redirecting.passes_by(seen[next].point, absent).filter(|_| lost == 0 || learnt)
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

/// The program at the last point before a missing hop, which may have redirected the packet.
struct Redirecting {
    node: Arc<str>,
    device: Arc<str>,
    program: Arc<str>,
}

impl Redirecting {
    fn seen(point: &ObservationPoint) -> Option<Self> {
        point.foreign_programs.last().map(|program| Self::of(point, program))
    }

    fn hidden(point: &ObservationPoint) -> Option<Self> {
        point.hidden_by.as_ref().map(|program| Self::of(point, program))
    }

    fn of(point: &ObservationPoint, program: &Arc<str>) -> Self {
        Self { node: point.node.clone(), device: point.device.clone(), program: program.clone() }
    }

    fn passes_by(&self, next: &ObservationPoint, absent: &Absent) -> Option<Why> {
        if self.node != absent.node {
            return None;
        }
        let mechanism = table::skip(absent.stage, Stage::of(next))?;
        Some(Why::PassedBy { mechanism, program: self.program.clone(), device: self.device.clone() })
    }
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
    let mut tail: Vec<&Absent> = steps
        .iter()
        .rev()
        .map_while(|step| match step {
            Step::Missing(absent) => Some(absent),
            Step::Seen(_) => None,
        })
        .collect();
    // Hops that nobody can see say nothing about where the packet went.
    let is_visible = |absent: &&Absent| !matches!(absent.why, Why::Encrypted { .. });
    let dark: Vec<String> =
        tail.iter().rev().filter(|absent| !is_visible(absent)).map(|absent| absent.describe()).collect();
    tail.retain(is_visible);
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
            Some(absent) if matches!(absent.why, Why::Hidden { .. }) => End::Unknown(format!(
                "{} cannot be seen: {}; last seen at {last_seen_at}",
                absent.describe(),
                absent.reason()
            )),
            Some(absent) if absent.why == Why::NotAttachedYet => End::Unknown(format!(
                "{} was not observed yet; last seen at {last_seen_at}",
                absent.describe()
            )),
            Some(_) if !facts.sees_snat && !matches!(facts.destination, Owner::Pod { .. }) => {
                End::Unknown(format!(
                    "last seen at {last_seen_at}; the node may have given it its own address (SNAT), and packets with \
                     that are recorded only if the target is named (--to)"
                ))
            }
            Some(absent) if dark.is_empty() => End::Lost { after: last_index, expected: absent.describe() },
            Some(absent) => End::Lost {
                after: last_index,
                expected: format!(
                    "{} (between them it is encrypted: {} cannot show it)",
                    absent.describe(),
                    dark.join(" and ")
                ),
            },
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

/// Remembers what a complete trajectory shows about paths and skipped hooks.
pub fn learn(learnt: &mut Learnt, seen: &[Seen<'_>], expectation: &Expectation) {
    let mut way = Way::default();
    for (i, hop) in seen.iter().enumerate() {
        way.set(hop.point);
        let Some(next) = seen.get(i + 1).filter(|next| next.point.node != hop.point.node) else { continue };
        for arriving in &seen[i + 1..] {
            if !matches!(Stage::of(arriving.point), NIC_IN | TUNNEL_IN) {
                break;
            }
            way.set(arriving.point);
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
