//! A packet, or a piece of it, that the wire lost, and its retransmission. Within one tick of the sender's clock nothing
//! in them differs, and streams of several machines run ahead of each other: what arrived is taken for the first one's
//! if the retransmission has not been told of yet. Once it has, the times speak:
//!
//! - a piece that came behind bytes that follow it did not travel with them;
//! - one that came behind all others of its packet, by more than half of the time between the two sendings, is closer to
//!   the second;
//! - where nothing else of the packet arrived, it was not what was sent first if it certainly arrived after the
//!   retransmission had left.

use crate::trajectory::clock::Moment;
use crate::trajectory::correlate::Correlator;
use crate::trajectory::correlate::open::{Handle, Open, Segment};
use crate::trajectory::model::{Directory, Latency, Sighting};

impl<D: Directory> Correlator<D> {
    /// Gives a packet that seems not to have arrived what an older one has of its bytes and got late.
    pub(super) fn claim_late_pieces(&mut self, handle: Handle) {
        let Some(open) = self.get(handle).filter(|open| open.in_stream && !open.rivals.is_empty()) else {
            return;
        };
        let found = open.rivals.iter().find_map(|rival| {
            let older = self.get(*rival).filter(|older| has_its_bytes_and_is_older(older, open))?;
            let pieces = self.late_pieces(older, open)?;
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

    /// Where in `older` the segments are that may be the other packet's: all with its bytes on nodes where not both were
    /// seen, if they have no others and came late. `None` if there are none, or one is not so.
    fn late_pieces(&self, older: &Open, open: &Open) -> Option<Vec<usize>> {
        let has_its_bytes = |segment: &Segment| {
            segment.range.overlaps(open.range) && !were_both_seen_beside(segment, older, open)
        };
        let pieces: Vec<usize> =
            (0..older.segments.len()).filter(|index| has_its_bytes(&older.segments[*index])).collect();
        if !pieces.iter().all(|index| open.range.contains(older.segments[*index].range)) {
            return None;
        }
        // Some points may say nothing, for want of records.
        let said = pieces.iter().filter_map(|index| self.is_late(&older.segments[*index], older, open));
        let said: Vec<bool> = said.collect();
        (!said.is_empty() && said.iter().all(|is_late| *is_late)).then_some(pieces)
    }

    /// See the module for the rules; `None` where they say nothing.
    fn is_late(&self, piece: &Segment, of: &Open, again: &Open) -> Option<bool> {
        let here_ns = piece.sighting.time_ns;
        let mut before_ns: Option<u64> = None;
        let mut is_last = true;
        for other in of.segments.iter().filter(|other| other.sighting.point.id == piece.sighting.point.id) {
            if again.range.overlaps(other.range) {
                continue;
            }
            let (follows, other_ns) =
                (other.range.offset_from(piece.range.start) > 0, other.sighting.time_ns);
            if follows && other_ns < here_ns {
                return Some(true);
            }
            is_last &= other_ns <= here_ns;
            before_ns = before_ns.max(Some(other_ns));
        }
        match before_ns {
            Some(_) if !is_last => Some(false),
            Some(before_ns) => time_between(of, again)
                .map(|between_ns| here_ns.saturating_sub(before_ns).saturating_mul(2) > between_ns),
            None => self.arrived_after_it_left(piece, again).then_some(true),
        }
    }

    /// By the clocks of two nodes.
    fn arrived_after_it_left(&self, piece: &Segment, open: &Open) -> bool {
        let moment = |sighting: &Sighting| Moment { clock: sighting.point.clock, time_ns: sighting.time_ns };
        let arrived = moment(&piece.sighting);
        let mut elsewhere = open
            .segments
            .iter()
            .map(|segment| moment(&segment.sighting))
            .filter(|left| left.clock != arrived.clock)
            .peekable();
        let is_later = |left| matches!(self.clocks.latency(left, arrived), Latency::Estimated { ns, error_ns } if ns > error_ns);
        elsewhere.peek().is_some() && elsewhere.all(is_later)
    }
}

/// Whether both packets came where a segment of the older one was seen. If they did not, the records of one that came
/// may be with both: some were told before the retransmission was, some after.
fn were_both_seen_beside(segment: &Segment, older: &Open, open: &Open) -> bool {
    let node = &segment.sighting.point.node;
    let mut of_open = open.segments.iter().filter(|other| other.sighting.point.node == *node).peekable();
    if of_open.peek().is_none() {
        return false;
    }
    let is_at = |other: &Segment, point| other.sighting.point.id == point && other.range.overlaps(open.range);
    of_open.any(|other| {
        let point = other.sighting.point.id;
        // What came before the other one did was there before.
        other.sighting.time_ns > segment.sighting.time_ns
            || older.segments.iter().any(|older| is_at(older, point))
    })
}

/// Records come in any order: which packet is the older one its times tell, where both were seen by one clock.
fn has_its_bytes_and_is_older(older: &Open, open: &Open) -> bool {
    let is_older = || match (time_between(older, open), time_between(open, older)) {
        (Some(later_ns), _) if later_ns > 0 => true,
        (_, Some(earlier_ns)) if earlier_ns > 0 => false,
        _ => older.serial < open.serial,
    };
    older.in_stream && older.range.contains(open.range) && is_older()
}

/// How much later the one was sent than the other, nanoseconds, by a clock that both were seen by.
fn time_between(older: &Open, open: &Open) -> Option<u64> {
    let clock = open.segments.first()?.sighting.point.clock;
    let first_of = |open: &Open| {
        let on_clock = open.segments.iter().map(|segment| &segment.sighting);
        on_clock.filter(|sighting| sighting.point.clock == clock).map(|sighting| sighting.time_ns).min()
    };
    first_of(open)?.checked_sub(first_of(older)?)
}
