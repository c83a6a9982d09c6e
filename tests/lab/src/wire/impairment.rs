//! What a relay does to frames, and the chance by which it decides.

use std::time::Duration;

/// What happens to frames in one direction. Chances are from 0 to 1, each frame's on its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairment {
    /// How long every frame takes at least.
    pub delay: Duration,
    /// Up to this much longer, evenly spread. Frames stay in order all the same.
    pub jitter: Duration,
    /// How likely a frame is lost.
    pub loss: f64,
    /// How likely a frame arrives twice.
    pub duplicate: f64,
    /// How likely a frame is held back by [`Impairment::reorder_by`], so that later ones overtake it.
    pub reorder: f64,
    /// How long it is held back then.
    pub reorder_by: Duration,
    /// Frames with more bytes than this behind their Ethernet header are lost, and nobody is told.
    pub mtu: Option<u32>,
}

impl Impairment {
    /// A wire that only takes the relay's own time.
    pub const NONE: Self = Self {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        reorder_by: Duration::ZERO,
        mtu: None,
    };
}

impl Default for Impairment {
    fn default() -> Self {
        Self::NONE
    }
}

/// A sequence of chances that its seed determines (splitmix64).
#[derive(Clone, Debug)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// Equal seeds give equal sequences.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number, any of 64 bits.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number from 0 to below 1.
    pub fn fraction(&mut self) -> f64 {
        // The 53 bits that a double holds exactly.
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether something of this likelihood happens. A number is drawn in any case, so that what is likely changes
    /// nothing for the draws behind it.
    pub fn happens(&mut self, likelihood: f64) -> bool {
        self.fraction() < likelihood
    }

    /// A number from 0 to below `end`; 0 if that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.fraction() * end as f64) as u64
    }
}

/// What becomes of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Lose,
    TooLong,
    /// Hand on so much later, once or twice; `overtaken` leaves the order.
    Send {
        after: Duration,
        copies: u8,
        overtaken: bool,
    },
}

/// Decides about a frame of so many bytes behind its Ethernet header.
pub(super) fn decide(impairment: &Impairment, chance: &mut Chance, length: usize) -> Decision {
    let (lost, twice, overtaken, jitter) = (
        chance.happens(impairment.loss),
        chance.happens(impairment.duplicate),
        chance.happens(impairment.reorder),
        impairment.jitter.mul_f64(chance.fraction()),
    );
    if impairment.mtu.is_some_and(|mtu| length > mtu as usize) {
        return Decision::TooLong;
    }
    if lost {
        return Decision::Lose;
    }
    let held = if overtaken { impairment.reorder_by } else { Duration::ZERO };
    Decision::Send { after: impairment.delay + jitter + held, copies: 1 + u8::from(twice), overtaken }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decisions(impairment: Impairment, seed: u64) -> Vec<Decision> {
        let mut chance = Chance::new(seed);
        (0..10_000).map(|_| decide(&impairment, &mut chance, 1000)).collect()
    }

    #[test]
    fn equal_seeds_decide_alike_and_others_do_not() {
        let lossy = Impairment { loss: 0.5, ..Impairment::NONE };
        assert_eq!(decisions(lossy, 1), decisions(lossy, 1));
        assert_ne!(decisions(lossy, 1), decisions(lossy, 2));
    }

    #[test]
    fn chances_are_met_to_a_hundredth() {
        let impairment = Impairment { loss: 0.05, duplicate: 0.2, ..Impairment::NONE };
        let decided = decisions(impairment, 3);
        let share = |is: fn(&Decision) -> bool| {
            decided.iter().filter(|decision| is(decision)).count() as f64 / decided.len() as f64
        };
        let lost = share(|decision| *decision == Decision::Lose);
        let twice = share(|decision| matches!(decision, Decision::Send { copies: 2, .. }));
        assert!((lost - 0.05).abs() < 0.01 && (twice - 0.2 * 0.95).abs() < 0.01, "{lost} {twice}");
    }

    #[test]
    fn a_frame_is_cut_off_by_its_length_alone() {
        let cut = Impairment { mtu: Some(1000), ..Impairment::NONE };
        let mut chance = Chance::new(4);
        let sent = Decision::Send { after: Duration::ZERO, copies: 1, overtaken: false };
        assert_eq!(decide(&cut, &mut chance, 1000), sent);
        assert_eq!(decide(&cut, &mut chance, 1001), Decision::TooLong);
    }

    #[test]
    fn jitter_stays_within_its_bounds() {
        let delayed = Impairment {
            delay: Duration::from_millis(2),
            jitter: Duration::from_millis(1),
            ..Impairment::NONE
        };
        for decision in decisions(delayed, 5) {
            let Decision::Send { after, .. } = decision else { panic!("{decision:?}") };
            assert!((Duration::from_millis(2)..Duration::from_millis(3)).contains(&after), "{after:?}");
        }
    }
}
