//! Records of one machine out of their order, where packets of equal content are under way. A device keeps the order of
//! packets: of two sightings at one point the earlier is the older packet's. If the later one came first, it has taken
//! the older packet's place there, and gives it back.

use crate::trajectory::correlate::Correlator;
use crate::trajectory::correlate::open::{Open, Progress, Segment};
use crate::trajectory::correlate::range::Range;
use crate::trajectory::model::{Directory, Sighting};

impl<D: Directory> Correlator<D> {
    /// Puts a sighting that joins none of `found`, packets of its content, into the place that later ones have at the same
    /// point; gives those, which are to be placed anew. Empty if there is no such place.
    pub(super) fn displace(
        &mut self,
        found: &[u32],
        sighting: &Sighting,
        range_in: impl Fn(&Self, u32) -> Range,
    ) -> Vec<Sighting> {
        for &slot in found {
            let range = range_in(self, slot);
            let Some(open) = self.slots[slot as usize].as_mut() else { continue };
            if !has_only_later_at(open, sighting, range) {
                continue;
            }
            let is_there = |segment: &mut Segment| is_at(segment, sighting, range);
            let later: Vec<Segment> = open.segments.extract_if(.., is_there).collect();
            let fits = !open.segments.is_empty() && open.fit(sighting, range, &self.directory).is_some();
            if fits {
                self.join(slot, sighting.clone(), range);
                return later.into_iter().map(|segment| segment.sighting).collect();
            }
            open.segments.extend(later);
        }
        Vec::new()
    }
}

/// Whether a packet with all these bytes has sightings of them at this point, all of them later and its own alone.
fn has_only_later_at(open: &Open, sighting: &Sighting, range: Range) -> bool {
    let mut there = open.segments.iter().filter(|segment| is_at(segment, sighting, range)).peekable();
    let is_later =
        |segment: &Segment| segment.sighting.time_ns > sighting.time_ns && open.range.contains(segment.range);
    let is_open = open.progress != Progress::Complete && open.range.contains(range);
    is_open && there.peek().is_some() && there.all(is_later)
}

fn is_at(segment: &Segment, sighting: &Sighting, range: Range) -> bool {
    segment.sighting.point.id == sighting.point.id && segment.range.overlaps(range)
}
