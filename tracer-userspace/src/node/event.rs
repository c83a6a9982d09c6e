//! What observing gives and joining takes: between the two stands nothing but these, so that they may run in one
//! process or on two machines.

use std::sync::Arc;

use crate::trajectory::correlate::FollowScope;
use crate::trajectory::expect::topology::PlannedWay;
use crate::trajectory::model::{ClockId, DropSighting, ObservationPoint, PointId, Sighting};

/// One thing that was observed.
#[derive(Debug)]
pub enum Event {
    /// A clock is a kernel's, whose boot this is (/proc/sys/kernel/random/boot_id).
    Clock {
        clock: ClockId,
        boot_id: String,
    },
    /// A point is observed from `since_ns` of its clock on.
    Point {
        point: Arc<ObservationPoint>,
        since_ns: u64,
    },
    /// A point is gone, with its device or because nobody asks for it any more.
    PointGone(PointId),
    Sighting(Sighting),
    /// The kernel tells of the drops on this node, from here on.
    WatchesDrops {
        node: Arc<str>,
    },
    /// The kernel threw a packet away.
    Drop(DropSighting),
    /// Records were lost since the last time that this was said, on this node or on others with the same kernel.
    Lost {
        node: Arc<str>,
        records: u64,
    },
    /// Packets from one node to another should pass these hooks, as the nodes' routes and maps have it.
    Way(PlannedWay),
    /// What is followed has other addresses: pods came or went.
    Scope(FollowScope),
}
