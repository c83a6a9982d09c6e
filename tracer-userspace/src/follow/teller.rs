//! Where finished trajectories go: as they are, tied to exchanges, and into the summary at the end; as text or JSON.
//!
//! Text shows an exchange when it has ended or nothing came for a second, whole and not line by line: packets of several
//! exchanges come interleaved, and what a ladder says needs its rows to stand together. JSON has every packet at once.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, IsTerminal as _, Write};

use tracer_common::outcome::Outcome;

use super::joining::{Account, TICK};
use super::run::expression;
use super::wall::WallClocks;
use crate::agent::bytes::CaptureBytes;
use crate::app::{Failure, notice, wants_color};
use crate::capture::files::Rotation;
use crate::capture::write::CaptureWriter;
use crate::cli::{CaptureArgs, ChoiceArgs, Color, Format, TellingArgs};
use crate::expression::Expression;
use crate::node::event::Event;
use crate::node::site::{Names, both_clocks_ns};
pub use crate::output::summary::StreamEnd;
use crate::output::summary::{LossTotals, Summary};
use crate::output::text::Style;
use crate::output::{json, ladder, text};
use crate::trajectory::correlate::Counters;
use crate::trajectory::exchange::{Config, Exchanges, Finding};
use crate::trajectory::model::{ClockId, PointId, Trajectory};

/// How trajectories are told.
#[derive(Clone, Copy, Debug)]
pub enum Telling<'a> {
    /// As text or JSON.
    Text(&'a TellingArgs),
    /// As packets in a file.
    Capture(&'a CaptureArgs),
}

impl Telling<'_> {
    /// The bytes of packets that it needs.
    #[must_use]
    pub fn capture_bytes(self) -> Option<CaptureBytes> {
        match self {
            Self::Text(_) => None,
            Self::Capture(args) => Some(args.snaplen),
        }
    }
}

/// Five ticks of telling, nanoseconds.
const MOST_STEP_NS: u64 = 5 * TICK.as_nanos() as u64;

/// See the module.
pub struct Teller {
    out: BufWriter<Box<dyn Write>>,
    /// Where packets go.
    capture: Option<CaptureWriter>,
    /// Why it could not be written since the last look.
    capture_failed: io::Result<()>,
    expression: Option<Expression>,
    /// Packets of which the expression does not hold.
    unwanted: u64,
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
    /// `title`: what is followed, for people.
    ///
    /// # Errors
    /// The expression is none, or the capture file cannot be made.
    pub fn new(
        telling: Telling<'_>,
        choice: &ChoiceArgs,
        title: &str,
        names: Names,
    ) -> Result<Self, Failure> {
        match telling {
            Telling::Text(args) => Self::to(Box::new(io::stdout()), args, choice, names),
            Telling::Capture(args) => Self::into_capture(args, choice, title, names),
        }
    }

    /// As [`Teller::new`], as text or JSON, but not to stdout.
    ///
    /// # Errors
    /// The expression is none.
    pub fn to(
        out: Box<dyn Write>,
        args: &TellingArgs,
        choice: &ChoiceArgs,
        names: Names,
    ) -> Result<Self, Failure> {
        Ok(Self {
            out: BufWriter::new(out),
            capture: None,
            capture_failed: Ok(()),
            expression: expression(choice.filter.as_deref())?,
            unwanted: 0,
            format: args.output,
            style: Style { colour: wants_color(args.color) },
            names,
            wall_clocks: WallClocks::default(),
            exchanges: Exchanges::new(Config::default()),
            ties: !args.packets && !args.quiet,
            summary: Summary::default(),
            told: 0,
            most: choice.count,
            quiet: args.quiet,
        })
    }

    fn into_capture(
        args: &CaptureArgs,
        choice: &ChoiceArgs,
        title: &str,
        names: Names,
    ) -> Result<Self, Failure> {
        let path = (args.write.as_os_str() != "-").then(|| args.write.clone());
        if path.is_none() && io::stdout().is_terminal() {
            return Err(Failure::Usage(
                "a capture is nothing for a terminal: write it to a file (-w FILE) or into a pipe (-w - | wireshark -k -i -)"
                    .to_owned(),
            ));
        }
        let rotation = Rotation {
            bytes: args.rotate_bytes,
            time: args.rotate_every,
            keep: args.keep.map(|keep| keep as usize),
        };
        if path.is_none() && rotation != Rotation::default() {
            return Err(Failure::Usage(
                "stdout is one file: --rotate-bytes, --rotate-every and --keep need -w FILE".to_owned(),
            ));
        }
        // What is not the capture goes where it does not get in its way.
        let out: Box<dyn Write> =
            if path.is_none() { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
        let snaplen = match args.snaplen {
            CaptureBytes::Headers => 0,
            CaptureBytes::Most(bytes) => bytes,
        };
        let bytes = match args.snaplen {
            CaptureBytes::Headers => "headers only".to_owned(),
            CaptureBytes::Most(bytes) => format!("{bytes} bytes of each packet"),
        };
        let title = format!("{title}, at every hop; {bytes}");
        let capture = CaptureWriter::begin(path, rotation, snaplen, title, wall_ns())
            .map_err(|error| Failure::Failed(format!("cannot write the capture: {error}")))?;
        let quiet = TellingArgs { output: Format::Text, packets: false, quiet: true, color: Color::Never };
        Ok(Self { capture: Some(capture), ..Self::to(out, &quiet, choice, names)? })
    }

    /// Takes in what was observed, for a capture.
    pub fn hear(&mut self, event: &Event) {
        // Packets come with their trajectories.
        if let Some(capture) = &mut self.capture
            && self.capture_failed.is_ok()
            && !matches!(event, Event::Sighting(_))
        {
            self.capture_failed = capture.hear(event, wall_ns(), &self.wall_clocks);
        }
    }

    /// Takes in what a clock and the wall clock beside it show at one moment; returns by how much that was set.
    pub fn hear_wall_clock(&mut self, clock: ClockId, monotonic_ns: u64, wall_ns: u64) -> Option<i128> {
        if let Some(capture) = &mut self.capture
            && self.capture_failed.is_ok()
        {
            self.capture_failed = capture.hear_wall_clock(clock, monotonic_ns, wall_ns);
        }
        self.wall_clocks.hear(clock, monotonic_ns, wall_ns)
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
        if self.expression.as_ref().is_some_and(|expression| !expression.wants(&trajectory)) {
            self.unwanted += 1;
            return Ok(());
        }
        if let Some(capture) = &mut self.capture {
            capture.take(&trajectory, &self.names, &self.wall_clocks).map_err(capture_failure)?;
        }
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

    /// What is told happens now: a pause of this process is none of the packets'.
    pub fn tell_live(&mut self) {
        self.exchanges.step_by(MOST_STEP_NS);
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
    pub fn flush(&mut self, lost: &dyn Fn() -> BTreeMap<PointId, u64>) -> Result<(), Failure> {
        if let Some(capture) = &mut self.capture {
            std::mem::replace(&mut self.capture_failed, Ok(()))
                .and_then(|()| capture.flush(wall_ns(), lost, &self.wall_clocks))
                .map_err(capture_failure)?;
        }
        Ok(self.out.flush()?)
    }

    /// Ends with the exchanges that are still open and the figures of the run.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn summarize(&mut self, account: &Account<'_>, correlator: &Counters) -> Result<(), Failure> {
        let Account { outcomes, losses, streams, .. } = account;
        if let Some(capture) = &mut self.capture {
            std::mem::replace(&mut self.capture_failed, Ok(()))
                .and_then(|()| capture.finish(wall_ns(), &account.lost_at_points, &self.wall_clocks))
                .map_err(capture_failure)?;
            writeln!(self.out, "{} packets captured", capture.packets())?;
            if capture.packets() == 0 && self.told > 0 {
                notice(
                    "warning: packets were seen and none has its bytes: give the `tracer observe` of each stream \
                     --snaplen headers",
                );
            } else if capture.without_bytes() > 0 {
                notice(&format!(
                    "note: of {} hops no bytes came, and they are not in the capture",
                    capture.without_bytes()
                ));
            }
        }
        if self.unwanted > 0 {
            notice(&format!("note: of {} packets the filter does not hold", self.unwanted));
        }
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
        Ok(self.out.flush()?)
    }
}

/// CLOCK_REALTIME, nanoseconds since 1970.
fn wall_ns() -> u64 {
    both_clocks_ns().1
}

/// That nobody reads a capture any more is no failure; that a disk is full is one.
fn capture_failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
        _ => Failure::Failed(format!("cannot write the capture: {error}")),
    }
}
