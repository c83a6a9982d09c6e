//! What became of a packet at an observation point. Every path of every program counts exactly one outcome, so
//! the sum over all outcomes is the number of packets that the hook saw. What the program on drops did has outcomes
//! of its own, which are not in that sum: a dropped packet has been counted at the hooks that it passed.

/// Declares outcomes once: index in the kernel's per-CPU array, name for people and metrics, and meaning.
macro_rules! outcomes {
    ($(#[$about:meta])* $outcome:ident: $($variant:ident = $index:literal, $name:literal, $meaning:literal;)*) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $outcome { $(#[doc = $meaning] $variant = $index,)* }

        impl $outcome {
            /// All outcomes in the order of their indices.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Stable name, used in JSON and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

outcomes! {
    /// One outcome at a hook; the discriminant is the index in the per-CPU counter array.
    Outcome:
    Recorded = 0, "recorded", "a hop record was written to the ring buffer";
    RingFull = 1, "ring_full", "wanted, but the ring buffer was full: the record is lost";
    Filtered = 2, "filtered", "no follow wants this packet";
    NotIp = 3, "not_ip", "no IPv4 or IPv6 packet inside (ARP, LLDP, ...)";
    Truncated = 4, "truncated", "the packet ends before the headers it announces";
    Malformed = 5, "malformed", "a header has an impossible value";
    TooDeep = 6, "too_deep", "more or longer headers than the parser follows";
    Internal = 7, "internal", "a map that always exists was not found (a defect of tracer)";
}

/// Number of outcomes, the size of the per-CPU counter array.
pub const OUTCOME_COUNT: usize = Outcome::ALL.len();

outcomes! {
    /// One outcome of the program on drops; the discriminant is the index in its own per-CPU counter array.
    DropOutcome:
    Recorded = 0, "recorded", "a drop record was written to the ring buffer";
    RingFull = 1, "ring_full", "wanted, but the ring buffer was full: the record is lost";
    Filtered = 2, "filtered", "no follow wants this packet";
    NotIp = 3, "not_ip", "no IPv4 or IPv6 packet inside, or none yet";
    Truncated = 4, "truncated", "the headers are not in the linear part of the socket buffer";
    Malformed = 5, "malformed", "a header has an impossible value";
    TooDeep = 6, "too_deep", "more or longer headers than the parser follows";
    Internal = 7, "internal", "a map that always exists was not found (a defect of tracer)";
    NoDrop = 8, "no_drop", "the kernel's reason says that the packet was used up, not dropped";
    Nested = 9, "nested", "another drop interrupted this CPU's run: not looked at, the record may be lost";
    Unreadable = 10, "unreadable", "the socket buffer could not be read";
}

/// Number of outcomes of the program on drops, the size of its per-CPU counter array.
pub const DROP_OUTCOME_COUNT: usize = DropOutcome::ALL.len();

outcomes! {
    /// One outcome of the program that measures, for each IP packet at a hook; the discriminant is the index in its own
    /// per-CPU counter array.
    MeasureOutcome:
    NotChosen = 0, "not_chosen", "its fingerprint is not in the sample";
    Began = 1, "began", "came to the node here";
    Leg = 2, "leg", "met before: its leg was counted";
    Missed = 3, "missed", "should have been met before, but is not known: never seen there, or forgotten for others";
    Restarted = 4, "restarted", "an earlier packet with its fingerprint had not left the node";
    Stale = 5, "stale", "its fingerprint was last met too long ago, or later than this";
    UnknownPoint = 6, "unknown_point", "the hook is of no kind: just attached, or just let go";
    Truncated = 7, "truncated", "the packet ends before what its fingerprint needs";
    Refused = 8, "refused", "the kernel had no room to remember it";
    Internal = 9, "internal", "a map that always exists was not found (a defect of tracer)";
}

/// Number of outcomes of the program that measures, the size of its per-CPU counter array.
pub const MEASURE_OUTCOME_COUNT: usize = MeasureOutcome::ALL.len();

/// Numbers behind the outcomes in the same array: legs after which a packet left the node, so that it is forgotten.
pub const MEASURE_ENDED: u32 = MEASURE_OUTCOME_COUNT as u32;
/// Packets whose place was remembered without one before: outcomes that began an entry.
pub const MEASURE_INSERTED: u32 = MEASURE_ENDED + 1;
/// Entries that the program has removed.
pub const MEASURE_REMOVED: u32 = MEASURE_INSERTED + 1;
/// Drops that are in no count of their place and reason: there are too many of these.
pub const MEASURE_DROPS_UNTOLD: u32 = MEASURE_REMOVED + 1;
/// Legs of a group for which there was no room.
pub const MEASURE_GROUP_LEGS_UNTOLD: u32 = MEASURE_DROPS_UNTOLD + 1;
/// Size of the array.
pub const MEASURE_COUNTERS: u32 = MEASURE_GROUP_LEGS_UNTOLD + 1;
