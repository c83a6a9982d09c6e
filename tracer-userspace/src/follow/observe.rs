//! `tracer observe`: observe this machine, and write what is seen as a stream for a follow elsewhere.

use std::io::{self, IsTerminal as _, StdoutLock};
use std::time::Duration;

use tokio::time::Instant;
use tracer_common::outcome::Outcome;

use super::joining::TICK;
use super::observation::{Observation, extent, prepare};
use super::run::{Ending, block_on, ticks, wait_for_end};
use super::signals::Interrupted;
use super::silence;
use crate::app::{Failure, notice};
use crate::cli::ObserveArgs;
use crate::node::event::Event;
use crate::node::site::{boot_id, both_clocks_ns, monotonic_ns};
use crate::stream::write::StreamWriter;
use crate::stream::{Counts, Heartbeat, Hello};

/// How often is said that all is told: half of what the format asks for.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// Runs until its time or a signal ends it, or nobody reads the stream any more.
///
/// # Errors
/// [`Failure`]; nothing of ours is attached then.
pub fn run(args: &ObserveArgs) -> Result<(), Failure> {
    if io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "a stream is nothing for a terminal: send it to a file or a pipe (tracer observe ... > node-1.stream), \
             and give that to tracer follow --from"
                .to_owned(),
        ));
    }
    let prepared = prepare(&args.source.inventory.inventory, &args.selection, &args.hooks)?;
    block_on(async {
        // Before anything is attached: from here on a signal ends the run in good order.
        let interrupted = Interrupted::listen()?;
        let mut early = Vec::new();
        let mut observation =
            Observation::start(prepared, &args.selection, &args.hooks, args.snaplen, &mut |event| {
                early.push(event)
            })?;
        let mut telling = Telling::begin(&observation)?;
        early.into_iter().for_each(|event| telling.take(event));
        telling.flush()?;
        notice(&format!(
            "observing {} at {} for tracer follow --from; Ctrl-C ends",
            silence::what(observation.selection()),
            extent(observation.machine().points()),
        ));
        let ending = until_the_end(args, &mut observation, &mut telling, interrupted).await;
        observation.stop(&mut |event| telling.take(event));
        let ending = ending?;
        telling.heartbeat(&observation, monotonic_ns())?;
        telling.end(match ending {
            Ending::Done => "its time is over",
            Ending::Interrupted => "interrupted",
        })
    })
}

async fn until_the_end(
    args: &ObserveArgs,
    observation: &mut Observation<'_>,
    telling: &mut Telling,
    interrupted: Interrupted,
) -> Result<Ending, Failure> {
    let mut tick = ticks(TICK);
    let end = wait_for_end(interrupted, args.ending.duration);
    tokio::pin!(end);
    loop {
        tokio::select! {
            biased;
            ending = &mut end => return Ok(ending),
            _ = tick.tick() => {
                // All that was seen before this is drained then.
                let until_ns = observation.machine().read_until_ns();
                observation.drain(&mut |event| telling.take(event));
                telling.heartbeat_if_due(observation, until_ns)?;
            }
            happening = observation.next() => observation.take(happening?, &mut |event| telling.take(event)),
        }
        telling.check()?;
    }
}

/// The stream on stdout.
struct Telling {
    writer: StreamWriter<StdoutLock<'static>>,
    /// Why the last event could not be written.
    failed: io::Result<()>,
    beaten: Instant,
    counts: Counts,
}

impl Telling {
    fn begin(observation: &Observation<'_>) -> Result<Self, Failure> {
        let boot_id = boot_id()?;
        let (monotonic_ns, wall_ns) = both_clocks_ns();
        let hello = Hello {
            tracer: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: rustix::system::uname().release().to_string_lossy().into_owned(),
            boot_id,
            nodes: observation.machine().nodes().iter().map(ToString::to_string).collect(),
            watches_drops: observation.machine().watches_drops(),
            monotonic_ns,
            wall_ns,
        };
        Ok(Self {
            writer: StreamWriter::begin(io::stdout().lock(), hello)?,
            failed: Ok(()),
            beaten: Instant::now(),
            counts: Counts::default(),
        })
    }

    fn take(&mut self, event: Event) {
        if self.failed.is_ok() {
            self.failed = match event {
                Event::Point { point, since_ns } => self.writer.point(&point, since_ns),
                Event::PointGone(id) => self.writer.point_gone(id),
                Event::Sighting(sighting) => self.writer.sighting(&sighting),
                Event::Drop(drop) => self.writer.dropped(&drop),
                // The first message or the totals say it, and the reader has an inventory of its own.
                Event::Clock { .. }
                | Event::WatchesDrops { .. }
                | Event::Lost { .. }
                | Event::Way(_)
                | Event::Scope(_) => Ok(()),
            };
        }
    }

    /// Whether all events could be written.
    fn check(&mut self) -> Result<(), Failure> {
        Ok(std::mem::replace(&mut self.failed, Ok(()))?)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.check()?;
        Ok(self.writer.flush()?)
    }

    /// Nothing is claimed before the ring was read for the first time.
    fn heartbeat_if_due(&mut self, observation: &Observation<'_>, until_ns: u64) -> Result<(), Failure> {
        if until_ns > 0 && self.beaten.elapsed() >= HEARTBEAT {
            self.heartbeat(observation, until_ns)
        } else {
            Ok(())
        }
    }

    fn heartbeat(&mut self, observation: &Observation<'_>, now_ns: u64) -> Result<(), Failure> {
        self.check()?;
        let outcomes = observation.machine().outcomes().unwrap_or_default();
        let counts = Counts {
            outcomes: Outcome::ALL
                .iter()
                .map(|outcome| (outcome.name().to_owned(), outcomes.get(*outcome)))
                .collect(),
            losses: observation.machine().losses(),
            at_points: observation
                .machine()
                .lost_at_points()
                .into_iter()
                .map(|(point, lost)| (point.0, lost))
                .collect(),
        };
        if counts != self.counts {
            self.writer.counts(&counts)?;
            self.counts = counts;
        }
        let (monotonic_ns, wall_ns) = both_clocks_ns();
        let wall_ns = wall_ns.saturating_sub(monotonic_ns.saturating_sub(now_ns));
        self.writer.heartbeat(Heartbeat { monotonic_ns: now_ns, wall_ns })?;
        self.beaten = Instant::now();
        Ok(self.writer.flush()?)
    }

    fn end(self, reason: &str) -> Result<(), Failure> {
        self.failed?;
        drop(self.writer.end(reason)?);
        Ok(())
    }
}
