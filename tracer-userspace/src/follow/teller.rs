//! Where finished trajectories go: text or JSON on stdout, and the summary at the end.

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};

use tracer_common::outcome::Outcome;

use super::site::Names;
use crate::agent::observer::Losses;
use crate::agent::programs::Outcomes;
use crate::app::{Failure, wants_color};
use crate::cli::{FollowArgs, Format};
pub use crate::output::summary::StreamEnd;
use crate::output::summary::{LossTotals, Summary};
use crate::output::text::Style;
use crate::output::{json, text};
use crate::trajectory::correlate::Counters;
use crate::trajectory::model::{ClockId, Trajectory};

/// See the module.
pub struct Teller {
    out: BufWriter<Box<dyn Write>>,
    format: Format,
    style: Style,
    names: Names,
    /// To be added to times of a clock.
    wall_clocks: HashMap<ClockId, i128>,
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
            wall_clocks: HashMap::new(),
            summary: Summary::default(),
            told: 0,
            most: args.count,
            quiet: args.quiet,
        }
    }

    /// What to add to times of a clock for the wall clock beside it. Set once, so that times do not jump when that is
    /// set.
    pub fn set_wall_clock(&mut self, clock: ClockId, offset_ns: i128) {
        self.wall_clocks.entry(clock).or_insert(offset_ns);
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

    /// Tells one, unless only the summary was asked for; [`Teller::flush`] shows it.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn tell(&mut self, trajectory: &Trajectory) -> Result<(), Failure> {
        self.summary.add(trajectory);
        self.told += 1;
        if self.quiet {
            return Ok(());
        }
        let wall_clocks = &self.wall_clocks;
        let wall_clock = |clock: ClockId, time_ns: u64| {
            let offset_ns = wall_clocks.get(&clock).copied().unwrap_or_default();
            u64::try_from(i128::from(time_ns) + offset_ns).unwrap_or_default()
        };
        match self.format {
            Format::Text => {
                text::write_trajectory(&mut self.out, trajectory, &self.names, &wall_clock, self.style)?;
                writeln!(self.out)?;
            }
            Format::Json => json::write_trajectory(&mut self.out, trajectory, &self.names, &wall_clock)?,
        }
        Ok(())
    }

    /// Shows what was told.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }

    /// Ends with the figures of the run.
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
        let hooks: Vec<_> =
            Outcome::ALL.iter().map(|outcome| (outcome.name(), outcomes.get(*outcome))).collect();
        let totals = LossTotals {
            ring_full: losses.ring_full,
            channel_full: losses.channel_full,
            undecodable: losses.undecodable,
            unattributed: losses.unattributed,
            drop_records: losses.drop_records,
            drops_elsewhere: losses.drops_elsewhere,
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
