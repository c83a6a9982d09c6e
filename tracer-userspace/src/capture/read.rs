//! From a capture file to what was observed.
//!
//! Of a packet with a hop record in its option that record counts, and not its bytes: they may be cut. Where a file's
//! interface has no point of ours in its options, its packets are read as any program's ([`super::foreign`]).

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use prost::Message as _;
use tracer_common::ABI_VERSION;
use tracer_common::record::HopRecord;
use tracer_pcap::read::{CaptureReader, Custom, Item, Packet as FilePacket, ReadError};

use super::foreign::{Foreign, Place, Unusable};
use super::format::{self, ENTERPRISE, Kind, message, record_of};
use crate::agent::decode;
use crate::node::event::Event;
use crate::stream::convert;
use crate::trajectory::model::{
    ClockId, Direction, Directory, DropSighting, ObservationPoint, PodRef, PointId, Sighting,
};

/// Most points of all files.
const MAX_POINTS: usize = 1 << 16;
/// Longest text of a note that is looked at, bytes.
const MAX_NOTE: usize = 1 << 16;

/// One thing that a file tells.
#[derive(Debug)]
pub enum Found {
    Event(Event),
    /// A packet at a point, at this time of the wall clock, nanoseconds since 1970.
    Sighting {
        wall_ns: u64,
        sighting: Sighting,
    },
    /// What a clock and the wall clock beside it showed at one moment.
    Clock {
        clock: ClockId,
        monotonic_ns: u64,
        wall_ns: u64,
    },
    /// Kubernetes objects, as JSON.
    Objects(String),
}

/// Packets that gave no sighting, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Not IP.
    pub other: u64,
    /// Cut before the end of their headers, or before what tells them from others.
    pub truncated: u64,
    pub malformed: u64,
    /// Without a time (simple packet blocks).
    pub timeless: u64,
    /// Of a link type that is not known here.
    pub unknown_link: u64,
    /// Notes and options that make no sense.
    pub notes: u64,
}

impl Skipped {
    /// All of them but those that are no business of tracer's.
    #[must_use]
    pub const fn unusable(&self) -> u64 {
        self.truncated + self.malformed + self.timeless + self.unknown_link + self.notes
    }
}

/// Points and clocks of all files of a run, numbered as one.
#[derive(Debug, Default)]
pub struct Book {
    points: Vec<Arc<ObservationPoint>>,
    by_hook: HashMap<Hook, PointId>,
    clocks: HashMap<String, ClockId>,
}

/// What makes a point the same in two files of one run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Hook {
    node: Arc<str>,
    clock: ClockId,
    pod: Option<Arc<PodRef>>,
    device: Arc<str>,
    ifindex: u32,
    direction: Direction,
}

impl Book {
    /// The clock of this name; files that name the same one share it.
    pub fn clock(&mut self, name: &str) -> ClockId {
        let next = ClockId(u32::try_from(self.clocks.len()).unwrap_or(u32::MAX));
        *self.clocks.entry(name.to_owned()).or_insert(next)
    }

    /// The point at the same hook, and whether it is new; `None` if there are too many.
    pub fn point(&mut self, point: ObservationPoint) -> Option<(Arc<ObservationPoint>, bool)> {
        let hook = Hook {
            node: Arc::clone(&point.node),
            clock: point.clock,
            pod: point.pod.clone(),
            device: Arc::clone(&point.device),
            ifindex: point.ifindex,
            direction: point.direction,
        };
        let known = self.by_hook.get(&hook).and_then(|id| self.points.get(id.0 as usize));
        if let Some(known) = known {
            return Some((Arc::clone(known), false));
        }
        if self.points.len() >= MAX_POINTS {
            return None;
        }
        let id = PointId(u32::try_from(self.points.len()).ok()?);
        let point = Arc::new(ObservationPoint { id, ..point });
        self.points.push(Arc::clone(&point));
        self.by_hook.insert(hook, id);
        Some((point, true))
    }

    #[must_use]
    pub fn points(&self) -> &[Arc<ObservationPoint>] {
        &self.points
    }
}

/// One file. See the module.
pub struct CaptureFile<R> {
    reader: CaptureReader<R>,
    packet: FilePacket,
    note: Custom,
    /// From the file's interfaces, as far as they were looked at.
    interfaces: Vec<Interface>,
    /// From the numbers of the file's run.
    points: HashMap<u32, Arc<ObservationPoint>>,
    clocks: HashMap<u32, ClockId>,
    place: Place,
    skipped: Skipped,
    /// Told next.
    waiting: std::collections::VecDeque<Found>,
    /// Why its records mean nothing here.
    other_abi: Option<u32>,
}

enum Interface {
    Own(Arc<ObservationPoint>),
    Foreign(Foreign),
    /// Nothing of it is used.
    Refused,
}

impl<R: Read> CaptureFile<R> {
    /// Reads the beginning. `place`: where a capture of another program was taken.
    ///
    /// # Errors
    /// It is no capture.
    pub fn begin(input: R, place: Place) -> Result<Self, ReadError> {
        Ok(Self {
            reader: CaptureReader::begin(input)?,
            packet: FilePacket::default(),
            note: Custom::default(),
            interfaces: Vec::new(),
            points: HashMap::new(),
            clocks: HashMap::new(),
            place,
            skipped: Skipped::default(),
            waiting: std::collections::VecDeque::new(),
            other_abi: None,
        })
    }

    #[must_use]
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// The version of records of another tracer that wrote it, if that is another one than ours.
    #[must_use]
    pub fn other_abi(&self) -> Option<u32> {
        self.other_abi
    }

    /// Packets that the captures behind the file lost, as far as it says so.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.reader.interfaces().iter().map(|interface| interface.dropped).sum()
    }

    /// What the file tells next; `None` at its end.
    ///
    /// # Errors
    /// It ends or makes no sense from here on; what was told before is sound.
    pub fn read_found<D: Directory>(
        &mut self,
        book: &mut Book,
        names: &D,
    ) -> Result<Option<Found>, ReadError> {
        loop {
            if let Some(found) = self.waiting.pop_front() {
                return Ok(Some(found));
            }
            let item = self.reader.read_item(&mut self.packet, &mut self.note)?;
            self.look_at_interfaces(book);
            match item {
                Item::End => return Ok(None),
                Item::Note => {
                    if self.note.enterprise == ENTERPRISE {
                        let value = std::mem::take(&mut self.note.value);
                        if let Some(found) = self.read_note(&value, book) {
                            return Ok(Some(found));
                        }
                    }
                }
                Item::Packet => self.read_packet(book, names),
            }
        }
    }

    fn look_at_interfaces(&mut self, book: &mut Book) {
        for index in self.interfaces.len()..self.reader.interfaces().len() {
            let interface = &self.reader.interfaces()[index];
            let notes = interface.custom.iter().filter(|custom| custom.enterprise == ENTERPRISE);
            let notes: Vec<_> = notes.map(|custom| custom.value.clone()).collect();
            let foreign = Foreign::new(interface, index, &self.place);
            let own = notes.iter().find_map(|note| match message::Note::decode(note.as_slice()).ok()? {
                message::Note { clock, kind: Some(Kind::Point(point)) } => Some((clock, point)),
                _ => None,
            });
            let interface = match own {
                None => Interface::Foreign(foreign),
                Some((clock, point)) => self.add_point(clock, point, book),
            };
            self.interfaces.push(interface);
        }
    }

    fn add_point(&mut self, clock: u32, point: crate::stream::wire::Point, book: &mut Book) -> Interface {
        let number = point.id;
        let clock = self.clocks.get(&clock).copied();
        let (Some(clock), Ok((point, since_ns))) = (clock, convert::point_from_wire(point)) else {
            self.skipped.notes += 1;
            return Interface::Refused;
        };
        let Some((point, is_new)) = book.point(ObservationPoint { clock, ..point }) else {
            self.skipped.notes += 1;
            return Interface::Refused;
        };
        self.points.insert(number, Arc::clone(&point));
        if is_new {
            self.waiting.push_back(Found::Event(Event::Point { point: Arc::clone(&point), since_ns }));
        }
        Interface::Own(point)
    }

    /// `None`: of no consequence.
    fn read_note(&mut self, value: &[u8], book: &mut Book) -> Option<Found> {
        if value.len() > MAX_NOTE {
            self.skipped.notes += 1;
            return None;
        }
        let Ok(message::Note { clock: number, kind }) = message::Note::decode(value) else {
            self.skipped.notes += 1;
            return None;
        };
        let clock = self.clocks.get(&number).copied();
        Some(match kind? {
            Kind::ClockBegins(hello) => {
                if hello.abi != ABI_VERSION {
                    self.other_abi = Some(hello.abi);
                }
                let name = convert::name(hello.boot_id).ok().filter(|name| !name.is_empty());
                let clock = book.clock(&name.unwrap_or_else(|| format!("clock {number} of {}", self.place)));
                self.clocks.insert(number, clock);
                Found::Clock { clock, monotonic_ns: hello.monotonic_ns, wall_ns: hello.wall_ns }
            }
            // In the options of its interface.
            Kind::Point(_) => return None,
            Kind::PointGone(gone) => Found::Event(Event::PointGone(self.points.get(&gone.id)?.id)),
            Kind::Drop(drop) => match (convert::drop_from_wire(*drop), clock) {
                (Ok(drop), Some(clock)) => Found::Event(Event::Drop(DropSighting { clock, ..drop })),
                _ => {
                    self.skipped.notes += 1;
                    return None;
                }
            },
            Kind::Lost(lost) => {
                let node = convert::name(lost.node).ok()?.into();
                Found::Event(Event::Lost { node, records: lost.records })
            }
            Kind::WatchesDrops(node) => {
                Found::Event(Event::WatchesDrops { node: convert::name(node).ok()?.into() })
            }
            Kind::Way(way) => match format::way_from(way) {
                Some(way) => Found::Event(Event::Way(way)),
                None => {
                    self.skipped.notes += 1;
                    return None;
                }
            },
            Kind::Objects(objects) => Found::Objects(objects),
        })
    }

    fn read_packet<D: Directory>(&mut self, book: &mut Book, names: &D) {
        let Some(wall_ns) = self.packet.time_ns else {
            self.skipped.timeless += 1;
            return;
        };
        match self.interfaces.get_mut(self.packet.interface) {
            None | Some(Interface::Refused) => self.skipped.notes += 1,
            Some(Interface::Own(point)) => {
                let options = self.packet.custom.iter().filter(|custom| custom.enterprise == ENTERPRISE);
                let record = options
                    .filter_map(|custom| record_of(&custom.value))
                    .find_map(HopRecord::from_bytes)
                    .filter(|_| self.other_abi.is_none());
                match record {
                    Some(record) => {
                        let sighting = decode::sighting(&record, None, Arc::clone(point));
                        self.waiting.push_back(Found::Sighting { wall_ns, sighting });
                    }
                    None => self.skipped.notes += 1,
                }
            }
            Some(Interface::Foreign(foreign)) => match foreign.sighting(&self.packet, wall_ns, book, names) {
                Ok((point, is_new, sighting)) => {
                    if is_new {
                        let clock = point.clock;
                        self.waiting.push_back(Found::Clock { clock, monotonic_ns: wall_ns, wall_ns });
                        self.waiting.push_back(Found::Event(Event::Point { point, since_ns: 0 }));
                    }
                    self.waiting.push_back(Found::Sighting { wall_ns, sighting });
                }
                Err(Unusable::Other) => self.skipped.other += 1,
                Err(Unusable::Truncated) => self.skipped.truncated += 1,
                Err(Unusable::Malformed) => self.skipped.malformed += 1,
                Err(Unusable::UnknownLink) => self.skipped.unknown_link += 1,
                Err(Unusable::TooManyPoints) => self.skipped.notes += 1,
            },
        }
    }
}
