//! `tracer read`: what captures show, without a machine to look at.
//!
//! All files are read together, in the order of their packets' times, and that is the time that passes: a packet's hops
//! are waited for as long as the clocks of the captures may be apart.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::time::Duration;

use super::joining::{Account, Joining};
use super::teller::{Teller, Telling};
use crate::agent::observer::Losses;
use crate::agent::programs::Outcomes;
use crate::app::{Failure, notice};
use crate::capture::foreign::Place;
use crate::capture::read::{Book, CaptureFile, Found, Skipped};
use crate::cli::ReadArgs;
use crate::node::event::Event;
use crate::node::site::Names;
use crate::trajectory::correlate::CorrelatorConfig;
use crate::trajectory::model::{ClockId, Sighting};

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;
/// How often finished packets are told, in the captures' time, nanoseconds.
const TICK_NS: u64 = 20_000_000;

/// Reads all files to their ends.
///
/// # Errors
/// No file can be read, or one is damaged: what was read of it is told before.
pub fn run(args: &ReadArgs) -> Result<(), Failure> {
    let names = args.inventory.as_deref().map_or_else(|| Ok(Names::none()), Names::open)?;
    let mut sources = args.files.iter().map(Source::open).collect::<Result<Vec<_>, _>>()?;
    let teller = Teller::new(Telling::Text(&args.telling), &args.choice, "", names.clone())?;
    let base = CorrelatorConfig::default();
    let skew_ns = u64::try_from(args.skew.as_nanos()).unwrap_or(u64::MAX / 4);
    let config = CorrelatorConfig { grace_ns: base.grace_ns.saturating_add(skew_ns), ..base };
    let joining = Joining::with(teller, config, names.clone(), 0);
    let mut reading = Reading {
        book: Book::default(),
        names,
        brings_names: args.inventory.is_none(),
        joining,
        now_ns: 0,
        told_ns: 0,
        lost: BTreeMap::new(),
    };
    reading.read_all(&mut sources)?;
    reading.finish(&sources)
}

struct Reading {
    book: Book,
    names: Names,
    /// The names in files count: no inventory was given.
    brings_names: bool,
    joining: Joining,
    /// The latest time of a packet so far, wall clock, nanoseconds since 1970.
    now_ns: u64,
    told_ns: u64,
    /// Records that the files say were lost, by node.
    lost: BTreeMap<Arc<str>, u64>,
}

/// One file.
struct Source {
    place: Place,
    file: CaptureFile<Box<dyn Read>>,
    /// Its next packet and that one's time.
    next: Option<(u64, Sighting)>,
    ended: bool,
    damage: Option<String>,
    sightings: u64,
}

impl Source {
    fn open(place: &Place) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("{place} {error}"));
        let input: Box<dyn Read> = if place.path.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            Box::new(
                File::open(&place.path)
                    .map_err(|error| failed(&format_args!("cannot be opened: {error}")))?,
            )
        };
        let input: Box<dyn Read> = Box::new(BufReader::with_capacity(BUFFER, input));
        let file = CaptureFile::begin(input, place.clone()).map_err(|error| failed(&error))?;
        Ok(Self { place: place.clone(), file, next: None, ended: false, damage: None, sightings: 0 })
    }
}

impl Reading {
    fn read_all(&mut self, sources: &mut [Source]) -> Result<(), Failure> {
        loop {
            for source in sources.iter_mut() {
                self.fill(source);
            }
            let times = sources
                .iter()
                .enumerate()
                .filter_map(|(index, source)| Some((source.next.as_ref()?.0, index)));
            let Some((wall_ns, index)) = times.min() else { return Ok(()) };
            let Some((_, sighting)) = sources[index].next.take() else { return Ok(()) };
            self.now_ns = self.now_ns.max(wall_ns);
            self.joining.take(Event::Sighting(sighting));
            if self.now_ns.saturating_sub(self.told_ns) >= TICK_NS {
                self.told_ns = self.now_ns;
                self.joining.tell_finished(self.now_ns, self.now_ns, &Default::default)?;
                if self.joining.is_enough() {
                    return Ok(());
                }
            }
        }
    }

    /// Reads a file up to its next packet.
    fn fill(&mut self, source: &mut Source) {
        while source.next.is_none() && !source.ended {
            match source.file.read_found(&mut self.book, &self.names) {
                Ok(Some(Found::Sighting { wall_ns, sighting })) => {
                    source.sightings += 1;
                    source.next = Some((wall_ns, sighting));
                }
                Ok(Some(found)) => self.take(found),
                Ok(None) => source.ended = true,
                Err(error) => {
                    source.ended = true;
                    source.damage = Some(error.to_string());
                }
            }
        }
    }

    fn take(&mut self, found: Found) {
        match found {
            Found::Event(event) => {
                if let Event::Lost { node, records } = &event {
                    let lost = self.lost.entry(Arc::clone(node)).or_default();
                    *lost = lost.saturating_add(*records);
                }
                self.joining.take(event);
            }
            Found::Clock { clock, monotonic_ns, wall_ns } => {
                self.joining.tell_times_of_first(clock);
                self.joining.hear_wall_clock(clock, monotonic_ns, wall_ns);
            }
            Found::Objects(objects) if self.brings_names => {
                if let Err(error) = self.names.add(&objects, self.now_ns) {
                    notice(&format!("warning: names in a capture cannot be used: {error}"));
                }
            }
            Found::Objects(_) | Found::Sighting { .. } => {}
        }
    }

    /// All records that were lost. Nodes of one clock are one machine, whose losses are told of each of them.
    fn lost(&self) -> u64 {
        let mut by_clock: BTreeMap<Option<ClockId>, u64> = BTreeMap::new();
        for (node, records) in &self.lost {
            let point = self.book.points().iter().find(|point| point.node == *node);
            let lost = by_clock.entry(point.map(|point| point.clock)).or_default();
            *lost = (*lost).max(*records);
        }
        by_clock.values().fold(0, |sum, lost| sum.saturating_add(*lost))
    }

    fn finish(mut self, sources: &[Source]) -> Result<(), Failure> {
        self.joining.tell_finished(self.now_ns, self.now_ns, &Default::default)?;
        // What waits for another hop is judged as if the captures had gone on: they have not seen it.
        let end_ns = self.now_ns.saturating_add(Duration::from_secs(3600).as_nanos() as u64);
        self.joining.tell_finished(end_ns, end_ns, &Default::default)?;
        let account = Account {
            selection: None,
            outcomes: Outcomes::default(),
            losses: Losses { ring_full: self.lost(), ..Losses::default() },
            lost_at_points: Default::default(),
            points: self.book.points(),
            streams: Vec::new(),
        };
        self.joining.finish(&account, false)?;
        let damaged: Vec<_> = sources.iter().filter_map(report).collect();
        if damaged.is_empty() { Ok(()) } else { Err(Failure::Failed(damaged.join("\n"))) }
    }
}

/// Says what of a file could not be used; returns how it is damaged.
fn report(source: &Source) -> Option<String> {
    let Source { place, file, sightings, .. } = source;
    let Skipped { other, truncated, malformed, timeless, unknown_link, notes } = file.skipped();
    if let Some(abi) = file.other_abi() {
        notice(&format!(
            "warning: {place} was made by a tracer whose records are of version {abi}, this one reads {}: use that version",
            tracer_common::ABI_VERSION
        ));
    }
    for (count, why) in [
        (other, "are no IP packets"),
        (
            truncated,
            "are cut before the end of their headers, or of the 32 bytes that tell datagrams apart (capture with -s 128)",
        ),
        (malformed, "have impossible headers"),
        (timeless, "have no time"),
        (unknown_link, "have a link type that tracer does not know"),
        (notes, "are at interfaces, or have notes, that make no sense"),
    ] {
        if count > 0 {
            notice(&format!("note: {place}: {count} packets {why}"));
        }
    }
    if file.dropped() > 0 {
        notice(&format!("note: {place}: the capture lost {} packets: hops may be missing", file.dropped()));
    }
    let damage = source.damage.as_ref()?;
    Some(format!("{place} {damage}; the {sightings} packets before that are told"))
}
