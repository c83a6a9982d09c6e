//! Where packets are cut and merged (GSO, GRO): the bytes of the stream against what was told of them.

use std::collections::BTreeMap;

use super::{Seen, Transport, Watched};
use crate::told::{Hop, Trajectory};

/// A device and direction, and the flow there.
type Point = (String, String, &'static str);

impl Watched<'_> {
    /// Compares TCP packets with data, which may be cut and merged on their way, by the bytes that they carry. A told
    /// packet is one that its sender sent; wherever it was, the captured packets with bytes of it are as many as its
    /// segments. All others are compared packet by packet.
    ///
    /// # Panics
    /// When anything differs.
    #[track_caller]
    pub fn assert_every_byte_is_told(&self) {
        let streams = self.data_by_point();
        let told: Vec<_> = self.trajectories.iter().filter(|told| told.payload_length > 0).collect();
        let mut accounted: BTreeMap<Point, u64> = BTreeMap::new();
        for trajectory in &told {
            assert!(trajectory.is_complete(), "{trajectory}");
            // A slow receiver's GRO may also merge what the sender sent apart.
            // What TCP discards on its own account says nothing against the joining.
            let is_no_doubt = |note: &String| {
                note.starts_with("merged with other packets at ")
                    || note.starts_with("the receiver's TCP discarded it")
            };
            assert!(trajectory.notes.iter().all(is_no_doubt), "{trajectory}");
            let resent: Vec<_> = told.iter().filter(|other| is_same_bytes(trajectory, other)).collect();
            // A slow machine's TCP sends again what is still under way: then only the order tells which is which.
            assert!(trajectory.ambiguous.is_none() || !resent.is_empty(), "{trajectory}");
            let was_sent_before =
                resent.iter().any(|other| other.hops[0].time_ns < trajectory.hops[0].time_ns);
            assert_eq!(trajectory.retransmission_of.is_some(), was_sent_before, "{trajectory}");
            for (number, hop) in trajectory.hops.iter().enumerate().filter(|(_, hop)| self.is_tapped(hop)) {
                let point = point(hop);
                let captured = streams.get(&point).map(Vec::as_slice).unwrap_or_default();
                if resent.is_empty() {
                    assert_segments(captured, trajectory, number);
                }
                // Of bytes that were sent twice the capture does not say which time it was; their sum does.
                *accounted.entry(point).or_default() += trajectory.payload_length;
            }
        }
        for (point, packets) in &streams {
            let bytes: u64 = packets.iter().map(|seen| seen.payload.len() as u64).sum();
            assert_eq!(accounted.get(point), Some(&bytes), "bytes captured at {point:?} and told");
        }
        self.assert_nothing_is_missing_or_invented(|payload_length| payload_length == 0);
    }

    /// The captured packets with TCP data, in order of time.
    fn data_by_point(&self) -> BTreeMap<Point, Vec<&Seen>> {
        let mut streams: BTreeMap<Point, Vec<&Seen>> = BTreeMap::new();
        let with_data =
            |seen: &&Seen| matches!(seen.transport, Transport::Tcp { .. }) && !seen.payload.is_empty();
        for seen in self.captured.iter().filter(with_data) {
            streams.entry((seen.place.clone(), seen.device.clone(), seen.direction)).or_default().push(seen);
        }
        streams
    }
}

/// The captured packets with bytes of a told packet at one of its hops are its segments there.
#[track_caller]
fn assert_segments(captured: &[&Seen], trajectory: &Trajectory, number: usize) {
    let hop = &trajectory.hops[number];
    let bytes = bytes_of(trajectory);
    let is_of_it =
        |seen: &&&Seen| hop.src == seen.src && hop.dst == seen.dst && overlap(range(seen), bytes) > 0;
    let captured: Vec<_> = captured.iter().filter(is_of_it).collect();
    // Which device cuts differs by kernel (on 5.10 VXLAN's, later the NIC), and whether the tap there is behind the cut:
    // then it sees what comes to the next hook.
    let next = trajectory.hops.get(number + 1).map_or(hop.segments, |next| next.segments);
    let is_cut_behind_the_hook =
        hop.direction == "egress" && next > hop.segments && next as usize == captured.len();
    let segments = if is_cut_behind_the_hook { next } else { hop.segments };
    assert_eq!(segments as usize, captured.len(), "segments at hop {number}: {trajectory}");
    let covered: u64 = captured.iter().map(|seen| overlap(range(seen), bytes)).sum();
    assert_eq!(covered, trajectory.payload_length, "bytes at hop {number}: {trajectory}");
    let first = captured[0];
    assert_eq!((hop.ttl, &hop.encapsulation), (first.ttl, &first.encapsulation), "{trajectory}");
    if !is_cut_behind_the_hook {
        assert_eq!(hop.length, first.length, "hop {number}: {trajectory}");
    }
}

/// Whether two told packets have bytes of the same stream in common.
fn is_same_bytes(a: &Trajectory, b: &Trajectory) -> bool {
    a.id != b.id && (&a.src, &a.dst) == (&b.src, &b.dst) && overlap(bytes_of(a), bytes_of(b)) > 0
}

fn point(hop: &Hop) -> Point {
    let direction = if hop.direction == "ingress" { "ingress" } else { "egress" };
    (hop.place(), hop.device.clone(), direction)
}

/// First byte, and the first behind the last, as sequence numbers.
fn bytes_of(trajectory: &Trajectory) -> (u32, u32) {
    let seq = trajectory.tcp.as_ref().map_or(0, |tcp| tcp.seq);
    (seq, seq.wrapping_add(trajectory.payload_length as u32))
}

fn range(seen: &Seen) -> (u32, u32) {
    let Transport::Tcp { seq, .. } = seen.transport else { return (0, 0) };
    (seq, seq.wrapping_add(seen.payload.len() as u32))
}

/// How many bytes two ranges of sequence numbers, which wrap around, have in common.
fn overlap(a: (u32, u32), b: (u32, u32)) -> u64 {
    let from_a = |seq: u32| i64::from(seq.wrapping_sub(a.0).cast_signed());
    let (start, end) = (from_a(b.0).max(0), from_a(b.1).min(from_a(a.1)));
    (end - start).max(0).cast_unsigned()
}
