//! The arrow of one packet over the lanes.

use crate::output::ladder::lanes::{Lanes, Stop};
use crate::output::text::Style;
use crate::trajectory::exchange::Member;

/// Columns between an arrow's beginning and its label.
const BEFORE_LABEL: usize = 2;

/// The row of a packet, from the first lane to the last. `+` is a lane that the packet was seen in, `x` where it was
/// lost or dropped, `?` where it was last seen.
pub(super) fn arrow(lanes: &Lanes, member: &Member, label: &str, style: Style) -> String {
    let mut row = Row::new(lanes);
    let (from, to) = lanes.ends(member);
    let stop = lanes.stop(member);
    let start = lanes.column(from);
    let end = stop.map_or_else(|| lanes.column(to), |stop| stop.column);
    row.draw(start, end);
    for lane in lanes.passed(member) {
        let column = lanes.column(lane);
        if column > start.min(end) && column < start.max(end) {
            row.cells[column] = '+';
        }
    }
    match stop {
        Some(Stop { column, mark }) => row.cells[column] = mark,
        None if to > from => row.cells[end - 1] = '>',
        None => row.cells[end + 1] = '<',
    }
    row.write(label, start, end);
    row.painted(stop, style)
}

struct Row {
    cells: Vec<char>,
}

impl Row {
    fn new(lanes: &Lanes) -> Self {
        let last = lanes.column(lanes.count() - 1);
        let mut cells = vec![' '; last + 1];
        for lane in 0..lanes.count() {
            cells[lanes.column(lane)] = '|';
        }
        Self { cells }
    }

    /// A line between two columns, without them.
    fn draw(&mut self, start: usize, end: usize) {
        for cell in &mut self.cells[start.min(end) + 1..start.max(end)] {
            *cell = '-';
        }
    }

    /// The label on the line near its beginning or, where the line is too short, behind its end.
    fn write(&mut self, label: &str, start: usize, end: usize) {
        let length = label.chars().count() + 2;
        let room = start.abs_diff(end).saturating_sub(BEFORE_LABEL + 3);
        let last = self.cells.len() - 1;
        let (at, most) = match (start <= end, length <= room) {
            (true, true) => (start + 1 + BEFORE_LABEL, room),
            (false, true) => (start - BEFORE_LABEL - length, room),
            (true, false) => (end + 1, last.saturating_sub(end)),
            (false, false) => (end.saturating_sub(length), end.min(length)),
        };
        let text = format!(" {label} ");
        for (cell, character) in self.cells[at..].iter_mut().zip(text.chars().take(most)) {
            *cell = character;
        }
    }

    /// With the place of a loss in colour.
    fn painted(&self, stop: Option<Stop>, style: Style) -> String {
        let Some(Stop { column, mark }) = stop else { return self.cells.iter().collect() };
        let before: String = self.cells[..column].iter().collect();
        let after: String = self.cells[column + 1..].iter().collect();
        let mark = mark.to_string();
        let mark = if mark == "x" { style.bad(&mark) } else { style.doubtful(&mark) };
        format!("{before}{mark}{after}")
    }
}
