//! What one machine observes as a stream of bytes, so that another process, anywhere, can join it with others.
//! `proto/stream.proto` describes the messages; these modules keep its types to themselves.
//!
//! | module | holds |
//! |---|---|
//! | [`write`] | the writing end, behind `tracer observe` |
//! | [`read`] | the reading end, behind `tracer follow --from`: the bytes may be anybody's |
//! | [`convert`] | between messages and the words of a trajectory |

pub(crate) mod convert;
pub mod read;
pub mod write;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::agent::observer::Losses;
use crate::trajectory::model::{DropSighting, Frame, ObservationPoint, Packet};

#[allow(unreachable_pub, reason = "generated from proto/stream.proto, where everything is public")]
pub(crate) mod wire {
    include!(concat!(env!("OUT_DIR"), "/tracer.stream.v1.rs"));
}

/// The first bytes of every stream. The first is no text, so that nobody takes it for such.
pub const MAGIC: [u8; 8] = *b"\x93TRACER\n";

/// The version of the format.
pub const FORMAT: u32 = 1;

/// Longest message, bytes; a writer cuts what is longer into several.
pub const MAX_MESSAGE: usize = 256 << 10;

/// Packets' bytes from which on a message is sent: far below the longest.
pub const MAX_FRAMES: usize = 64 << 10;

/// Most sightings in one message.
pub const MAX_SIGHTINGS: usize = 512;

/// Who observes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version of the writing program, for people.
    pub tracer: String,
    pub kernel_release: String,
    /// Streams with the same one share a clock.
    pub boot_id: String,
    pub nodes: Vec<String>,
    /// Whether the kernel tells of its drops.
    pub watches_drops: bool,
    /// CLOCK_MONOTONIC there at the stream's beginning, nanoseconds.
    pub monotonic_ns: u64,
    /// CLOCK_REALTIME there at the same moment, nanoseconds since 1970; 0 if not said.
    pub wall_ns: u64,
}

/// One message, decoded and checked. Points are named by their number within the stream, and their clock is the stream's.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Hello(Hello),
    /// `since_ns`: nothing was recorded before. CLOCK_MONOTONIC there, nanoseconds.
    Point {
        point: Box<ObservationPoint>,
        since_ns: u64,
    },
    PointGone(u32),
    Sightings(Vec<Sighted>),
    /// Its clock is the stream's.
    Drop(Box<DropSighting>),
    Counts(Counts),
    Heartbeat(Heartbeat),
    End {
        reason: String,
    },
}

/// One packet at one point of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighted {
    pub point: u32,
    /// CLOCK_MONOTONIC there, nanoseconds.
    pub time_ns: u64,
    pub packet: Packet,
    /// Where packets are captured.
    pub frame: Option<Frame>,
}

/// Totals since the stream's beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets at all hooks, by name of outcome.
    pub outcomes: BTreeMap<String, u64>,
    pub losses: Losses,
    /// Records lost by point, as far as that is known.
    pub at_points: BTreeMap<u32, u64>,
}

/// All that was observed before is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// CLOCK_MONOTONIC there, nanoseconds.
    pub monotonic_ns: u64,
    /// CLOCK_REALTIME there, nanoseconds since 1970.
    pub wall_ns: u64,
}
