//! Which follow has which bit of the kernel's masks. A follow keeps its bit while others come and go, and a bit that was
//! given back is another's only when no record can have it any more: what was recorded before is still in the ring.

use tracer_common::MAX_FOLLOWS;

/// The place of one follow in the kernel's masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u8);

impl Slot {
    /// Of a machine with one follow.
    pub const FIRST: Self = Self(0);

    /// Its bit in a record's mask.
    #[must_use]
    pub const fn bit(self) -> u64 {
        1 << self.0
    }
}

/// All slots of one machine.
#[derive(Clone, Debug)]
pub struct Slots {
    free: u64,
    /// Given back, and when (CLOCK_MONOTONIC, nanoseconds) the kernel had been told.
    leaving: Vec<(Slot, u64)>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { free: u64::MAX >> (64 - MAX_FOLLOWS), leaving: Vec::new() }
    }
}

impl Slots {
    /// A slot that nobody has, where all records from before `read_until_ns` have been read (CLOCK_MONOTONIC,
    /// nanoseconds); `None` if there is none.
    pub fn take(&mut self, read_until_ns: u64) -> Option<Slot> {
        let free = &mut self.free;
        self.leaving.retain(|(slot, since_ns)| {
            let may_come = *since_ns >= read_until_ns;
            if !may_come {
                *free |= slot.bit();
            }
            may_come
        });
        let lowest = u8::try_from(self.free.trailing_zeros()).ok()?;
        let slot = Slot((u32::from(lowest) < u64::BITS).then_some(lowest)?);
        self.free &= !slot.bit();
        Some(slot)
    }

    /// Gives one back, of which the kernel records nothing from `now_ns` on.
    pub fn give_back(&mut self, slot: Slot, now_ns: u64) {
        self.leaving.push((slot, now_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_anothers_only_when_the_ring_was_read_past_its_end() {
        let mut slots = Slots::default();
        let all: Vec<Slot> = std::iter::from_fn(|| slots.take(0)).collect();
        assert_eq!(all.len(), MAX_FOLLOWS);
        assert_eq!(all.iter().fold(0, |mask, slot| mask | slot.bit()).count_ones() as usize, MAX_FOLLOWS);

        slots.give_back(all[7], 1_000);
        assert_eq!(slots.take(1_000), None, "a record of that very moment may still come");
        assert_eq!(slots.take(1_001), Some(all[7]));
        assert_eq!(slots.take(u64::MAX), None);
    }
}
