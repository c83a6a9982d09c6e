//! What became of a packet at an observation point. Every path of every program counts exactly one outcome, so
//! the sum over all outcomes is the number of packets that the hook saw.

/// Declares the outcomes once: index in the kernel's per-CPU array, name for people and metrics, and meaning.
macro_rules! outcomes {
    ($($variant:ident = $index:literal, $name:literal, $meaning:literal;)*) => {
        /// One outcome; the discriminant is the index in the per-CPU counter array.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Outcome { $(#[doc = $meaning] $variant = $index,)* }

        impl Outcome {
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
