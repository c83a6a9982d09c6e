//! `tracer follow --from`: joins the streams of several machines, each with a clock of its own.
//!
//! ```text
//! thread per stream: open ─► read ─► decode ─► channel ─►┐
//!                                                        ├─► number points and clocks ─► correlate ─► tell
//! thread per stream: open ─► read ─► decode ─► channel ─►┘
//! ```
//!
//! **Time.** How long a packet waits for its records is measured in this machine's time, and that passes for the
//! correlator no faster than the slowest stream has told what it saw ([`progress`]): a stream that lags delays
//! verdicts and makes no false losses. One that is silent for [`SILENT`] holds nobody up any more; its points count as
//! not observed until it speaks again.
//!
//! **Wall-clock time** is told by the wall clock of the first stream, see [`super::wall`].
//!
//! **Recordings** (regular files) are read to their end without time passing, in step, a heartbeat of each at a time.

mod account;
mod progress;
mod sources;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::account::{account, lost_at_points};
use self::progress::Progress;
pub(super) use self::sources::Heard;
use self::sources::Sources;
use super::agents::Begun;
use super::cluster::{Feed, News};
use super::joining::{Joining, TICK};
use super::observation::extent;
use super::run::{Ending, block_on, ticks, wait_for_end};
use super::select::Selection;
use super::signals::Interrupted;
use super::silence;
use super::teller::Telling;
use super::wanted::{resolve, scope_of};
use crate::app::{Failure, notice};
use crate::cli::RunArgs;
use crate::node::event::Event;
use crate::node::site::{Names, monotonic_ns};
use crate::stream::{Counts, Hello, Sighted, Told};
use crate::trajectory::correlate::CorrelatorConfig;
use crate::trajectory::model::{ClockId, Direction, DropSighting, ObservationPoint, PointId, Sighting};

/// A live stream that says nothing for this long holds the others up no more.
const SILENT: Duration = Duration::from_secs(5);
/// As [`SILENT`], before its first word: on a node with many pods the programs take a while to load.
const NEVER_BEGUN: Duration = Duration::from_secs(30);
/// Most points of one stream.
const MAX_POINTS: usize = 16_384;

/// Runs until the count, the time, a signal, or the end of all streams.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &RunArgs, inventory: &Path, telling: Telling<'_>) -> Result<(), Failure> {
    let names = Names::open(inventory)?;
    let selection = names.with(|inventory| resolve(inventory, &args.selection))?;
    for note in &selection.notes {
        notice(&format!("note: {note}"));
    }
    block_on(async {
        let interrupted = Interrupted::listen()?;
        let sources = Sources::open(&args.from)?;
        let joining = Joining::new(args, telling, &selection, names, monotonic_ns())?;
        let mut merge = Merge::new(args, selection, joining, sources.described());
        let ending = merge.until_the_end(sources, interrupted, None).await?;
        merge.finish(ending)
    })
}

/// As [`run`], with the streams of a cluster's agents, which come and go, and an inventory that changes.
///
/// # Errors
/// [`Failure`].
pub(super) async fn run_with(
    args: &RunArgs,
    selection: Selection,
    joining: Joining,
    feed: Feed,
    interrupted: Interrupted,
) -> Result<(), Failure> {
    let mut merge = Merge::new(args, selection, joining, std::iter::empty());
    merge.awaited = feed.streams_at_first();
    let ending = merge.until_the_end(Sources::none(), interrupted, Some(feed)).await?;
    merge.finish(ending)
}

/// What is known of one stream.
struct Stream {
    path: String,
    recorded: bool,
    hello: Option<Hello>,
    clock: Option<ClockId>,
    /// From the stream's numbers to ours; `None` for a point that another stream observes.
    points: HashMap<u32, Option<PointId>>,
    /// Those whose devices are there.
    attached: BTreeSet<PointId>,
    /// Sightings at points that the stream never told of.
    pointless: u64,
    progress: Progress,
    counts: Counts,
    spoke: Instant,
    silent: bool,
    /// Somebody was told that it has not begun yet.
    awaited: bool,
    /// Why nothing more comes.
    end: Option<String>,
}

impl Stream {
    fn new(path: String, recorded: bool) -> Self {
        Self {
            path,
            recorded,
            hello: None,
            clock: None,
            points: HashMap::new(),
            attached: BTreeSet::new(),
            pointless: 0,
            progress: Progress::default(),
            counts: Counts::default(),
            spoke: Instant::now(),
            silent: false,
            awaited: false,
            end: None,
        }
    }
}

struct Merge<'a> {
    args: &'a RunArgs,
    selection: Selection,
    joining: Joining,
    streams: Vec<Stream>,
    /// By boot.
    clocks: HashMap<String, ClockId>,
    /// Which stream tells the drops on a node: the first that said so. Another one of the same node tells them again.
    drop_tellers: HashMap<(ClockId, String), usize>,
    /// Indexed by [`PointId`], with since when and whose it is.
    points: Vec<Arc<ObservationPoint>>,
    since: Vec<(u64, usize)>,
    /// Streams that have ended, and the time from which on their points count as not observed: packets that were told
    /// of before wait for nothing longer.
    leaving: VecDeque<(u64, usize)>,
    announced: bool,
    /// So many streams are to come before it is said that all are there.
    awaited: usize,
}

impl<'a> Merge<'a> {
    fn new(
        args: &'a RunArgs,
        selection: Selection,
        joining: Joining,
        described: impl Iterator<Item = (String, bool)>,
    ) -> Self {
        let streams = described.map(|(path, recorded)| Stream::new(path, recorded));
        Self {
            args,
            selection,
            joining,
            streams: streams.collect(),
            clocks: HashMap::new(),
            drop_tellers: HashMap::new(),
            points: Vec::new(),
            since: Vec::new(),
            leaving: VecDeque::new(),
            announced: false,
            awaited: 0,
        }
    }

    async fn until_the_end(
        &mut self,
        mut sources: Sources,
        interrupted: Interrupted,
        mut feed: Option<Feed>,
    ) -> Result<Ending, Failure> {
        let mut tick = ticks(TICK);
        let end = wait_for_end(interrupted, self.args.ending.duration);
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                ending = &mut end => return Ok(ending),
                _ = tick.tick() => self.tell_finished()?,
                news = next_news(&mut feed) => self.take_news(news, &mut sources, &mut feed),
                (index, heard) = sources.next() => self.take(index, heard),
            }
            if self.joining.is_enough() {
                return Ok(Ending::Done);
            }
            // Agents that have gone come back.
            if feed.is_none() && self.streams.iter().all(|stream| stream.end.is_some()) {
                self.announce();
                return Ok(Ending::Done);
            }
        }
    }

    fn take_news(&mut self, news: News, sources: &mut Sources, feed: &mut Option<Feed>) {
        match news {
            News::Stream(Begun { node, messages }) => {
                let path = format!("of the agent on {node}");
                sources.add(&path, messages);
                self.streams.push(Stream::new(path, false));
            }
            News::Ways(ways) => ways.into_iter().for_each(|way| self.joining.take(Event::Way(way))),
            News::Selection(selection) => {
                self.joining.take(Event::Scope(scope_of(&selection)));
                if let Some(feed) = feed {
                    feed.ask_for(&selection);
                }
                self.selection = *selection;
            }
        }
    }

    fn take(&mut self, index: usize, heard: Heard) {
        match heard {
            Heard::Told(told) => {
                self.note_life(index);
                self.take_told(index, told);
            }
            Heard::Failed(error) => {
                self.end(index, format!("{error}"));
                notice(&format!("warning: {} {error}{}", self.name(index), self.consequence(index)));
            }
            Heard::Gone => self.end(index, "its reader has ended".to_owned()),
        }
    }

    fn take_told(&mut self, index: usize, told: Told) {
        match told {
            Told::Hello(hello) => self.greet(index, hello),
            Told::Point { point, since_ns } => self.add_point(index, *point, since_ns),
            Told::PointGone(id) => {
                // Its last records may come later: its number stays.
                let stream = &mut self.streams[index];
                if let Some(Some(id)) = stream.points.get(&id)
                    && stream.attached.remove(id)
                {
                    self.joining.take(Event::PointGone(*id));
                }
            }
            Told::Sightings(sightings) => self.take_sightings(index, sightings),
            Told::Drop(drop) => self.take_drop(index, *drop),
            Told::Counts(counts) => self.take_counts(index, counts),
            Told::Heartbeat(heartbeat) => {
                let stream = &mut self.streams[index];
                stream.progress.beat(heartbeat.monotonic_ns, monotonic_ns());
                if let Some(clock) = stream.clock {
                    self.joining.hear_wall_clock(clock, heartbeat.monotonic_ns, heartbeat.wall_ns);
                }
                self.announce_if_ready();
            }
            Told::End { reason } => {
                self.end(index, reason.clone());
                // That a recording ends is not worth a word.
                if !self.streams[index].recorded {
                    notice(&format!(
                        "note: {} has ended ({reason}){}",
                        self.name(index),
                        self.consequence(index)
                    ));
                }
            }
        }
    }

    fn greet(&mut self, index: usize, hello: Hello) {
        let next = ClockId(u32::try_from(self.clocks.len()).unwrap_or(u32::MAX));
        let clock = *self.clocks.entry(hello.boot_id.clone()).or_insert(next);
        self.joining.take(Event::Clock { clock, boot_id: hello.boot_id.clone() });
        if hello.watches_drops {
            for node in &hello.nodes {
                self.drop_tellers.entry((clock, node.clone())).or_insert(index);
                self.joining.take(Event::WatchesDrops { node: node.as_str().into() });
            }
        }
        if index == 0 {
            self.joining.tell_times_of(clock);
        }
        if hello.wall_ns > 0 {
            self.joining.hear_wall_clock(clock, hello.monotonic_ns, hello.wall_ns);
        }
        let stream = &mut self.streams[index];
        stream.clock = Some(clock);
        stream.hello = Some(hello);
    }

    fn add_point(&mut self, index: usize, point: ObservationPoint, since_ns: u64) {
        let Some(clock) = self.streams[index].clock else { return };
        if self.streams[index].points.len() >= MAX_POINTS {
            if self.streams[index].points.len() == MAX_POINTS {
                notice(&format!(
                    "warning: {} has more than {MAX_POINTS} points: the rest is ignored",
                    self.name(index)
                ));
                self.streams[index].points.insert(point.id.0, None);
            }
            return;
        }
        let local = point.id.0;
        let id = PointId(u32::try_from(self.points.len()).unwrap_or(u32::MAX));
        let point = ObservationPoint { id, clock, ..point };
        if let Some(other) = self.observer_of(&point, index) {
            if self.streams[index].points.values().all(Option::is_some) {
                notice(&format!(
                    "warning: {} and {} observe the same devices of node {}: those of the former are ignored",
                    self.name(index),
                    self.name(other),
                    point.node
                ));
            }
            self.streams[index].points.insert(local, None);
            return;
        }
        let point = Arc::new(point);
        self.points.push(Arc::clone(&point));
        self.since.push((since_ns, index));
        let stream = &mut self.streams[index];
        stream.attached.insert(id);
        if let Some(Some(former)) = stream.points.insert(local, Some(id))
            && stream.attached.remove(&former)
        {
            self.joining.take(Event::PointGone(former));
        }
        self.joining.take(Event::Point { point, since_ns });
    }

    /// The other stream that observes this very hook.
    fn observer_of(&self, point: &ObservationPoint, index: usize) -> Option<usize> {
        let hook = |point: &ObservationPoint| -> (ClockId, Direction, u32) {
            (point.clock, point.direction, point.ifindex)
        };
        self.points
            .iter()
            .zip(&self.since)
            .find(|(known, (_, owner))| {
                *owner != index
                    && hook(known) == hook(point)
                    && known.node == point.node
                    && known.pod == point.pod
                    && known.device == point.device
                    && !self.has_taken_over(index, *owner)
                    && self.streams[*owner].attached.contains(&known.id)
            })
            .map(|(_, (_, owner))| *owner)
    }

    /// Whether a stream is another one's successor: the same agent, asked again.
    fn has_taken_over(&self, index: usize, former: usize) -> bool {
        let (stream, former) = (&self.streams[index], &self.streams[former]);
        stream.path == former.path && former.end.is_some()
    }

    fn take_sightings(&mut self, index: usize, sightings: Vec<Sighted>) {
        for Sighted { point, time_ns, packet, frame } in sightings {
            match self.streams[index].points.get(&point) {
                Some(Some(id)) => {
                    let point = Arc::clone(&self.points[id.0 as usize]);
                    self.joining.take(Event::Sighting(Sighting {
                        point,
                        time_ns,
                        follows: 1,
                        packet,
                        frame,
                    }));
                }
                Some(None) => {}
                None => self.streams[index].pointless += 1,
            }
        }
    }

    fn take_drop(&mut self, index: usize, drop: DropSighting) {
        let Some(clock) = self.streams[index].clock else { return };
        // Of nodes that no stream's beginning names nothing is taken.
        if self.drop_tellers.get(&(clock, drop.place.node.to_string())) == Some(&index) {
            self.joining.take(Event::Drop(DropSighting { clock, ..drop }));
        }
    }

    fn take_counts(&mut self, index: usize, counts: Counts) {
        let stream = &mut self.streams[index];
        let records = counts.losses.total().saturating_sub(stream.counts.losses.total());
        stream.counts = counts;
        if records == 0 {
            return;
        }
        let nodes: Vec<Arc<str>> =
            stream.hello.iter().flat_map(|hello| &hello.nodes).map(|node| Arc::from(node.as_str())).collect();
        for node in nodes {
            self.joining.take(Event::Lost { node, records });
        }
    }

    /// Tells what is finished when all streams have told what they saw until some time.
    fn tell_finished(&mut self) -> Result<(), Failure> {
        let now_ns = monotonic_ns();
        self.look_for_silence();
        self.announce_if_ready();
        if let Some(until_ns) = self.told_until(now_ns) {
            while self.leaving.front().is_some_and(|(due_ns, _)| *due_ns <= until_ns) {
                if let Some((_, index)) = self.leaving.pop_front() {
                    self.joining.forget(self.streams[index].attached.iter().copied());
                }
            }
            self.joining.tell_finished(now_ns, until_ns, &|| lost_at_points(&self.streams))?;
        } else {
            self.joining.tell_complete(now_ns, &|| lost_at_points(&self.streams))?;
        }
        // Until all streams have begun, that is what is waited for, and it has been said.
        if self.announced {
            let Self { joining, selection, streams, points, .. } = self;
            joining.break_silence(|| account(selection, streams, points));
        }
        Ok(())
    }

    /// Until when all streams have told what they saw, in this machine's time; `None` where that does not pass: a stream
    /// has told nothing yet, or is a recording.
    fn told_until(&self, now_ns: u64) -> Option<u64> {
        let clocks = self.joining.clocks();
        let live = || self.streams.iter().filter(|stream| stream.end.is_none() && !stream.silent);
        let beating = || {
            let beating = live().filter(|stream| !stream.recorded);
            beating.filter_map(|stream| Some((stream.clock?, stream.progress)))
        };
        let mut until = live().map(|stream| {
            let clock = stream.clock.filter(|_| !stream.recorded)?;
            progress::compared((clock, &stream.progress), beating(), |other, moment| {
                clocks.ahead(other, moment)
            })
        });
        until.try_fold(now_ns, |least, until| until.map(|until| least.min(until)))
    }

    /// A stream that speaks is not silent.
    fn note_life(&mut self, index: usize) {
        let stream = &mut self.streams[index];
        stream.spoke = Instant::now();
        if !stream.silent {
            return;
        }
        stream.silent = false;
        for id in stream.attached.clone() {
            let (since_ns, _) = self.since[id.0 as usize];
            self.joining.take(Event::Point { point: Arc::clone(&self.points[id.0 as usize]), since_ns });
        }
        notice(&format!("note: {} speaks again", self.name(index)));
    }

    fn look_for_silence(&mut self) {
        for index in 0..self.streams.len() {
            let stream = &mut self.streams[index];
            if stream.recorded || stream.silent || stream.end.is_some() || stream.spoke.elapsed() < SILENT {
                continue;
            }
            let patience = if stream.hello.is_some() { SILENT } else { NEVER_BEGUN };
            if stream.spoke.elapsed() < patience {
                if !std::mem::replace(&mut stream.awaited, true) {
                    notice(&format!(
                        "note: {} has not begun yet; waiting up to {} s for its tracer observe to attach",
                        self.name(index),
                        patience.as_secs()
                    ));
                }
                continue;
            }
            stream.silent = true;
            self.joining.forget(stream.attached.iter().copied());
            notice(&format!(
                "warning: {} has been silent for {} s{}",
                self.name(index),
                patience.as_secs(),
                self.consequence(index)
            ));
        }
    }

    fn end(&mut self, index: usize, why: String) {
        let stream = &mut self.streams[index];
        if stream.end.is_none() {
            stream.end = Some(why);
            if !stream.recorded {
                self.leaving.push_back((monotonic_ns() + CorrelatorConfig::default().grace_ns, index));
            }
        }
    }

    /// "stream n1.fifo (node telekom-xwkb3)".
    fn name(&self, index: usize) -> String {
        let stream = &self.streams[index];
        match &stream.hello {
            Some(hello) => format!("stream {} (node {})", stream.path, hello.nodes.join(", ")),
            None => format!("stream {}", stream.path),
        }
    }

    fn consequence(&self, index: usize) -> String {
        match &self.streams[index].hello {
            Some(hello) => format!(": hops on {} are not visible from now on", hello.nodes.join(", ")),
            None => ": hops on its nodes are not visible".to_owned(),
        }
    }

    fn announce_if_ready(&mut self) {
        let is_ready =
            |stream: &Stream| stream.progress.until_ns().is_some() || stream.silent || stream.end.is_some();
        if !self.announced && self.streams.len() >= self.awaited && self.streams.iter().all(is_ready) {
            self.announce();
        }
    }

    fn announce(&mut self) {
        if std::mem::replace(&mut self.announced, true) {
            return;
        }
        notice(&format!(
            "following {} at {} from {} streams; Ctrl-C ends with a summary",
            silence::what(&self.selection),
            extent(&self.points),
            self.streams.len()
        ));
    }

    fn finish(mut self, ending: Ending) -> Result<(), Failure> {
        if self.points.is_empty() && self.streams.iter().all(|stream| stream.end.is_some()) {
            let ends = self
                .streams
                .iter()
                .map(|stream| format!("  - {}: {}", stream.path, stream.end.as_deref().unwrap_or_default()));
            let ends: Vec<_> = ends.collect();
            return Err(Failure::Failed(format!("no stream has told of any point:\n{}", ends.join("\n"))));
        }
        // What was no stream of ours from its first bytes on is an error, even where the others have told enough.
        let refused: Vec<_> = self
            .streams
            .iter()
            .filter(|stream| stream.hello.is_none())
            .filter_map(|stream| Some(format!("  - {}: {}", stream.path, stream.end.as_ref()?)))
            .collect();
        let account = account(&self.selection, &self.streams, &self.points);
        self.joining.finish(&account, ending == Ending::Interrupted)?;
        if refused.is_empty() {
            return Ok(());
        }
        Err(Failure::Failed(format!("not every stream could be read:\n{}", refused.join("\n"))))
    }
}

/// Waits for ever where there is no cluster.
async fn next_news(feed: &mut Option<Feed>) -> News {
    match feed {
        Some(feed) => feed.next().await,
        None => std::future::pending().await,
    }
}
