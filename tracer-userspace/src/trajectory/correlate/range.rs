//! Byte ranges of TCP sequence space, which wraps.

/// `length` bytes from `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u32,
    pub(super) length: u32,
}

impl Range {
    /// For packets whose sightings all stand for the whole packet.
    pub(super) const WHOLE: Self = Self { start: 0, length: 1 };

    pub(super) fn end(self) -> u32 {
        self.start.wrapping_add(self.length)
    }

    /// Signed distance from `origin` to the start.
    pub(super) fn offset_from(self, origin: u32) -> i64 {
        i64::from(self.start.wrapping_sub(origin) as i32)
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        let offset = other.offset_from(self.start);
        offset < i64::from(self.length) && -offset < i64::from(other.length)
    }

    pub(super) fn contains(self, other: Self) -> bool {
        let offset = other.offset_from(self.start);
        offset >= 0 && offset + i64::from(other.length) <= i64::from(self.length)
    }

    /// Bytes that both have.
    pub(super) fn common(self, other: Self) -> u32 {
        let offset = other.offset_from(self.start);
        let start = offset.max(0);
        let end = (offset + i64::from(other.length)).min(i64::from(self.length));
        u32::try_from((end - start).max(0)).unwrap_or(0)
    }

    /// The smallest range with both.
    pub(super) fn union(self, other: Self) -> Self {
        let offset = other.offset_from(self.start);
        let end = (offset + i64::from(other.length)).max(i64::from(self.length));
        let start = if offset < 0 { other.start } else { self.start };
        Self { start, length: u32::try_from(end - offset.min(0)).unwrap_or(u32::MAX) }
    }

    /// What is left of this range before, between and behind `taken`, which must be sorted by start.
    pub(super) fn gaps(self, taken: &[Self]) -> Vec<Self> {
        let mut gaps = Vec::new();
        let mut at = 0i64;
        let end = i64::from(self.length);
        let mut push = |from: i64, to: i64| {
            if to > from {
                let start = self.start.wrapping_add(from as u32);
                gaps.push(Self { start, length: (to - from) as u32 });
            }
        };
        for range in taken {
            let offset = range.offset_from(self.start);
            push(at, offset.min(end));
            at = at.max(offset + i64::from(range.length));
        }
        push(at, end);
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(start: u32, length: u32) -> Range {
        Range { start, length }
    }

    #[test]
    fn ranges_meet_and_join_across_the_wrap_of_sequence_numbers() {
        let before = range(u32::MAX - 9, 20);
        let after = range(5, 20);
        assert!(before.overlaps(after) && after.overlaps(before));
        assert_eq!(before.common(after), 5);
        assert_eq!(after.common(before), 5);
        assert_eq!(before.union(after), range(u32::MAX - 9, 35));
        assert_eq!(after.union(before), range(u32::MAX - 9, 35));
        assert!(!range(0, 10).overlaps(range(10, 10)));
        assert!(range(u32::MAX, 3).contains(range(0, 2)));
    }

    #[test]
    fn gaps_are_the_bytes_that_nobody_has() {
        let whole = range(u32::MAX - 4, 20);
        assert_eq!(whole.gaps(&[range(0, 5)]), vec![range(u32::MAX - 4, 5), range(5, 10)]);
        assert_eq!(whole.gaps(&[range(u32::MAX - 9, 40)]), vec![]);
        assert_eq!(whole.gaps(&[]), vec![whole]);
    }
}
