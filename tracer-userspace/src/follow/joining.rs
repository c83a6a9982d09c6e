//! Joining what was observed and telling it: the correlator, where its trajectories go, and what is said when there
//! are none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::clocks::{self, ClockNodes};
use super::select::Selection;
use super::silence;
use super::teller::{StreamEnd, Teller, Telling};
use super::wanted::scope_of;
use crate::agent::bytes::CaptureBytes;
use crate::agent::observer::Losses;
use crate::agent::programs::Outcomes;
use crate::app::{Failure, notice};
use crate::cli::RunArgs;
use crate::node::event::Event;
use crate::node::site::Names;
use crate::trajectory::clock::Clocks;
use crate::trajectory::correlate::{Correlator, CorrelatorConfig};
use crate::trajectory::model::{ClockId, ObservationPoint, PointId, Trajectory};

/// How often finished trajectories are collected and losses read: the most that it delays a line.
pub const TICK: Duration = Duration::from_millis(20);
/// Nothing told for this long: say what we wait for.
const SILENCE: Duration = Duration::from_secs(5);

/// Most bytes of packets under way, while they are captured.
const MAX_BYTES: usize = 256 << 20;
/// Hops that a packet under way has, more or less, and bytes of one besides those that are captured.
const HOPS: usize = 8;
const HOP_BYTES: usize = 300;

/// See the module.
pub struct Joining {
    correlator: Correlator<Names>,
    teller: Teller,
    nodes: ClockNodes,
    last_told: Instant,
    /// The observer's time, CLOCK_MONOTONIC of this machine.
    now_ns: u64,
    /// Up to which packets were judged.
    judged_ns: u64,
}

/// What all hooks saw and what was lost, for the summary and for saying why nothing is told.
pub struct Account<'a> {
    /// `None`: whatever comes.
    pub selection: Option<&'a Selection>,
    pub outcomes: Outcomes,
    pub losses: Losses,
    /// Those of which it is known at which point.
    pub lost_at_points: BTreeMap<PointId, u64>,
    pub points: &'a [Arc<ObservationPoint>],
    /// Streams that were read; none where this machine was observed.
    pub streams: Vec<StreamEnd>,
}

impl Joining {
    /// `now_ns` is the observer's time.
    ///
    /// # Errors
    /// The expression is none, or a capture file cannot be made.
    pub fn new(
        args: &RunArgs,
        telling: Telling<'_>,
        selection: &Selection,
        names: Names,
        now_ns: u64,
    ) -> Result<Self, Failure> {
        let mut teller = Teller::new(telling, &args.choice, &silence::what(selection), names.clone())?;
        teller.tell_live();
        let mut config =
            CorrelatorConfig { scopes: vec![scope_of(selection)], ..CorrelatorConfig::default() };
        if let Some(bytes) = telling.capture_bytes() {
            config.max_open = most_open(bytes, config.max_open);
        }
        Ok(Self::with(teller, config, names, now_ns))
    }

    /// As [`Joining::new`], with a teller of one's own.
    #[must_use]
    pub fn with(teller: Teller, config: CorrelatorConfig, names: Names, now_ns: u64) -> Self {
        let correlator = Correlator::new(config, names);
        Self {
            correlator,
            teller,
            nodes: ClockNodes::default(),
            last_told: Instant::now(),
            now_ns,
            judged_ns: now_ns,
        }
    }

    /// Takes in what a clock and the wall clock beside it show at one moment, nanoseconds; says so if that was set.
    pub fn hear_wall_clock(&mut self, clock: ClockId, monotonic_ns: u64, wall_ns: u64) {
        let Some(step_ns) = self.teller.hear_wall_clock(clock, monotonic_ns, wall_ns) else { return };
        let by = clocks::apart(step_ns, "ahead", "back");
        notice(&format!(
            "note: the wall clock of {} was set {by}; the times told go on as before",
            self.nodes.of(clock)
        ));
    }

    /// Tells times of all clocks by the wall clock beside this one, as far as the difference is known.
    pub fn tell_times_of(&mut self, clock: ClockId) {
        self.teller.wall_clocks().set_reference(clock);
    }

    /// As [`Joining::tell_times_of`], if none has been chosen yet.
    pub fn tell_times_of_first(&mut self, clock: ClockId) {
        if self.teller.wall_clocks().reference().is_none() {
            self.tell_times_of(clock);
        }
    }

    /// Takes in what was observed.
    pub fn take(&mut self, event: Event) {
        self.teller.hear(&event);
        match event {
            Event::Clock { .. } => {}
            Event::Point { point, since_ns } => {
                self.nodes.learn(&point);
                self.correlator.add_point(point, since_ns);
            }
            Event::PointGone(id) => self.correlator.remove_point(id),
            Event::Sighting(sighting) => self.correlator.push(sighting),
            Event::WatchesDrops { node } => self.correlator.watch_drops(&node),
            Event::Drop(drop) => self.correlator.push_drop(drop),
            Event::Lost { node, records } => self.correlator.report_loss(&node, records, self.now_ns),
            Event::Way(way) => self.correlator.plan_way(way),
            Event::Scope(scope) => self.correlator.set_scopes(vec![scope]),
        }
    }

    /// Lets points count as not observed.
    pub fn forget(&mut self, points: impl IntoIterator<Item = PointId>) {
        points.into_iter().for_each(|id| self.correlator.remove_point(id));
    }

    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.teller.is_enough()
    }

    /// What is known of the clocks.
    #[must_use]
    pub fn clocks(&self) -> &Clocks {
        self.correlator.clocks()
    }

    /// Tells the packets that are finished at `now_ns`, when all that was observed until `judged_until_ns` has been taken
    /// in.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn tell_finished(
        &mut self,
        now_ns: u64,
        judged_until_ns: u64,
        lost: &dyn Fn() -> BTreeMap<PointId, u64>,
    ) -> Result<(), Failure> {
        self.now_ns = self.now_ns.max(now_ns);
        self.judged_ns = self.judged_ns.max(judged_until_ns);
        let mut finished = Vec::new();
        let emit = &mut |trajectory| finished.push(trajectory);
        self.correlator.advance_and_judge(self.now_ns, self.judged_ns, emit);
        self.nodes.note_contradictions(self.correlator.clocks());
        self.tell(finished)?;
        self.teller.flush(lost)
    }

    /// Tells the packets that are complete at `now_ns`, and judges no others.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn tell_complete(
        &mut self,
        now_ns: u64,
        lost: &dyn Fn() -> BTreeMap<PointId, u64>,
    ) -> Result<(), Failure> {
        self.tell_finished(now_ns, self.judged_ns, lost)
    }

    /// Says what is waited for, if nothing was told for a while.
    pub fn break_silence<'a>(&mut self, account: impl FnOnce() -> Account<'a>) {
        if self.last_told.elapsed() < SILENCE {
            return;
        }
        self.last_told = Instant::now();
        if self.teller.told() == 0 {
            self.explain_silence(&account());
        }
    }

    /// Tells what is still under way and the summary.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn finish(&mut self, account: &Account<'_>, interrupted: bool) -> Result<(), Failure> {
        let mut rest = Vec::new();
        self.correlator.finish(&mut |trajectory| rest.push(trajectory));
        self.tell(rest)?;
        if interrupted && self.teller.told() == 0 {
            self.explain_silence(account);
        }
        self.teller.summarize(account, &self.correlator.counters())
    }

    fn explain_silence(&self, account: &Account<'_>) {
        let Some(selection) = account.selection else { return };
        let counters = self.correlator.counters();
        notice(&silence::explain(selection, &account.outcomes, &counters, account.points));
    }

    fn tell(&mut self, finished: Vec<Trajectory>) -> Result<(), Failure> {
        self.teller.tell_exchanges(self.judged_ns)?;
        for trajectory in finished {
            if self.teller.is_enough() {
                break;
            }
            let wall_clocks = self.teller.wall_clocks();
            self.nodes.align(self.correlator.clocks(), wall_clocks, &trajectory);
            self.teller.tell(trajectory)?;
            self.last_told = Instant::now();
        }
        Ok(())
    }
}

/// Packets under way that memory is there for.
fn most_open(bytes: CaptureBytes, most: usize) -> usize {
    // Headers are shorter than they may be.
    let of_a_hop = match bytes {
        CaptureBytes::Headers => 200,
        CaptureBytes::Most(bytes) => bytes as usize,
    };
    (MAX_BYTES / (HOPS * (of_a_hop + HOP_BYTES))).min(most)
}
