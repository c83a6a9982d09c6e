//! A recorded stream of one node, read with tracer's own reader: what is recorded is judged, not its encoding.

use std::cell::RefCell;
use std::io::{self, Write};
use std::mem;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use tracer::stream::read::StreamReader;
use tracer::stream::write::StreamWriter;
use tracer::stream::{Counts, Heartbeat, Hello, Sighted, Told};
use tracer::trajectory::model::{DropSighting, ObservationPoint, PointId, Sighting};

/// A whole stream, in order.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) hello: Hello,
    pub(crate) items: Vec<Item>,
    /// By their number within the stream.
    pub(crate) points: Vec<Arc<ObservationPoint>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Item {
    Point {
        point: Arc<ObservationPoint>,
        since_ns: u64,
    },
    Gone(u32),
    /// With its number among the stream's sightings.
    Sighting(usize, Box<Sighted>),
    Drop(Box<DropSighting>),
    Counts(Counts),
    Heartbeat(Heartbeat),
    End(String),
}

/// How many points of a pod a stream that is still being written tells of.
pub(crate) fn points_of(bytes: &[u8], pod: &str) -> usize {
    let Ok(mut reader) = StreamReader::begin(bytes) else { return 0 };
    // Where it stops, the rest is still to come.
    let told = std::iter::from_fn(|| reader.read_told().ok().flatten());
    let of_pod = |told: &Told| match told {
        Told::Point { point, .. } => point.pod.as_ref().is_some_and(|known| known.name == pod),
        _ => false,
    };
    told.filter(of_pod).count()
}

impl Stream {
    /// Reads all of it.
    ///
    /// # Errors
    /// When it is damaged or cut off.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self> {
        let mut reader = StreamReader::begin(bytes)?;
        let Some(Told::Hello(hello)) = reader.read_told()? else {
            bail!("a stream that does not say whose it is")
        };
        let mut stream = Self { hello, items: Vec::new(), points: Vec::new() };
        let mut number = 0;
        while let Some(told) = reader.read_told()? {
            match told {
                Told::Hello(_) => bail!("a stream that begins twice"),
                Told::Point { point, since_ns } => {
                    let point = Arc::new(*point);
                    stream.points.push(Arc::clone(&point));
                    stream.items.push(Item::Point { point, since_ns });
                }
                Told::PointGone(id) => stream.items.push(Item::Gone(id)),
                Told::Sightings(sightings) => {
                    for sighted in sightings {
                        stream.items.push(Item::Sighting(number, Box::new(sighted)));
                        number += 1;
                    }
                }
                Told::Drop(drop) => stream.items.push(Item::Drop(drop)),
                Told::Counts(counts) => stream.items.push(Item::Counts(counts)),
                Told::Heartbeat(heartbeat) => stream.items.push(Item::Heartbeat(heartbeat)),
                Told::End { reason } => stream.items.push(Item::End(reason)),
            }
        }
        Ok(stream)
    }

    /// The sightings in the order of their numbers.
    pub(crate) fn sightings(&self) -> impl Iterator<Item = &Sighted> {
        self.items.iter().filter_map(|item| match item {
            Item::Sighting(_, sighted) => Some(&**sighted),
            _ => None,
        })
    }

    /// The point of a sighting.
    pub(crate) fn point(&self, sighted: &Sighted) -> Result<&Arc<ObservationPoint>> {
        let found = self.points.iter().rfind(|point| point.id.0 == sighted.point);
        found.with_context(|| format!("a sighting at point {}, of which nothing was told", sighted.point))
    }

    /// When its heartbeats were, in its clock.
    pub(crate) fn beats(&self) -> impl Iterator<Item = u64> {
        self.items.iter().filter_map(|item| match item {
            Item::Heartbeat(heartbeat) => Some(heartbeat.monotonic_ns),
            _ => None,
        })
    }

    /// Writes it as pieces: one up to each heartbeat, and what is behind the last.
    ///
    /// # Errors
    /// When a sighting is at no point.
    pub(crate) fn write(&self) -> Result<Vec<Vec<u8>>> {
        let bytes = Shared::default();
        let mut writer = StreamWriter::begin(bytes.clone(), self.hello.clone())?;
        let mut pieces = Vec::new();
        for item in &self.items {
            match item {
                Item::Point { point, since_ns } => writer.point(point, *since_ns)?,
                Item::Gone(id) => writer.point_gone(PointId(*id))?,
                Item::Sighting(_, sighted) => {
                    let Sighted { time_ns, packet, .. } = &**sighted;
                    let point = Arc::clone(self.point(sighted)?);
                    writer.sighting(&Sighting {
                        point,
                        time_ns: *time_ns,
                        follows: 1,
                        packet: packet.clone(),
                        frame: None,
                    })?;
                }
                Item::Drop(drop) => writer.dropped(drop)?,
                Item::Counts(counts) => writer.counts(counts)?,
                Item::Heartbeat(heartbeat) => {
                    writer.heartbeat(*heartbeat)?;
                    writer.flush()?;
                    pieces.push(bytes.take());
                }
                Item::End(reason) => {
                    writer.end(reason)?;
                    pieces.push(bytes.take());
                    return Ok(pieces);
                }
            }
        }
        bail!("a stream without an end")
    }
}

/// Bytes that can be taken while the writer has them.
#[derive(Clone, Debug, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Shared {
    fn take(&self) -> Vec<u8> {
        mem::take(&mut self.0.borrow_mut())
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
