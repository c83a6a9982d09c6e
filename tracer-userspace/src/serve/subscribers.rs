//! The streams of those who were admitted: each gets the records of its own trace, the points of the node and of the pods
//! that its trace shows, and what was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracer_common::ABI_VERSION;
use tracer_common::outcome::Outcome;

use super::outbox::Outbox;
use super::request::TraceKey;
use super::traces::{Admission, Traces};
use crate::agent::observer::Losses;
use crate::node::event::Event;
use crate::node::machine::Machine;
use crate::node::site::both_clocks_ns;
use crate::stream::wire::Message;
use crate::stream::wire::message::Kind;
use crate::stream::{Counts, FORMAT, convert, wire};
use crate::trajectory::model::{Frame, ObservationPoint, PointId, Sighting};

/// How often is said that all is told: half of what the format asks for.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// Most streams at a time.
pub const MOST: usize = 128;

/// Who this node is, for the first message of a stream.
#[derive(Clone, Debug)]
pub struct Identity {
    pub node: String,
    pub kernel_release: String,
    pub boot_id: String,
}

/// All streams.
#[derive(Debug, Default)]
pub struct Subscribers {
    all: Vec<Subscriber>,
    /// Points that are held, and since when.
    points: BTreeMap<PointId, (Arc<ObservationPoint>, u64)>,
}

#[derive(Debug)]
struct Subscriber {
    key: TraceKey,
    admission: Admission,
    outbox: Outbox,
    /// Points that it was told of.
    points: BTreeSet<PointId>,
    /// What had been lost when it came, and at which points.
    before: (Losses, BTreeMap<PointId, u64>),
    told: Counts,
    beaten: Instant,
}

impl Subscribers {
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Points that are held.
    #[must_use]
    pub fn points(&self) -> usize {
        self.points.len()
    }

    /// Begins a stream.
    pub fn add(
        &mut self,
        key: TraceKey,
        admission: Admission,
        sender: mpsc::Sender<Message>,
        identity: &Identity,
        machine: &Machine,
        traces: &Traces,
    ) {
        let (monotonic_ns, wall_ns) = both_clocks_ns();
        let mut outbox = Outbox::new(sender);
        outbox.message(Kind::Hello(wire::Hello {
            format: FORMAT,
            abi: ABI_VERSION,
            tracer: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: identity.kernel_release.clone(),
            boot_id: identity.boot_id.clone(),
            nodes: vec![identity.node.clone()],
            watches_drops: machine.watches_drops(),
            monotonic_ns,
            wall_ns,
        }));
        let mut subscriber = Subscriber {
            key,
            admission,
            outbox,
            points: BTreeSet::new(),
            before: (machine.losses(), machine.lost_at_points()),
            told: Counts::default(),
            beaten: Instant::now(),
        };
        self.points.values().for_each(|(point, since_ns)| subscriber.point(point, *since_ns, traces));
        self.all.push(subscriber);
    }

    /// Hands an event to whom it concerns.
    pub fn take(&mut self, event: Event, traces: &Traces) {
        match event {
            Event::Point { point, since_ns } => {
                self.all.iter_mut().for_each(|subscriber| subscriber.point(&point, since_ns, traces));
                self.points.insert(point.id, (point, since_ns));
            }
            Event::PointGone(id) => {
                self.points.remove(&id);
                for subscriber in &mut self.all {
                    if subscriber.points.remove(&id) {
                        subscriber.outbox.message(Kind::PointGone(wire::PointGone { id: id.0 }));
                    }
                }
            }
            Event::Sighting(sighting) => {
                let is_for = |subscriber: &&mut Subscriber| {
                    sighting.follows & subscriber.admission.slot.bit() != 0
                        && subscriber.points.contains(&sighting.point.id)
                };
                for subscriber in self.all.iter_mut().filter(is_for) {
                    let frame = subscriber.part_of(&sighting, traces);
                    subscriber.outbox.sighting(convert::sighting_to_wire(&sighting, frame.as_ref()));
                }
            }
            Event::Drop(drop) => {
                let is_for = |subscriber: &&mut Subscriber| {
                    let place = drop.place.pod.as_deref();
                    drop.follows & subscriber.admission.slot.bit() != 0
                        && place.is_none_or(|pod| traces.shows(&subscriber.key, pod))
                };
                for subscriber in self.all.iter_mut().filter(is_for) {
                    subscriber.outbox.message(Kind::Drop(Box::new(convert::drop_to_wire(&drop))));
                }
            }
            // The first message or the totals say it.
            Event::Clock { .. }
            | Event::WatchesDrops { .. }
            | Event::Lost { .. }
            | Event::Way(_)
            | Event::Scope(_) => {}
        }
    }

    /// What a trace shows may be other pods' devices now.
    pub fn renew_points(&mut self, traces: &Traces) {
        for subscriber in &mut self.all {
            self.points.values().for_each(|(point, since_ns)| subscriber.point(point, *since_ns, traces));
        }
    }

    /// Ends the streams of traces that are no more what they were admitted to.
    pub fn end_outdated(&mut self, traces: &Traces) {
        self.end(
            |subscriber| !traces.holds(&subscriber.key, subscriber.admission.slot),
            "its PacketTrace has ended",
        );
    }

    /// Ends all.
    pub fn end_all(&mut self, reason: &str) {
        self.end(|_| true, reason);
    }

    /// Says what was lost and until when all is told, and hands on what waits. Gives up who has gone.
    pub fn beat(&mut self, machine: &Machine, until_ns: u64) {
        let is_due = |subscriber: &Subscriber| until_ns > 0 && subscriber.beaten.elapsed() >= HEARTBEAT;
        if !self.all.iter().any(is_due) {
            return self.flush();
        }
        let (losses, at_points) = (machine.losses(), machine.lost_at_points());
        let outcomes = machine.outcomes().unwrap_or_default();
        let outcomes: BTreeMap<String, u64> =
            Outcome::ALL.iter().map(|outcome| (outcome.name().to_owned(), outcomes.get(*outcome))).collect();
        for subscriber in self.all.iter_mut().filter(|subscriber| is_due(subscriber)) {
            subscriber.beat(losses, &outcomes, &at_points, until_ns);
        }
        self.flush();
    }

    fn flush(&mut self) {
        self.all.retain_mut(|subscriber| {
            let is_here = subscriber.outbox.flush().is_ok();
            if !is_here {
                tracing::info!(trace = %subscriber.key, "a caller has gone");
            }
            is_here
        });
    }

    fn end(&mut self, which: impl Fn(&Subscriber) -> bool, reason: &str) {
        self.all.retain_mut(|subscriber| {
            if !which(subscriber) {
                return true;
            }
            subscriber.outbox.message(Kind::End(wire::End { reason: reason.to_owned() }));
            // Whether or not it takes that: it gets nothing more.
            let _ = subscriber.outbox.flush();
            tracing::info!(trace = %subscriber.key, reason, "a stream has ended");
            false
        });
    }
}

impl Subscriber {
    /// The bytes of a packet that it gets.
    fn part_of(&self, sighting: &Sighting, traces: &Traces) -> Option<Frame> {
        let frame = sighting.frame.as_ref()?;
        traces.bytes(&self.key)?.of(frame, &sighting.point)
    }

    fn point(&mut self, point: &ObservationPoint, since_ns: u64, traces: &Traces) {
        let is_shown = point.pod.as_deref().is_none_or(|pod| traces.shows(&self.key, pod));
        if is_shown && self.points.insert(point.id) {
            let since_ns = since_ns.max(self.admission.since_ns);
            self.outbox.message(Kind::Point(convert::point_to_wire(point, since_ns)));
        }
    }

    fn beat(
        &mut self,
        losses: Losses,
        outcomes: &BTreeMap<String, u64>,
        at_points: &BTreeMap<PointId, u64>,
        until_ns: u64,
    ) {
        let (before, at_points_before) = &self.before;
        let mut losses = losses.since(*before);
        losses.channel_full = losses.channel_full.saturating_add(self.outbox.left_out());
        let is_its = |(point, lost): (&PointId, &u64)| {
            let since = lost.saturating_sub(*at_points_before.get(point).unwrap_or(&0));
            (self.points.contains(point) && since > 0).then_some((point.0, since))
        };
        let at_points = at_points.iter().filter_map(is_its).collect();
        let counts = Counts { outcomes: outcomes.clone(), losses, at_points };
        if counts != self.told {
            self.outbox.message(Kind::Counts(convert::counts_to_wire(&counts)));
            self.told = counts;
        }
        let (monotonic_ns, wall_ns) = both_clocks_ns();
        let wall_ns = wall_ns.saturating_sub(monotonic_ns.saturating_sub(until_ns));
        self.outbox.message(Kind::Heartbeat(wire::Heartbeat { monotonic_ns: until_ns, wall_ns }));
        self.beaten = Instant::now();
    }
}
