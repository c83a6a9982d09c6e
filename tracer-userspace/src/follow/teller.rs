//! Where finished trajectories go: as they are, tied to exchanges, and into the summary at the end; as text or JSON.
//!
//! Text shows an exchange when it has ended or nothing came for a second, whole and not line by line: packets of several
//! exchanges come interleaved, and what a ladder says needs its rows to stand together. JSON has every packet at once.

use std::io::{self, BufWriter, Write};

use tracer_common::outcome::Outcome;

use super::site::Names;
use super::wall::WallClocks;
use crate::agent::observer::Losses;
use crate::agent::programs::Outcomes;
use crate::app::{Failure, wants_color};
use crate::cli::{FollowArgs, Format};
pub use crate::output::summary::StreamEnd;
use crate::output::summary::{LossTotals, Summary};
use crate::output::text::Style;
use crate::output::{json, ladder, text};
use crate::trajectory::correlate::Counters;
use crate::trajectory::exchange::{Config, Exchanges, Finding};
use crate::trajectory::model::{ClockId, Trajectory};

/// See the module.
pub struct Teller {
    out: BufWriter<Box<dyn Write>>,
    format: Format,
    style: Style,
    names: Names,
    wall_clocks: WallClocks,
    exchanges: Exchanges,
    /// Ladders, and JSON of exchanges, are wanted.
    ties: bool,
    summary: Summary,
    told: u64,
    most: Option<u64>,
    quiet: bool,
}

impl Teller {
    #[must_use]
    pub fn new(args: &FollowArgs, names: Names) -> Self {
        Self::to(Box::new(io::stdout()), args, names)
    }

    /// As [`Teller::new`], but not to stdout.
    #[must_use]
    pub fn to(out: Box<dyn Write>, args: &FollowArgs, names: Names) -> Self {
        Self {
            out: BufWriter::new(out),
            format: args.output,
            style: Style { colour: wants_color(args.color) },
            names,
            wall_clocks: WallClocks::default(),
            exchanges: Exchanges::new(Config::default()),
            ties: !args.packets && !args.quiet,
            summary: Summary::default(),
            told: 0,
            most: args.count,
            quiet: args.quiet,
        }
    }

    /// What times are told by.
    pub fn wall_clocks(&mut self) -> &mut WallClocks {
        &mut self.wall_clocks
    }

    /// Trajectories told so far.
    #[must_use]
    pub fn told(&self) -> u64 {
        self.told
    }

    /// Whether as many were told as were asked for.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.most.is_some_and(|most| self.told >= most)
    }

    /// Tells one, by itself or, later, with its exchange, unless only the summary was asked for; [`Teller::flush`] shows it.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn tell(&mut self, trajectory: Trajectory) -> Result<(), Failure> {
        self.summary.add(&trajectory);
        self.told += 1;
        let at_once = match self.format {
            Format::Json => !self.quiet,
            Format::Text => !self.quiet && !self.ties,
        };
        if at_once {
            self.tell_packet(&trajectory)?;
        }
        self.follow_exchanges(|exchanges, emit| exchanges.push(trajectory, emit))
    }

    /// Tells the exchanges that have ended or paused at `now_ns`, the time up to which packets were judged.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn tell_exchanges(&mut self, now_ns: u64) -> Result<(), Failure> {
        self.follow_exchanges(|exchanges, emit| exchanges.advance(now_ns, emit))
    }

    fn tell_packet(&mut self, trajectory: &Trajectory) -> Result<(), Failure> {
        let wall_clocks = &self.wall_clocks;
        let wall_clock = |clock: ClockId, time_ns: u64| wall_clocks.wall_ns(clock, time_ns);
        match self.format {
            Format::Text => {
                text::write_trajectory(&mut self.out, trajectory, &self.names, &wall_clock, self.style)?;
                writeln!(self.out)?;
            }
            Format::Json => json::write_trajectory(&mut self.out, trajectory, &self.names, &wall_clock)?,
        }
        Ok(())
    }

    /// Lets `step` change the exchanges and tells what it gives.
    fn follow_exchanges(
        &mut self,
        step: impl FnOnce(&mut Exchanges, &mut dyn FnMut(Finding<'_>)),
    ) -> Result<(), Failure> {
        let Self { exchanges, out, names, wall_clocks, summary, format, style, ties, .. } = self;
        let wall_clocks = &*wall_clocks;
        let wall_clock = |clock: ClockId, time_ns: u64| wall_clocks.wall_ns(clock, time_ns);
        let mut written = Ok(());
        step(exchanges, &mut |finding| {
            if let Finding::Exchange(exchange) = finding {
                summary.add_exchange(exchange);
            }
            if !*ties || written.is_err() {
                return;
            }
            written = match (finding, *format) {
                (Finding::Exchange(exchange), Format::Text) => {
                    ladder::write_exchange(out, exchange, names, &wall_clock, *style)
                }
                (Finding::Exchange(exchange), Format::Json) => {
                    json::write_exchange(out, exchange, names, &wall_clock)
                }
                (Finding::Lone(trajectory), Format::Text) => {
                    text::write_trajectory(out, trajectory, names, &wall_clock, *style)
                        .and_then(|()| writeln!(out))
                }
                // It was told when it came.
                (Finding::Lone(_), Format::Json) => Ok(()),
            };
        });
        Ok(written?)
    }

    /// Shows what was told.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }

    /// Ends with the exchanges that are still open and the figures of the run.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn summarize(
        &mut self,
        outcomes: &Outcomes,
        losses: &Losses,
        correlator: &Counters,
        streams: &[StreamEnd],
    ) -> Result<(), Failure> {
        self.follow_exchanges(Exchanges::finish)?;
        let hooks: Vec<_> =
            Outcome::ALL.iter().map(|outcome| (outcome.name(), outcomes.get(*outcome))).collect();
        let totals = LossTotals {
            ring_full: losses.ring_full,
            channel_full: losses.channel_full,
            undecodable: losses.undecodable,
            unattributed: losses.unattributed,
            drop_records: losses.drop_records,
            drops_elsewhere: losses.drops_elsewhere,
            drops_unmatched: correlator.unmatched_drops,
            evicted: correlator.evicted,
            unrelated: correlator.unrelated,
        };
        match self.format {
            Format::Text => self.summary.write_text(&mut self.out, &hooks, &totals, streams)?,
            Format::Json => self.summary.write_json(&mut self.out, &hooks, &totals, streams)?,
        }
        self.flush()
    }
}
