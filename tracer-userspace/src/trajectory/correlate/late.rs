//! A piece of a packet that the wire lost, and its retransmission. Within one tick of the sender's clock nothing in them
//! differs, and streams of several machines run ahead of each other: what arrived is taken for the piece if the
//! retransmission has not been told of yet. Once it has, the order of arrival speaks: a piece that came behind bytes
//! that follow it did not travel with them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::trajectory::correlate::Correlator;
use crate::trajectory::correlate::open::{Handle, Open, Segment};
use crate::trajectory::correlate::range::Range;
use crate::trajectory::model::Directory;

impl<D: Directory> Correlator<D> {
    /// Gives a packet that seems not to have arrived what an older one has of its bytes and got late.
    pub(super) fn claim_late_pieces(&mut self, handle: Handle) {
        let Some(open) = self.get(handle).filter(|open| open.in_stream && !open.rivals.is_empty()) else {
            return;
        };
        let found = open.rivals.iter().find_map(|rival| {
            let older = self.get(*rival).filter(|older| is_larger_and_older(older, open))?;
            let pieces = late_pieces(older, open)?;
            let fits =
                |segment: &Segment| open.fit(&segment.sighting, segment.range, &self.directory).is_some();
            pieces.iter().all(|index| fits(&older.segments[*index])).then_some((*rival, pieces))
        });
        let Some((rival, pieces)) = found else { return };
        let mut moved = Vec::with_capacity(pieces.len());
        if let Some(older) = self.get_mut(rival) {
            // From behind, so that the places of those before stay.
            for index in pieces.into_iter().rev() {
                moved.push(older.segments.remove(index));
            }
        }
        if let Some(open) = self.get_mut(handle) {
            for segment in moved.into_iter().rev() {
                open.add(segment.sighting, segment.range);
            }
        }
    }
}

fn is_larger_and_older(older: &Open, open: &Open) -> bool {
    older.in_stream
        && older.serial < open.serial
        && older.range.contains(open.range)
        && older.range != open.range
}

/// Where in `older` the segments are that may be the other packet's: all with its bytes on nodes where it was not seen,
/// if they have no others and came late. `None` if there are none, or one is not so.
fn late_pieces(older: &Open, open: &Open) -> Option<Vec<usize>> {
    let seen_on: BTreeSet<&Arc<str>> =
        open.segments.iter().map(|segment| &segment.sighting.point.node).collect();
    let has_its_bytes = |segment: &Segment| {
        segment.range.overlaps(open.range) && !seen_on.contains(&segment.sighting.point.node)
    };
    let pieces: Vec<usize> =
        (0..older.segments.len()).filter(|index| has_its_bytes(&older.segments[*index])).collect();
    let is_its_own_and_late = |index: &usize| {
        let piece = &older.segments[*index];
        open.range.contains(piece.range) && is_late(piece, older)
    };
    (!pieces.is_empty() && pieces.iter().all(is_its_own_and_late)).then_some(pieces)
}

/// Whether bytes that follow were at the same point before.
fn is_late(piece: &Segment, of: &Open) -> bool {
    let follows = |range: Range| range.offset_from(piece.range.start) > 0;
    of.segments.iter().any(|other| {
        other.sighting.point.id == piece.sighting.point.id
            && other.sighting.time_ns < piece.sighting.time_ns
            && follows(other.range)
    })
}
