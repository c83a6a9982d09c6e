//! From told trajectories to packets with comments.
//!
//! A packet is written when its trajectory is told, for only then its comment is known: a delivered one some
//! milliseconds after it was seen, one whose end is not seen after the time that the correlator waits. Into a file packets
//! go in the order of their times, as far as they are told within [`HOLD_NS`]; a pipe gets them at once.
//!
//! A packet that was merged from several is a hop of each of them; it is written once, with the comment of the first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tracer_common::record::{HOP_RECORD_SIZE, split_captured};
use tracer_pcap::link;
use tracer_pcap::read::Way;
use tracer_pcap::write::{NewInterface, NewPacket, PcapngWriter};

use super::files::{Counted, Files, Rotation};
use super::format::{self, ENTERPRISE, Kind, PacketObject, PointObject};
use super::objects::{News, Objects};
use crate::follow::wall::WallClocks;
use crate::node::event::Event;
use crate::node::site::Names;
use crate::output::text;
use crate::trajectory::expect::topology::PlannedWay;
use crate::trajectory::model::{
    ClockId, DeviceRole, Direction, Frame, ObservationPoint, PointId, Trajectory,
};

/// How long packets wait for earlier ones before they go into a file, nanoseconds: longer than a packet is waited for.
pub const HOLD_NS: u64 = 500_000_000;
/// Packets of which is remembered that they were written.
const REMEMBERED: usize = 1 << 17;
/// Most bytes of objects in one note, unless one alone has more; there is room for twice as many.
const OBJECTS_BYTES: usize = 24 << 10;

/// See the module. Times in nanoseconds, those of the wall clock since 1970.
pub struct CaptureWriter {
    files: Files,
    writer: PcapngWriter<Counted>,
    snaplen: u32,
    /// What the follow is about, for people.
    title: String,
    /// Those of this file.
    interfaces: HashMap<PointId, Interface>,
    objects: Objects,
    /// What the next file begins with.
    clocks: BTreeMap<ClockId, Clock>,
    points: BTreeMap<PointId, (Arc<ObservationPoint>, u64)>,
    watched: Vec<Arc<str>>,
    /// As [`Event::Way`] told them, the last of each two nodes.
    ways: Vec<PlannedWay>,
    /// Records lost by node since the run's beginning.
    lost: BTreeMap<Arc<str>, u64>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    next: u64,
    packets: u64,
    /// Hops of told packets of which no bytes came.
    without_bytes: u64,
    written: HashSet<(PointId, u64)>,
    order_written: VecDeque<(PointId, u64)>,
}

/// An interface of a file.
#[derive(Clone, Copy, Debug)]
struct Interface {
    number: u32,
    packets: u64,
    /// Records lost at the point before this file began.
    lost_before: u64,
}

#[derive(Clone, Debug, Default)]
struct Clock {
    boot_id: String,
    /// What it and the wall clock beside it showed.
    shown: Option<(u64, u64)>,
}

/// Something that waits for what was earlier.
struct Waiting {
    time_ns: u64,
    number: u64,
    content: Content,
}

enum Content {
    Packet(Box<WaitingPacket>),
    /// Encoded.
    Note(Vec<u8>),
}

struct WaitingPacket {
    time_ns: u64,
    point: Arc<ObservationPoint>,
    frame: Frame,
    length: u32,
    comment: String,
    object: String,
}

impl Waiting {
    fn key(&self) -> (u64, u64) {
        (self.time_ns, self.number)
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl CaptureWriter {
    /// Begins the first file. `path` of `None` is stdout; `snaplen` of 0 means that packets are not cut.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub fn begin(
        path: Option<PathBuf>,
        rotation: Rotation,
        snaplen: u32,
        title: String,
        now_ns: u64,
    ) -> io::Result<Self> {
        let mut files = Files::new(path, rotation);
        let writer = begin_file(&mut files, &title, now_ns)?;
        Ok(Self {
            files,
            writer,
            snaplen,
            title,
            interfaces: HashMap::new(),
            objects: Objects::default(),
            clocks: BTreeMap::new(),
            points: BTreeMap::new(),
            watched: Vec::new(),
            ways: Vec::new(),
            lost: BTreeMap::new(),
            waiting: BinaryHeap::new(),
            next: 0,
            packets: 0,
            without_bytes: 0,
            written: HashSet::new(),
            order_written: VecDeque::new(),
        })
    }

    /// Takes in what a clock and the wall clock beside it show at one moment; the first time counts.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn hear_wall_clock(&mut self, clock: ClockId, monotonic_ns: u64, wall_ns: u64) -> io::Result<()> {
        let known = self.clocks.entry(clock).or_default();
        if known.shown.is_some() {
            return Ok(());
        }
        known.shown = Some((monotonic_ns, wall_ns));
        self.write_clock(clock)
    }

    /// Takes in what was observed, besides packets, at `now_ns`. What comes to pass among packets goes into the file among
    /// them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn hear(&mut self, event: &Event, now_ns: u64, wall_clocks: &WallClocks) -> io::Result<()> {
        match event {
            Event::Clock { clock, boot_id } => {
                self.clocks.entry(*clock).or_default().boot_id.clone_from(boot_id);
                Ok(())
            }
            Event::Point { point, since_ns } => {
                self.points.insert(point.id, (Arc::clone(point), *since_ns));
                self.write_point(point, *since_ns)
            }
            Event::PointGone(id) => {
                let clock = self.points.remove(id).map_or(0, |(point, _)| point.clock.0);
                self.wait(now_ns, Content::Note(format::note(clock, format::point_gone(*id))));
                Ok(())
            }
            Event::WatchesDrops { node } => {
                self.watched.push(Arc::clone(node));
                self.note(0, Kind::WatchesDrops(node.to_string()))
            }
            Event::Drop(drop) => {
                let note = format::note(drop.clock.0, format::dropped(drop));
                self.wait(wall_clocks.wall_ns(drop.clock, drop.time_ns), Content::Note(note));
                Ok(())
            }
            Event::Lost { node, records } => {
                *self.lost.entry(Arc::clone(node)).or_default() += records;
                self.wait(now_ns, Content::Note(format::note(0, format::lost(node, *records))));
                Ok(())
            }
            Event::Way(way) => {
                self.ways.retain(|known| (&known.from, &known.to) != (&way.from, &way.to));
                self.ways.push(way.clone());
                self.note(0, format::way(way))
            }
            Event::Sighting(_) | Event::Scope(_) => Ok(()),
        }
    }

    /// Takes the packets of a trajectory; [`CaptureWriter::flush`] writes them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn take(
        &mut self,
        trajectory: &Trajectory,
        names: &Names,
        wall_clocks: &WallClocks,
    ) -> io::Result<()> {
        let news = names.with(|inventory| self.objects.news(inventory, trajectory));
        self.write_news(&news)?;
        let object = |hop: usize| PacketObject {
            trajectory: trajectory.id,
            hop: hop + 1,
            hops: trajectory.expected_hops,
            verdict: text::verdict_word(&trajectory.verdict),
        };
        for (index, hop) in trajectory.hops.iter().enumerate() {
            if hop.frames.is_empty() {
                self.without_bytes = self.without_bytes.saturating_add(1);
                continue;
            }
            let comment = text::comment(trajectory, index, names);
            for frame in &hop.frames {
                let Some((record, _)) = split_captured(&frame.0) else { continue };
                if !self.is_first((hop.point.id, record.time_ns)) {
                    continue;
                }
                let time_ns = wall_clocks.wall_ns(hop.point.clock, record.time_ns);
                let packet = WaitingPacket {
                    time_ns,
                    point: Arc::clone(&hop.point),
                    frame: frame.clone(),
                    length: record.length,
                    comment: comment.clone(),
                    object: serde_json::to_string(&object(index))?,
                };
                self.wait(time_ns, Content::Packet(Box::new(packet)));
            }
        }
        Ok(())
    }

    fn wait(&mut self, time_ns: u64, content: Content) {
        self.next += 1;
        self.waiting.push(Reverse(Waiting { time_ns, number: self.next, content }));
    }

    fn is_first(&mut self, key: (PointId, u64)) -> bool {
        if !self.written.insert(key) {
            return false;
        }
        self.order_written.push_back(key);
        if self.order_written.len() > REMEMBERED
            && let Some(oldest) = self.order_written.pop_front()
        {
            self.written.remove(&oldest);
        }
        true
    }

    /// Writes what has waited long enough at `now_ns`, and begins the next file if it is due. `lost`: records lost by point.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(
        &mut self,
        now_ns: u64,
        lost: &dyn Fn() -> BTreeMap<PointId, u64>,
        wall_clocks: &WallClocks,
    ) -> io::Result<()> {
        let until_ns = if self.files.is_stdout() { u64::MAX } else { now_ns.saturating_sub(HOLD_NS) };
        self.write_waiting(until_ns)?;
        if self.files.is_due(self.writer.output().written(), now_ns) {
            self.end_file(now_ns, &lost(), wall_clocks)?;
            self.next_file(now_ns, &lost())?;
        }
        if self.files.is_stdout() { self.writer.flush() } else { Ok(()) }
    }

    /// Writes all that is left and ends the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(
        &mut self,
        now_ns: u64,
        lost: &BTreeMap<PointId, u64>,
        wall_clocks: &WallClocks,
    ) -> io::Result<()> {
        self.write_waiting(u64::MAX)?;
        self.end_file(now_ns, lost, wall_clocks)
    }

    /// Packets written, to all files.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Hops of told packets that are in no file, because none of their bytes came.
    #[must_use]
    pub fn without_bytes(&self) -> u64 {
        self.without_bytes
    }

    fn write_waiting(&mut self, until_ns: u64) -> io::Result<()> {
        while self.waiting.peek().is_some_and(|Reverse(first)| first.time_ns <= until_ns) {
            match self.waiting.pop() {
                Some(Reverse(Waiting { content: Content::Packet(packet), .. })) => {
                    self.write_packet(&packet)?
                }
                Some(Reverse(Waiting { content: Content::Note(note), .. })) => {
                    self.writer.note(ENTERPRISE, &note)?;
                }
                None => break,
            }
        }
        Ok(())
    }

    fn write_packet(&mut self, packet: &WaitingPacket) -> io::Result<()> {
        if !self.interfaces.contains_key(&packet.point.id) {
            // Its device went before this file began.
            self.write_point(&packet.point, 0)?;
        }
        let Some(interface) = self.interfaces.get_mut(&packet.point.id) else { return Ok(()) };
        interface.packets += 1;
        self.packets += 1;
        let Some((record, bytes)) = packet.frame.0.split_at_checked(HOP_RECORD_SIZE) else { return Ok(()) };
        self.writer.packet(&NewPacket {
            interface: interface.number,
            time_ns: packet.time_ns,
            length: packet.length,
            bytes,
            way: Some(match packet.point.direction {
                Direction::Ingress => Way::In,
                Direction::Egress => Way::Out,
            }),
            comment: &packet.comment,
            custom_text: Some((ENTERPRISE, &packet.object)),
            custom: Some((ENTERPRISE, &format::record_option(record))),
        })
    }

    fn write_news(&mut self, news: &News) -> io::Result<()> {
        let mut objects = Vec::new();
        let mut bytes = 0;
        for object in &news.objects {
            let more = object.to_string().len();
            if bytes + more > OBJECTS_BYTES {
                self.write_objects(&std::mem::take(&mut objects))?;
                bytes = 0;
            }
            bytes += more;
            objects.push(object);
        }
        self.write_objects(&objects)?;
        if news.names.is_empty() {
            return Ok(());
        }
        let names: Vec<(IpAddr, &str)> =
            news.names.iter().map(|(address, name)| (*address, name.as_str())).collect();
        self.writer.names(&names)
    }

    fn write_objects(&mut self, objects: &[&serde_json::Value]) -> io::Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        let list = serde_json::json!({ "kind": "List", "apiVersion": "v1", "items": objects });
        self.note(0, Kind::Objects(list.to_string()))
    }

    fn write_clock(&mut self, clock: ClockId) -> io::Result<()> {
        let Some(Clock { boot_id, shown: Some((monotonic_ns, wall_ns)) }) = self.clocks.get(&clock) else {
            return Ok(());
        };
        let begins = format::clock_begins(boot_id, *monotonic_ns, *wall_ns);
        self.note(clock.0, begins)
    }

    fn write_point(&mut self, point: &ObservationPoint, since_ns: u64) -> io::Result<()> {
        let name = interface_name(point);
        let object = serde_json::to_string(&PointObject::of(point))?;
        let note = format::note(point.clock.0, format::point(point, since_ns));
        let number = self.writer.add_interface(&NewInterface {
            link_type: if point.has_ethernet_header { link::ETHERNET } else { link::RAW },
            snaplen: self.snaplen,
            name: &name,
            description: &describe(point),
            custom_text: Some((ENTERPRISE, &object)),
            custom: Some((ENTERPRISE, &note)),
        })?;
        self.interfaces.insert(point.id, Interface { number, packets: 0, lost_before: 0 });
        Ok(())
    }

    fn note(&mut self, clock: u32, kind: Kind) -> io::Result<()> {
        self.writer.note(ENTERPRISE, &format::note(clock, kind))
    }

    /// What became of each interface: packets, losses, and how its times were corrected.
    fn end_file(
        &mut self,
        now_ns: u64,
        lost: &BTreeMap<PointId, u64>,
        wall_clocks: &WallClocks,
    ) -> io::Result<()> {
        let mut interfaces: Vec<_> =
            self.interfaces.iter().map(|(id, interface)| (*id, *interface)).collect();
        interfaces.sort_by_key(|(_, interface)| interface.number);
        for (id, interface) in interfaces {
            let dropped = lost.get(&id).copied().unwrap_or_default().saturating_sub(interface.lost_before);
            let mut comment = String::new();
            if let Some((point, _)) = self.points.get(&id) {
                let known = self.known_losses(point.clock, lost);
                let of_node = self.lost.get(&point.node).copied().unwrap_or_default();
                if of_node > known {
                    comment = format!(
                        "{of_node} records of node {}'s machine were lost in all; of {} it is not known at which interface. ",
                        point.node,
                        of_node - known
                    );
                }
                comment += &times_of(point, wall_clocks);
            }
            self.writer.statistics(
                interface.number,
                now_ns,
                interface.packets + dropped,
                dropped,
                &comment,
            )?;
        }
        self.writer.flush()
    }

    /// Records lost on a machine of which it is known at which point.
    fn known_losses(&self, clock: ClockId, lost: &BTreeMap<PointId, u64>) -> u64 {
        let is_there = |id: &PointId| self.points.get(id).is_some_and(|(point, _)| point.clock == clock);
        lost.iter().filter(|(id, _)| is_there(id)).map(|(_, records)| records).sum()
    }

    fn next_file(&mut self, now_ns: u64, lost: &BTreeMap<PointId, u64>) -> io::Result<()> {
        self.writer = begin_file(&mut self.files, &self.title, now_ns)?;
        self.interfaces.clear();
        self.objects = Objects::default();
        for clock in self.clocks.keys().copied().collect::<Vec<_>>() {
            self.write_clock(clock)?;
        }
        for (point, since_ns) in self.points.values().cloned().collect::<Vec<_>>() {
            self.write_point(&point, since_ns)?;
        }
        for (id, interface) in &mut self.interfaces {
            interface.lost_before = lost.get(id).copied().unwrap_or_default();
        }
        for node in self.watched.clone() {
            self.note(0, Kind::WatchesDrops(node.to_string()))?;
        }
        for way in self.ways.clone() {
            self.note(0, format::way(&way))?;
        }
        Ok(())
    }
}

fn begin_file(files: &mut Files, title: &str, now_ns: u64) -> io::Result<PcapngWriter<Counted>> {
    let application = concat!("tracer ", env!("CARGO_PKG_VERSION"));
    PcapngWriter::begin(files.begin(now_ns)?, application, title)
}

/// `node/device/direction`; of a device in a pod, where each has an eth0, `node/pod/device/direction`.
fn interface_name(point: &ObservationPoint) -> String {
    let direction = match point.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    match &point.pod {
        Some(pod) if point.role == DeviceRole::PodInterface => {
            format!("{}/{}/{}/{direction}", point.node, pod.name, point.device)
        }
        _ => format!("{}/{}/{direction}", point.node, point.device),
    }
}

fn describe(point: &ObservationPoint) -> String {
    let of_pod = match (&point.pod, point.role) {
        (Some(pod), DeviceRole::PodInterface) => format!("in pod {}/{}, ", pod.namespace, pod.name),
        (Some(pod), _) => format!("to pod {}/{}, ", pod.namespace, pod.name),
        (None, _) => String::new(),
    };
    let kind = if point.kind.is_empty() { "hardware" } else { &*point.kind };
    let header = if point.has_ethernet_header { "Ethernet" } else { "raw IP" };
    format!("{of_pod}node {}, {kind}, {header}", point.node)
}

/// Whose wall clock the times of a point are told by.
fn times_of(point: &ObservationPoint, wall_clocks: &WallClocks) -> String {
    match wall_clocks.correction_ns(point.clock) {
        None => format!("Times by the wall clock of node {}.", point.node),
        Some(correction_ns) => format!(
            "Times by another node's wall clock, which the packets show to be {} seconds {} that of node {}; how exactly is \
             said at each packet that crosses over.",
            format_args!("{:.9}", correction_ns.unsigned_abs() as f64 / 1e9),
            if correction_ns >= 0 { "ahead of" } else { "behind" },
            point.node
        ),
    }
}
