//! Times between two clocks: which packets teach them, and how long one waits for a packet the other way.

use crate::trajectory::clock::{Clocks, Moment};
use crate::trajectory::correlate::assemble::Judged;
use crate::trajectory::correlate::open::Open;
use crate::trajectory::correlate::{Correlator, Done};
use crate::trajectory::model::{Directory, Hop, Latency, NoEstimate, Packet, Trajectory, Verdict};

/// Finished packets that wait at a time; beyond that, the oldest is told as it is.
pub(super) const MAX_WAITING: usize = 1024;

impl<D: Directory> Correlator<D> {
    /// What is known of the clocks.
    #[must_use]
    pub fn clocks(&self) -> &Clocks {
        &self.clocks
    }

    /// Whether the sightings certainly are of one packet: all of it was seen at every hop on its whole way, no other of
    /// the same content was under way, and none can have been but for lost records.
    pub(super) fn is_certain(&self, open: &Open, judged: &Judged) -> bool {
        if !judged.is_complete() || open.doubtful || !open.rivals.is_empty() {
            return false;
        }
        let from_ns = open.opened_ns.saturating_sub(self.config.grace_ns);
        let lost = || judged.points(open).any(|point| self.losses.since(&point.node, from_ns) > 0);
        let first = open.segments.first().map(|segment| &segment.sighting.packet);
        first.is_some_and(is_unmistakable) || !lost()
    }

    /// Learns from a packet that is certain.
    pub(super) fn learn_clocks(&mut self, trajectory: &Trajectory) {
        for (left, arrived) in crossings(trajectory) {
            self.clocks.learn(left, arrived);
        }
    }

    /// Whether a packet the other way may still come that tells how long this one took between two clocks: for a
    /// connection's first packet, the answer. A packet that did not arrive has none, and nobody waits for ever.
    pub(super) fn awaits_clocks(&self, done: &mut Done) -> bool {
        let Trajectory { verdict, ambiguous, .. } = &done.trajectory;
        if *verdict != Verdict::Delivered || ambiguous.is_some() {
            return false;
        }
        let since_ns = *done.waits_since_ns.get_or_insert(self.now_ns);
        crossings(&done.trajectory).any(|(left, arrived)| {
            if self.clocks.is_settled(left, arrived) {
                return false;
            }
            let wait_ns = match self.clocks.latency(left, arrived) {
                Latency::Unknown(NoEstimate::OneDirectionOnly) => self.config.grace_ns,
                Latency::Unknown(_) => return false,
                Latency::Exact { .. } | Latency::Estimated { .. } => self.config.settle_ns,
            };
            since_ns + wait_ns > self.judged_ns
        })
    }

    /// Says how long the packet took between two clocks.
    pub(super) fn time_crossings(&self, trajectory: &mut Trajectory) {
        let Trajectory { hops, legs, ambiguous, lost_records, .. } = trajectory;
        // The one end may be another packet's, and no bound holds for that.
        let mixed_up = ambiguous.is_some().then_some(match lost_records {
            0 => NoEstimate::Ambiguous,
            _ => NoEstimate::RecordsMissing,
        });
        for leg in legs {
            let (left, arrived) = (moment(&hops[leg.from]), moment(&hops[leg.from + 1]));
            if left.clock != arrived.clock {
                leg.latency = match mixed_up {
                    Some(why) => Latency::Unknown(why),
                    None => self.clocks.latency(left, arrived),
                };
            }
        }
    }
}

/// Whether its sender marked the packet as another than all before: content alone may be the same again.
fn is_unmistakable(packet: &Packet) -> bool {
    packet.identification != 0 || packet.tcp_timestamps.is_some() || packet.icmp.is_some()
}

/// The legs from one clock to another.
fn crossings(trajectory: &Trajectory) -> impl Iterator<Item = (Moment, Moment)> {
    let moments = trajectory.hops.windows(2).map(|pair| (moment(&pair[0]), moment(&pair[1])));
    moments.filter(|(left, arrived)| left.clock != arrived.clock)
}

fn moment(hop: &Hop) -> Moment {
    Moment { clock: hop.point.clock, time_ns: hop.time_ns }
}
