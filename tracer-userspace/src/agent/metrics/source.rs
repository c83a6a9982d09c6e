//! All numbers of one scrape.

use std::time::Duration;

use tracer_common::measure::{BUCKET_COUNT, LegHistogram};
use tracer_common::outcome::{MEASURE_OUTCOME_COUNT, MeasureOutcome};

use crate::agent::metrics::groups::Groups;
use crate::agent::observer::Losses;
use crate::agent::programs::Outcomes;
use crate::trajectory::model::{DeviceRole, Direction};

/// What is rendered. Counters go up from the start of the process on.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// One packet in so many is measured.
    pub sample_rate: u32,
    pub outcomes: Outcomes,
    pub measured: Measured,
    pub losses: Losses,
    /// Devices that should be attached to.
    pub devices_planned: u64,
    /// Hooks that are attached, by node, role and direction; pods' devices are counted, others are named.
    pub points: Vec<PointState>,
    /// Runs of the programs at hooks with all that they go on in, and the time of them; `None` where the kernel keeps no
    /// such statistics or they are off (`sysctl kernel.bpf_stats_enabled=1`).
    pub runs: Option<(u64, Duration)>,
    /// `None` where nobody asked for legs of pods or workloads.
    pub groups: Option<Groups>,
    /// `None` where the kernel tells of no drops.
    pub drops: Option<Vec<DropState>>,
    /// Where an agent tells it.
    pub agent: Option<AgentState>,
}

/// Drops that are told as one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DropState {
    /// Empty where the namespace is nobody's.
    pub node: String,
    /// Of the device where it was; `None` without one, or where it is not observed.
    pub role: Option<DeviceRole>,
    /// The kernel's name.
    pub reason: String,
    pub count: u64,
}

/// What an agent has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentState {
    /// PacketTraces that concern its node, by what became of them.
    pub armed: u64,
    pub refused: u64,
    pub expired: u64,
    /// Callers that get records.
    pub streams: u64,
    /// Callers that were refused.
    pub denied: u64,
    /// Pods of its node with a network of their own.
    pub pods: u64,
}

/// Points that are told as one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PointState {
    pub node: String,
    /// Empty for pods' devices.
    pub device: String,
    pub role: DeviceRole,
    pub direction: Direction,
    pub count: u64,
}

/// What the program that measures has counted, over all CPUs.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub outcomes: [u64; MEASURE_OUTCOME_COUNT],
    /// Chosen packets that were followed to the end of their way through the node.
    pub ended: u64,
    /// Places that the kernel forgot to make room for others.
    pub evicted: u64,
    /// Legs of groups: the group's number, kinds of the points, and the histogram.
    pub group_legs: Vec<(u16, u32, u32, LegHistogram)>,
    /// Legs of groups that are in none of these.
    pub group_legs_untold: u64,
    /// Drops that are in no [`DropState`].
    pub drops_untold: u64,
    /// Chosen packets whose last place is remembered.
    pub remembered: u64,
    /// Legs that had a packet: kinds of their points, and the histogram.
    pub legs: Vec<(u32, u32, LegHistogram)>,
}

impl Measured {
    #[must_use]
    pub fn get(&self, outcome: MeasureOutcome) -> u64 {
        self.outcomes.get(outcome as usize).copied().unwrap_or(0)
    }
}

/// Adds a CPU's histogram of a leg to another one's.
pub fn add(sum: &mut LegHistogram, other: &LegHistogram) {
    sum.sum_ns = sum.sum_ns.saturating_add(other.sum_ns);
    sum.bytes = sum.bytes.saturating_add(other.bytes);
    for (sum, count) in sum.buckets.iter_mut().zip(other.buckets) {
        *sum = sum.saturating_add(count);
    }
}

/// Packets in a histogram.
#[must_use]
pub fn packets(histogram: &LegHistogram) -> u64 {
    histogram.buckets.iter().take(BUCKET_COUNT as usize).sum()
}
