//! One exchange as a ladder: a sequence diagram in text. A column for each place that matters (the requester, the nodes
//! on the way, the responder), time downwards as the requester saw it, an arrow for each packet.
//!
//! | module | holds |
//! |---|---|
//! | `lanes` | the places, and where on the way between them a packet ended |
//! | `label` | what a packet is, in a few words |
//! | `row` | the arrow |

mod label;
mod lanes;
mod row;

use std::io::{self, Write};

use crate::output::WallClock;
use crate::output::estimate::estimate;
use crate::output::ladder::label::{kind, label};
use crate::output::ladder::lanes::Lanes;
use crate::output::text::{Style, WIDTH, drop_place, duration, owner_name, wall_time, write_trajectory};
use crate::trajectory::exchange::{Exchange, Member, NoTimes, Outcome, Role, Split, Times, Turn};
use crate::trajectory::expect;
use crate::trajectory::model::{Directory, Latency, Trajectory, Verdict};
use crate::trajectory::rewrite::Endpoint;

/// Columns of the time and the packet's number, before the lanes.
const LEAD: usize = 20;
/// More rows than this are folded, but for their beginning, their end and what is special.
const MAX_ROWS: usize = 40;
const FIRST_ROWS: usize = 20;
const LAST_ROWS: usize = 10;
/// Columns before the lines below the ladder, and what their first word may take.
const FOOTER_LEAD: usize = 16;

/// Writes an exchange, or what is new of it, and the full trajectories of its packets that were not delivered.
///
/// # Errors
/// What `out` returns.
pub fn write_exchange(
    out: &mut impl Write,
    exchange: &Exchange,
    directory: &(impl Directory + ?Sized),
    wall_clock: WallClock<'_>,
    style: Style,
) -> io::Result<()> {
    let fresh = &exchange.members[exchange.told.min(exchange.members.len())..];
    if exchange.told > 0 && fresh.is_empty() {
        return Ok(());
    }
    write_header(out, exchange, directory, wall_clock, style)?;
    let lanes = Lanes::of(exchange, directory);
    writeln!(out, "{}", style.faint(&lanes.header()))?;
    write_rows(out, exchange, fresh, &lanes, style)?;
    write_footer(out, exchange, fresh, style)?;
    for member in fresh.iter().filter(|member| member.trajectory.verdict != Verdict::Delivered) {
        writeln!(out)?;
        write_trajectory(out, &member.trajectory, directory, wall_clock, style)?;
    }
    writeln!(out)
}

fn write_header(
    out: &mut impl Write,
    exchange: &Exchange,
    directory: &(impl Directory + ?Sized),
    wall_clock: WallClock<'_>,
    style: Style,
) -> io::Result<()> {
    let first = exchange.members.first().and_then(|member| member.trajectory.beginning());
    let at_ns = first.map_or(0, |(_, _, time_ns)| time_ns);
    let begin = exchange.start_ns().map(|start_ns| (exchange.clock, start_ns));
    let begin = begin.or(first.map(|(_, clock, time_ns)| (clock, time_ns)));
    let time = begin.map_or_else(String::new, |(clock, time_ns)| wall_time(wall_clock(clock, time_ns)));
    let number = style.strong(&format!("exchange {}", exchange.id));
    let continued = if exchange.told > 0 { ", continued" } else { "" };
    let previous =
        exchange.previous.map_or_else(String::new, |id| format!(", on the connection of exchange {id}"));
    writeln!(out, "{number}{continued}  {time}  {}{previous}", style.strong(kind(exchange.kind).as_str()))?;
    let end = |endpoint: Endpoint| {
        let name = owner_name(&directory.owner(endpoint.address, at_ns));
        if name.is_empty() { endpoint.to_string() } else { format!("{name} {endpoint}") }
    };
    writeln!(out, "    {} -> {}", end(exchange.requester), end(exchange.addressed))?;
    if exchange.responder != exchange.addressed {
        writeln!(out, "    served by {}", end(exchange.responder))?;
    }
    Ok(())
}

fn write_rows(
    out: &mut impl Write,
    exchange: &Exchange,
    fresh: &[Member],
    lanes: &Lanes,
    style: Style,
) -> io::Result<()> {
    let start_ns = exchange.start_ns().unwrap_or_default();
    let mut folded: Vec<&Member> = Vec::new();
    for (index, member) in fresh.iter().enumerate() {
        if is_folded(fresh, index) {
            folded.push(member);
            continue;
        }
        write_fold(out, &mut folded, style)?;
        let time = match member.time_ns {
            Some(time_ns) if time_ns > start_ns => format!("+{}", duration(time_ns - start_ns)),
            Some(_) => "0".to_owned(),
            None => String::new(),
        };
        let number = format!("#{}", member.trajectory.id);
        let label = label(exchange, member);
        let arrow = row::arrow(lanes, member, &label, style);
        writeln!(out, "{time:>11}{number:>7}  {arrow}  {}", fate(&member.trajectory, style))?;
        for line in remarks(&member.trajectory).iter().flat_map(|remark| wrapped(remark)) {
            writeln!(out, "{:LEAD$}{}", "", style.doubtful(&line))?;
        }
    }
    write_fold(out, &mut folded, style)
}

/// Whether a row is one of too many that look alike.
fn is_folded(fresh: &[Member], index: usize) -> bool {
    let member = &fresh[index];
    fresh.len() > MAX_ROWS
        && index >= FIRST_ROWS
        && index + LAST_ROWS < fresh.len()
        && matches!(member.role, Role::Request | Role::Answer | Role::Ack | Role::Fragment)
        && member.trajectory.verdict == Verdict::Delivered
        && remarks(&member.trajectory).is_empty()
}

fn write_fold(out: &mut impl Write, folded: &mut Vec<&Member>, style: Style) -> io::Result<()> {
    if folded.is_empty() {
        return Ok(());
    }
    let mut kinds: Vec<(Role, usize)> = Vec::new();
    for member in folded.iter() {
        match kinds.iter_mut().find(|(role, _)| *role == member.role) {
            Some((_, count)) => *count += 1,
            None => kinds.push((member.role, 1)),
        }
    }
    let bytes: u64 = folded
        .iter()
        .filter_map(|member| member.packet())
        .map(|packet| u64::from(packet.payload_length))
        .sum();
    let kinds: Vec<_> = kinds.iter().map(|(role, count)| format!("{count} {}", role.name())).collect();
    let text = format!("... {} more, delivered: {}; {bytes} bytes", folded.len(), kinds.join(", "));
    folded.clear();
    writeln!(out, "{:LEAD$}{}", "", style.faint(&text))
}

/// What stands beside an arrow: the time on the path, or that it did not arrive.
fn fate(trajectory: &Trajectory, style: Style) -> String {
    match &trajectory.verdict {
        Verdict::Delivered => path_time(trajectory),
        Verdict::Dropped(_) => style.bad("dropped"),
        Verdict::Lost { .. } => style.bad("lost"),
        Verdict::Unknown { .. } => style.doubtful("not known"),
    }
}

/// From a packet's first hop to its last.
fn path_time(trajectory: &Trajectory) -> String {
    let (Some(first), Some(last)) = (trajectory.hops.first(), trajectory.hops.last()) else {
        return String::new();
    };
    if trajectory.hops.len() < 2 {
        return String::new();
    }
    if first.point.clock == last.point.clock {
        return duration(last.time_ns.saturating_sub(first.time_ns));
    }
    let mut sum = Some((0, 0));
    for leg in &trajectory.legs {
        sum = match (sum, leg.latency) {
            (Some((ns, error_ns)), Latency::Exact { ns: more }) => Some((ns + more, error_ns)),
            (Some((ns, error_ns)), Latency::Estimated { ns: more, error_ns: further }) => {
                Some((ns + more, error_ns + further))
            }
            _ => None,
        };
    }
    match sum {
        Some((ns, error_ns)) => latency(Latency::Estimated { ns, error_ns }),
        None => "unknown".to_owned(),
    }
}

/// What else must not be overlooked: a line each.
fn remarks(trajectory: &Trajectory) -> Vec<String> {
    let mut lines = Vec::new();
    match &trajectory.verdict {
        Verdict::Delivered => {}
        Verdict::Dropped(dropped) => {
            let sighting = &dropped.sighting;
            lines.push(format!("x dropped {}: {}", drop_place(&sighting.place), sighting.reason));
        }
        Verdict::Lost { after, expected } => {
            let hop = trajectory.hops.iter().rfind(|hop| hop.point.id == *after);
            let place =
                hop.map_or_else(String::new, |hop| format!(" after {}", expect::describe(&hop.point)));
            lines.push(format!("x lost{place}; next should have been {expected}"));
        }
        Verdict::Unknown { reason } => lines.push(format!("? {reason}")),
    }
    lines.extend(trajectory.ambiguous.iter().map(|reason| format!("ambiguous: {reason}")));
    lines.extend(trajectory.notes.iter().map(|note| format!("note: {note}")));
    lines
}

/// Lines that fit under the lanes; all but the first are indented.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.trim_start().is_empty() => *line += word,
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH - LEAD => {
                *line += " ";
                *line += word;
            }
            _ => lines.push(format!("  {word}")),
        }
    }
    lines
}

fn write_footer(out: &mut impl Write, exchange: &Exchange, fresh: &[Member], style: Style) -> io::Result<()> {
    for line in times(exchange, style) {
        writeln!(out, "    {line}")?;
    }
    let delivered = fresh.iter().filter(|member| member.trajectory.verdict == Verdict::Delivered).count();
    let sum = |count: fn(&Trajectory) -> usize| fresh.iter().map(|member| count(&member.trajectory)).sum();
    let seen: usize = sum(|trajectory| trajectory.hops.len());
    let expected: usize = sum(|trajectory| trajectory.expected_hops);
    let lost_records = fresh.iter().map(|member| member.trajectory.lost_records).max().unwrap_or_default();
    let mut line = format!(
        "{delivered} of {} delivered, {seen} of {expected} hops, {}",
        count(fresh.len() as u64, "packet"),
        match lost_records {
            0 => "0 records lost".to_owned(),
            lost => format!("up to {} lost meanwhile", count(lost, "record")),
        }
    );
    if exchange.left_out > 0 {
        line +=
            &format!("; {} not shown: too many for one exchange", count(exchange.left_out, "further packet"));
    }
    writeln!(out, "    {line}")
}

/// What the exchange took, and where.
fn times(exchange: &Exchange, style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    let handshake = exchange.handshake.as_ref();
    match (exchange.outcome, &exchange.times) {
        (Outcome::Answered, Ok(times)) => {
            lines.extend(answered(times));
            lines[0].insert_str(0, &format!("{} ", style.good("answered")));
            if let Ok(split) = &times.split
                && let Latency::Estimated { .. } = split.paths
            {
                lines.push(format!("between two clocks; both paths together {}", latency(split.paths)));
            }
        }
        (Outcome::Answered, Err(why)) => {
            lines.push(format!("{}, time unknown ({})", style.good("answered"), why.reason()));
        }
        (Outcome::AnswerLost, _) => lines.push(style.bad("the answer was lost")),
        (Outcome::Unanswered, _) => {
            let so_far =
                if exchange.ending.is_none() { "no answer so far" } else { NoTimes::NoAnswer.reason() };
            lines.push(style.doubtful(so_far));
        }
        (Outcome::Reset, _) => lines.push(style.bad("reset before an answer")),
        (Outcome::Refused, _) => {
            let after =
                handshake.map_or_else(String::new, |times| format!(" after {}", duration(times.total_ns)));
            lines.push(style.bad(&format!("connection refused{after}")));
        }
        (Outcome::NoRequest, _) => {}
    }
    if let Some(times) = handshake.filter(|_| exchange.outcome != Outcome::Refused) {
        let resent = match times.resent_ns {
            0 => String::new(),
            ns => format!(", {} of it until sent again", duration(ns)),
        };
        lines.push(format!("handshake {}{resent}", duration(times.total_ns)));
    }
    lines
}

/// "after 2.18 ms: 112 us there, 2.04 ms in the application, 29.1 us back", on one line or two.
fn answered(times: &Times) -> Vec<String> {
    let mut parts = Vec::new();
    if times.resent_ns > 0 {
        parts.push(format!("{} until sent again", duration(times.resent_ns)));
    }
    match &times.split {
        Ok(Split { there, stay_ns, turn, back, .. }) => {
            parts.push(format!("{} there", latency(*there)));
            parts.push(match turn {
                Turn::Pod(_) => format!("{} in the application", duration(*stay_ns)),
                Turn::Device(point) => format!("{} beyond {}", duration(*stay_ns), expect::describe(point)),
            });
            parts.push(format!("{} back", latency(*back)));
        }
        Err(why) => parts.push(format!("not split ({})", why.reason())),
    }
    let mut lines = vec![format!("after {}:", duration(times.total_ns))];
    for (index, part) in parts.iter().enumerate() {
        let part = if index + 1 < parts.len() { format!("{part},") } else { part.clone() };
        match lines.last_mut() {
            Some(line) if line.len() + part.len() < WIDTH - FOOTER_LEAD => *line += &format!(" {part}"),
            _ => lines.push(format!("  {part}")),
        }
    }
    lines
}

fn latency(latency: Latency) -> String {
    match latency {
        Latency::Exact { ns } => duration(ns),
        Latency::Estimated { ns, error_ns } => estimate(ns, error_ns),
        Latency::Unknown(why) => format!("unknown ({})", why.reason()),
    }
}

fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests;
