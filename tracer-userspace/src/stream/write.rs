//! The writing end of a stream.

use std::io::{self, BufWriter, Write};

use prost::Message as _;
use tracer_common::ABI_VERSION;

use super::wire::message::Kind;
use super::{Counts, FORMAT, Heartbeat, Hello, MAGIC, MAX_FRAMES, MAX_SIGHTINGS, convert, wire};
use crate::trajectory::model::{DropSighting, ObservationPoint, PointId, Sighting};

/// Writes messages; what is written is on its way after [`StreamWriter::flush`].
#[derive(Debug)]
pub struct StreamWriter<W: Write> {
    out: BufWriter<W>,
    waiting: Vec<wire::Sighting>,
    /// Of their frames.
    waiting_bytes: usize,
    encoded: Vec<u8>,
}

impl<W: Write> StreamWriter<W> {
    /// Begins a stream.
    ///
    /// # Errors
    /// What `out` returns.
    pub fn begin(out: W, hello: Hello) -> io::Result<Self> {
        let mut writer =
            Self { out: BufWriter::new(out), waiting: Vec::new(), waiting_bytes: 0, encoded: Vec::new() };
        writer.out.write_all(&MAGIC)?;
        writer.write(Kind::Hello(wire::Hello {
            format: FORMAT,
            abi: ABI_VERSION,
            tracer: hello.tracer,
            kernel_release: hello.kernel_release,
            boot_id: hello.boot_id,
            nodes: hello.nodes,
            watches_drops: hello.watches_drops,
            monotonic_ns: hello.monotonic_ns,
            wall_ns: hello.wall_ns,
        }))?;
        Ok(writer)
    }

    /// # Errors
    /// What the output returns.
    pub fn point(&mut self, point: &ObservationPoint, since_ns: u64) -> io::Result<()> {
        self.write(Kind::Point(convert::point_to_wire(point, since_ns)))
    }

    /// # Errors
    /// What the output returns.
    pub fn point_gone(&mut self, id: PointId) -> io::Result<()> {
        self.write(Kind::PointGone(wire::PointGone { id: id.0 }))
    }

    /// Sightings are collected and written together, before whatever comes next.
    ///
    /// # Errors
    /// What the output returns.
    pub fn sighting(&mut self, sighting: &Sighting) -> io::Result<()> {
        self.waiting.push(convert::sighting_to_wire(sighting, sighting.frame.as_ref()));
        self.waiting_bytes += sighting.frame.as_ref().map_or(0, |frame| frame.0.len());
        let is_full = self.waiting.len() >= MAX_SIGHTINGS || self.waiting_bytes >= MAX_FRAMES;
        if is_full { self.write_sightings() } else { Ok(()) }
    }

    /// # Errors
    /// What the output returns.
    pub fn dropped(&mut self, drop: &DropSighting) -> io::Result<()> {
        self.write(Kind::Drop(Box::new(convert::drop_to_wire(drop))))
    }

    /// # Errors
    /// What the output returns.
    pub fn counts(&mut self, counts: &Counts) -> io::Result<()> {
        self.write(Kind::Counts(convert::counts_to_wire(counts)))
    }

    /// Says that all that was observed before is told.
    ///
    /// # Errors
    /// What the output returns.
    pub fn heartbeat(&mut self, heartbeat: Heartbeat) -> io::Result<()> {
        let Heartbeat { monotonic_ns, wall_ns } = heartbeat;
        self.write(Kind::Heartbeat(wire::Heartbeat { monotonic_ns, wall_ns }))
    }

    /// Ends the stream and flushes it; gives the output back.
    ///
    /// # Errors
    /// What the output returns.
    pub fn end(mut self, reason: &str) -> io::Result<W> {
        self.write(Kind::End(wire::End { reason: reason.to_owned() }))?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }

    /// # Errors
    /// What the output returns.
    pub fn flush(&mut self) -> io::Result<()> {
        self.write_sightings()?;
        self.out.flush()
    }

    fn write(&mut self, kind: Kind) -> io::Result<()> {
        self.write_sightings()?;
        self.write_now(kind)
    }

    fn write_sightings(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let sightings = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        self.write_now(Kind::Sightings(wire::Sightings { sightings }))
    }

    fn write_now(&mut self, kind: Kind) -> io::Result<()> {
        self.encoded.clear();
        wire::Message { kind: Some(kind) }
            .encode_length_delimited(&mut self.encoded)
            .map_err(io::Error::other)?;
        self.out.write_all(&self.encoded)
    }
}
