//! Leg latencies that are measured in the kernel: which packets, where they were last, and the histograms.
//!
//! A packet is chosen by its fingerprint alone, so that every point of every node chooses the same ones. The highest
//! bits decide; the lowest ones are left for sharding chosen packets over collectors.
//!
//! A leg goes from the point where a chosen packet was last to the point where it is met next, and is counted by the
//! kinds of both. It begins where packets come to a node and ends where they leave it, so a leg never joins two nodes.

/// Points of more kinds than this cannot be told apart.
pub const MAX_KINDS: u32 = 16;
/// One histogram for each pair of kinds.
pub const LEG_COUNT: u32 = MAX_KINDS * MAX_KINDS;

/// [`PointInfo::flags`]: packets come to the node here; an earlier sighting was of another journey.
pub const POINT_BEGINS: u32 = 1 << 0;
/// [`PointInfo::flags`]: packets leave the node here.
pub const POINT_ENDS: u32 = 1 << 1;

/// Latencies below two to this are one bucket, nanoseconds.
pub const LEAST_EXPONENT: u32 = 8;
/// Latencies from two to this on are one bucket, nanoseconds (17 s).
pub const MOST_EXPONENT: u32 = 34;
/// An octave has two to this buckets of equal width.
pub const STEP_BITS: u32 = 2;
/// Buckets in use: those of the octaves, one below and one above.
pub const BUCKET_COUNT: u32 = ((MOST_EXPONENT - LEAST_EXPONENT) << STEP_BITS) + 2;
/// Buckets in memory: a power of two, so that a mask bounds an index.
pub const BUCKET_SLOTS: usize = 128;
const _: () = assert!(BUCKET_COUNT as usize <= BUCKET_SLOTS);

/// A packet that was last met longer ago than this is another one with the same fingerprint, nanoseconds.
pub const OLDEST_NS: u64 = 1 << MOST_EXPONENT;

/// Most chosen packets whose last point is remembered; the kernel forgets the longest unused one for a new one.
pub const LAST_CAPACITY: u32 = 16_384;
/// Most points.
pub const POINT_CAPACITY: u32 = 16_384;

/// Most places and reasons of drops that are counted apart.
pub const DROPPED_CAPACITY: u32 = 4096;

/// Where the kernel threw packets away, and why; the key of their counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DroppedAt {
    /// Inode number of the network namespace; 0 where the kernel does not say it.
    pub netns: u32,
    /// The device, or 0.
    pub ifindex: u32,
    /// The kernel's number (`enum skb_drop_reason`).
    pub reason: u32,
}

/// Where a hook is; the key of the points.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PointPlace {
    /// Number of the network namespace.
    pub space: u32,
    pub ifindex: u32,
    /// `DIRECTION_*` of [`crate::record`].
    pub direction: u32,
}

/// What userspace says of a point.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PointInfo {
    /// Below [`MAX_KINDS`].
    pub kind: u16,
    /// Whose legs are measured apart as well, a pod or a workload; 0 for nobody's.
    pub group: u16,
    /// `POINT_*`.
    pub flags: u32,
}

/// Where a chosen packet was last; the key is its fingerprint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastSeen {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub time_ns: u64,
    pub place: PointPlace,
    pub kind: u16,
    /// Of the last point that had one.
    pub group: u16,
}

/// All that was measured of one leg on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegHistogram {
    /// Sum of latencies, nanoseconds.
    pub sum_ns: u64,
    /// Bytes of the packets where the leg ends, encapsulation included.
    pub bytes: u64,
    /// Packets by [`bucket_of`].
    pub buckets: [u64; BUCKET_SLOTS],
}

impl Default for LegHistogram {
    fn default() -> Self {
        Self { sum_ns: 0, bytes: 0, buckets: [0; BUCKET_SLOTS] }
    }
}

/// The mask for one packet in `rate`, which is a power of two; `None` if it is none.
#[must_use]
pub const fn sample_mask(rate: u32) -> Option<u64> {
    if !rate.is_power_of_two() {
        return None;
    }
    Some(((rate - 1) as u64).reverse_bits())
}

/// Whether a packet with this fingerprint is measured.
#[inline(always)]
#[must_use]
pub const fn is_chosen(fingerprint: u64, mask: u64) -> bool {
    fingerprint & mask == 0
}

/// Number of the histogram of a leg.
#[inline(always)]
#[must_use]
pub const fn leg_of(from_kind: u32, to_kind: u32) -> u32 {
    (from_kind & (MAX_KINDS - 1)) * MAX_KINDS + (to_kind & (MAX_KINDS - 1))
}

/// Key of the histogram of a group's leg.
#[inline(always)]
#[must_use]
pub const fn group_leg_of(group: u16, from_kind: u32, to_kind: u32) -> u32 {
    (group as u32) << 16 | leg_of(from_kind, to_kind)
}

/// Group, and kinds of the points, of such a key.
#[must_use]
pub const fn group_leg(key: u32) -> (u16, u32, u32) {
    let leg = key & 0xffff;
    ((key >> 16) as u16, leg / MAX_KINDS, leg % MAX_KINDS)
}

/// Bucket of a latency, nanoseconds; below [`BUCKET_COUNT`].
#[inline(always)]
#[must_use]
pub const fn bucket_of(latency_ns: u64) -> u32 {
    if latency_ns < 1 << LEAST_EXPONENT {
        return 0;
    }
    if latency_ns >= 1 << MOST_EXPONENT {
        return BUCKET_COUNT - 1;
    }
    let exponent = log2(latency_ns);
    let step = (latency_ns >> (exponent - STEP_BITS)) as u32 & ((1 << STEP_BITS) - 1);
    1 + ((exponent - LEAST_EXPONENT) << STEP_BITS) + step
}

/// The least latency that is above the bucket, nanoseconds; `None` for the last one, which has no end.
#[must_use]
pub const fn bucket_end(bucket: u32) -> Option<u64> {
    if bucket + 1 >= BUCKET_COUNT {
        return None;
    }
    let exponent = LEAST_EXPONENT + (bucket >> STEP_BITS);
    let step = (bucket & ((1 << STEP_BITS) - 1)) as u64;
    Some((1 << exponent) + (step << (exponent - STEP_BITS)))
}

/// Highest bit that is set. eBPF has no instruction for it, and the compiler's way takes a table.
#[inline(always)]
const fn log2(value: u64) -> u32 {
    let mut rest = value;
    let mut log = 0;
    let mut width = 32;
    while width > 0 {
        if rest >> width != 0 {
            rest >>= width;
            log += width;
        }
        width /= 2;
    }
    log
}

#[cfg(feature = "user")]
mod user {
    use super::{DroppedAt, LastSeen, LegHistogram, PointInfo, PointPlace};

    // SAFETY: repr(C), no padding (three u32), any bit pattern valid.
    unsafe impl aya::Pod for DroppedAt {}
    // SAFETY: repr(C), no padding (three u32), any bit pattern valid.
    unsafe impl aya::Pod for PointPlace {}
    // SAFETY: repr(C), no padding (two u16, a u32), any bit pattern valid.
    unsafe impl aya::Pod for PointInfo {}
    // SAFETY: repr(C), no padding (a u64, three u32, two u16), any bit pattern valid.
    unsafe impl aya::Pod for LastSeen {}
    // SAFETY: repr(C), no padding (all u64), any bit pattern valid.
    unsafe impl aya::Pod for LegHistogram {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_below_its_buckets_end_and_not_below_the_one_before() {
        let edges = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + (1 << bit) / 3]);
        for latency in edges {
            let bucket = bucket_of(latency);
            assert!(bucket < BUCKET_COUNT, "{latency}");
            assert!(bucket_end(bucket).is_none_or(|end| latency < end), "{latency} in {bucket}");
            assert!(bucket == 0 || bucket_end(bucket - 1).unwrap() <= latency, "{latency} in {bucket}");
        }
    }

    #[test]
    fn a_bucket_is_a_quarter_of_its_octave_and_the_ends_are_open() {
        assert_eq!((bucket_of(0), bucket_of(255), bucket_of(256)), (0, 0, 1));
        // 1024 to 1280, 1280 to 1536, ...
        assert_eq!((bucket_of(1024), bucket_of(1279), bucket_of(1280), bucket_of(2047)), (9, 9, 10, 12));
        assert_eq!(bucket_end(9), Some(1280));
        assert_eq!((bucket_of(u64::MAX), bucket_end(BUCKET_COUNT - 1)), (BUCKET_COUNT - 1, None));
        assert_eq!(bucket_end(BUCKET_COUNT - 2), Some(1 << MOST_EXPONENT));
    }

    #[test]
    fn rates_are_powers_of_two_and_choose_by_the_highest_bits_alone() {
        assert_eq!(sample_mask(1), Some(0));
        assert_eq!(sample_mask(64), Some(0xfc00_0000_0000_0000));
        assert_eq!((sample_mask(0), sample_mask(48)), (None, None));
        assert!(is_chosen(u64::MAX, 0));
        assert!(is_chosen(u64::MAX >> 6, sample_mask(64).unwrap()));
        assert!(!is_chosen(1 << 58, sample_mask(64).unwrap()));
    }

    #[test]
    fn a_coarser_sample_is_part_of_a_finer_one() {
        let fingerprints = (0..10_000_u64).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (fine, coarse) = (sample_mask(4).unwrap(), sample_mask(64).unwrap());
        let chosen: Vec<_> = fingerprints.filter(|fingerprint| is_chosen(*fingerprint, coarse)).collect();
        assert!((100..220).contains(&chosen.len()), "{}", chosen.len());
        assert!(chosen.iter().all(|fingerprint| is_chosen(*fingerprint, fine)));
    }

    #[test]
    fn a_groups_leg_is_found_again_in_its_key() {
        for (group, from, to) in [(1, 0, 11), (u16::MAX, MAX_KINDS - 1, MAX_KINDS - 1)] {
            assert_eq!(group_leg(group_leg_of(group, from, to)), (group, from, to));
        }
    }

    #[test]
    fn every_leg_has_its_own_histogram() {
        let legs: std::collections::HashSet<_> =
            (0..MAX_KINDS).flat_map(|from| (0..MAX_KINDS).map(move |to| leg_of(from, to))).collect();
        assert_eq!(legs.len(), LEG_COUNT as usize);
        assert!(legs.iter().all(|leg| *leg < LEG_COUNT));
    }
}
