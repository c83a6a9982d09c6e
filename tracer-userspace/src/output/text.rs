//! One trajectory as a person would tell it: who to whom, one line a hop, what changed, what became of it.

use std::io::{self, Write};
use std::net::IpAddr;

use crate::output::WallClock;
use crate::output::estimate::estimate;
use crate::trajectory::expect;
use crate::trajectory::icmp::error_name;
use crate::trajectory::model::{
    DeviceRole, Direction, Directory, DropPlace, Encapsulation, Hop, Latency, MissingHop, ObservationPoint,
    Owner, Packet, Trajectory, Verdict,
};
use crate::trajectory::rewrite::{self, Endpoint};

/// Columns that lines are kept within, where names allow.
pub(super) const WIDTH: usize = 100;
const TIME_WIDTH: usize = 12;

/// Colour, if the terminal has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    pub colour: bool,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(super) fn doubtful(self, text: &str) -> String {
        self.paint("33", text)
    }
}

/// Writes one trajectory.
///
/// # Errors
/// What `out` returns.
pub fn write_trajectory(
    out: &mut impl Write,
    trajectory: &Trajectory,
    directory: &(impl Directory + ?Sized),
    wall_clock: WallClock<'_>,
    style: Style,
) -> io::Result<()> {
    write_header(out, trajectory, directory, wall_clock, style)?;

    let columns = Columns::of(&trajectory.hops);
    write_missing(out, trajectory.missing.iter().filter(|hop| hop.before_first), style)?;
    for (i, hop) in trajectory.hops.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| &trajectory.hops[i]);
        let leg = trajectory.legs.iter().find(|leg| leg.from + 1 == i).map(|leg| leg.latency);
        write_hop(out, hop, before, leg, &columns, directory, style)?;
        write_missing(
            out,
            trajectory.missing.iter().filter(|missing| !missing.before_first && missing.after == i),
            style,
        )?;
    }
    write_verdict(out, trajectory, style)
}

fn write_header(
    out: &mut impl Write,
    trajectory: &Trajectory,
    directory: &(impl Directory + ?Sized),
    wall_clock: WallClock<'_>,
    style: Style,
) -> io::Result<()> {
    let Some((packet, clock, time_ns)) = trajectory.beginning() else { return Ok(()) };
    let time = wall_time(wall_clock(clock, time_ns));
    let number = format!("#{}", trajectory.id);
    write!(out, "{}  {time}  {}", style.strong(&number), style.strong(&what(packet)))?;
    if let Some(earlier) = trajectory.retransmission_of {
        let later = trajectory.retransmission_after_ns.map(|ns| format!(", {} later", duration(ns)));
        let text = format!("retransmission of #{earlier}{}", later.unwrap_or_default());
        write!(out, "  {}", style.doubtful(&text))?;
    }
    if let Some(original) = trajectory.duplicate_of {
        write!(out, "  {}", style.doubtful(&format!("duplicate of #{original}")))?;
    }
    if let Some(quoted) = trajectory.quotes {
        write!(out, "  {}", style.doubtful(&format!("quotes #{quoted}")))?;
    }
    writeln!(out)?;
    let end = |endpoint: Endpoint| {
        let name = owner_name(&directory.owner(endpoint.address, time_ns));
        if name.is_empty() { endpoint.to_string() } else { format!("{name} {endpoint}") }
    };
    writeln!(out, "    {} -> {}", end(Endpoint::source(packet)), end(Endpoint::destination(packet)))?;
    if let Some(quote) = &packet.quote {
        let source = Endpoint { address: packet.destination, port: quote.ports.map(|ports| ports.0) };
        let destination = Endpoint { address: quote.destination, port: quote.ports.map(|ports| ports.1) };
        let protocol = protocol_name(quote.protocol);
        writeln!(out, "    about {protocol} {} -> {}", end(source), end(destination))?;
    }
    Ok(())
}

fn protocol_name(protocol: u8) -> String {
    match protocol {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => format!("IP protocol {other}"),
    }
}

pub(super) fn owner_name(owner: &Owner) -> String {
    match owner {
        Owner::Pod { pod, .. } => format!("pod {}/{}", pod.namespace, pod.name),
        Owner::Service(service) => format!("Service {}/{}", service.namespace, service.name),
        Owner::Node(node) => format!("node {node}"),
        Owner::Unknown => String::new(),
    }
}

/// Protocol and what the packet says, in a few words.
fn what(packet: &Packet) -> String {
    let bytes = |count: u32| if count == 1 { "1 byte".to_owned() } else { format!("{count} bytes") };
    let fragment = packet
        .fragment
        .map(|(offset, more)| format!(", fragment at {offset}{}", if more { "" } else { " (last)" }));
    let text = match packet.protocol {
        6 => {
            let mut text = format!("TCP {}", tcp_flags(packet.tcp_flags));
            text += &format!(", seq {}", packet.sequence);
            if packet.tcp_flags & 0x10 != 0 {
                text += &format!(", ack {}", packet.acknowledgment);
            }
            if packet.payload_length > 0 {
                text += &format!(", {}", bytes(packet.payload_length));
            }
            text
        }
        17 => {
            let dns = packet.ports.is_some_and(|(source, destination)| source == 53 || destination == 53);
            format!("UDP{}, {}", if dns { " (DNS)" } else { "" }, bytes(packet.payload_length))
        }
        1 | 58 => icmp(packet),
        132 => format!("SCTP, TSN {}, {}", packet.sequence, bytes(packet.payload_length)),
        other => format!("IP protocol {other}, {}", bytes(packet.payload_length)),
    };
    text + &fragment.unwrap_or_default()
}

fn tcp_flags(flags: u8) -> String {
    const NAMES: [(u8, &str); 8] = [
        (0x02, "SYN"),
        (0x10, "ACK"),
        (0x08, "PSH"),
        (0x01, "FIN"),
        (0x04, "RST"),
        (0x20, "URG"),
        (0x40, "ECE"),
        (0x80, "CWR"),
    ];
    let set: Vec<&str> = NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "no flags".to_owned() } else { set.join(" ") }
}

fn icmp(packet: &Packet) -> String {
    let name = if packet.protocol == 1 { "ICMP" } else { "ICMPv6" };
    let Some(header) = packet.icmp else { return name.to_owned() };
    match (packet.protocol, header.kind) {
        (1, 8) | (58, 128) => format!("{name} echo request, seq {}", packet.sequence),
        (1, 0) | (58, 129) => format!("{name} echo reply, seq {}", packet.sequence),
        (58, 135) => format!("{name} neighbour solicitation"),
        (58, 136) => format!("{name} neighbour advertisement"),
        (protocol, kind) => match error_name(protocol, kind, header.code) {
            Some(error) => match packet.quote.as_ref().and_then(|quote| quote.mtu) {
                Some(mtu) => format!("{name} {error}, at most {mtu} bytes"),
                None => format!("{name} {error}"),
            },
            None => format!("{name} type {kind} code {}", header.code),
        },
    }
}

/// Widths that line up one trajectory's hops.
struct Columns {
    node: usize,
    device: usize,
}

impl Columns {
    fn of(hops: &[Hop]) -> Self {
        Self {
            node: hops.iter().map(|hop| hop.point.node.len()).max().unwrap_or(0),
            device: hops.iter().map(|hop| hop.point.device.len()).max().unwrap_or(0),
        }
    }
}

fn write_hop(
    out: &mut impl Write,
    hop: &Hop,
    before: Option<&Hop>,
    leg: Option<Latency>,
    columns: &Columns,
    directory: &(impl Directory + ?Sized),
    style: Style,
) -> io::Result<()> {
    let time = match leg {
        None => String::new(),
        Some(Latency::Exact { ns }) => format!("+{}", duration(ns)),
        Some(Latency::Estimated { ns, error_ns }) => {
            let text = format!("+{}", estimate(ns, error_ns));
            writeln!(out, "{text:>TIME_WIDTH$}  between two clocks")?;
            String::new()
        }
        Some(Latency::Unknown(why)) => {
            let text = format!("{:>TIME_WIDTH$} ({})", "unknown", why.reason());
            writeln!(out, "{}", style.faint(&text))?;
            String::new()
        }
    };
    let point = &hop.point;
    let direction = match point.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let lead = format!(
        "{time:>TIME_WIDTH$}  {:<node$}  {:<device$}  {direction:<7}  ",
        point.node,
        point.device,
        node = columns.node,
        device = columns.device,
    );
    let indent = lead.chars().count();
    write!(out, "{lead}")?;
    let mut parts = vec![from_the_pod(point)];
    parts.extend(
        before.map(|before| changes(before, hop, directory)).unwrap_or_else(|| at_start(hop, directory)),
    );
    parts.retain(|part| !part.is_empty());
    let mut column = indent;
    for (i, part) in parts.iter().enumerate() {
        let length = part.chars().count();
        if i > 0 && column + 2 + length > WIDTH {
            write!(out, "\n{:indent$}", "")?;
            column = indent;
        } else if i > 0 {
            write!(out, "; ")?;
            column += 2;
        }
        write!(out, "{part}")?;
        column += length;
    }
    writeln!(out)
}

/// Direction as seen from the pod or the node.
fn from_the_pod(point: &ObservationPoint) -> String {
    let pod = point.pod.as_ref().map_or("", |pod| pod.name.as_str());
    match (point.role, point.direction) {
        (DeviceRole::PodInterface, Direction::Egress) | (DeviceRole::PodPeer, Direction::Ingress) => {
            format!("leaves pod {pod}")
        }
        (DeviceRole::PodInterface, Direction::Ingress) | (DeviceRole::PodPeer, Direction::Egress) => {
            format!("enters pod {pod}")
        }
        (DeviceRole::Bridge, Direction::Ingress) => "from a bridge port up to the node".to_owned(),
        (DeviceRole::Bridge, Direction::Egress) => "from the node down to a bridge port".to_owned(),
        (DeviceRole::Tunnel, Direction::Egress) => "into the tunnel".to_owned(),
        (DeviceRole::Tunnel, Direction::Ingress) => "out of the tunnel".to_owned(),
        (DeviceRole::Nic, Direction::Egress) => "leaves the node".to_owned(),
        (DeviceRole::Nic, Direction::Ingress) => "arrives at the node".to_owned(),
        (DeviceRole::Other, _) => String::new(),
    }
}

fn at_start(hop: &Hop, directory: &(impl Directory + ?Sized)) -> Vec<String> {
    let mut parts: Vec<String> =
        hop.packet.encapsulation.iter().map(|outer| encapsulated(outer, hop, directory)).collect();
    if hop.packet.gso_segments > 1 {
        parts.push(format!("one packet for {} segments", hop.packet.gso_segments));
    }
    parts
}

/// What happened between two hops.
fn changes(before: &Hop, hop: &Hop, directory: &(impl Directory + ?Sized)) -> Vec<String> {
    let (old, new) = (&before.packet, &hop.packet);
    let mut parts = Vec::new();
    let (from, to) = (Endpoint::destination(old), Endpoint::destination(new));
    if !from.may_be(to) {
        let judged = rewrite::judge_destination(directory, new.protocol, from, to, hop.time_ns);
        let name = judged.rewrite().map_or("destination", rewrite::Rewrite::name);
        parts.push(format!("{name} {from} -> {to}"));
    }
    let (from, to) = (Endpoint::source(old), Endpoint::source(new));
    if !from.may_be(to) {
        let judged = rewrite::judge_source(directory, new.protocol, from, to, hop.time_ns);
        let name = judged.rewrite().map_or("source", rewrite::Rewrite::name);
        parts.push(format!("{name} {from} -> {to}"));
    }
    if old.ttl != new.ttl {
        parts.push(format!("TTL {} -> {}", old.ttl, new.ttl));
    }
    if !same_tunnels(&old.encapsulation, &new.encapsulation) {
        if new.encapsulation.is_empty() {
            parts.push("decapsulated".to_owned());
        }
        parts.extend(new.encapsulation.iter().map(|outer| encapsulated(outer, hop, directory)));
    }
    if hop.segments > before.segments {
        parts.push(format!("cut into {} segments", hop.segments));
    } else if hop.segments < before.segments {
        parts.push(match hop.segments {
            1 => "merged into one packet".to_owned(),
            segments => format!("merged into {segments} packets"),
        });
    }
    parts
}

/// The outer TTL changes on the wire without anything being encapsulated anew.
fn same_tunnels(old: &[Encapsulation], new: &[Encapsulation]) -> bool {
    let key = |outer: &Encapsulation| (outer.kind, outer.source, outer.destination, outer.identifier);
    old.len() == new.len() && old.iter().zip(new).all(|(old, new)| key(old) == key(new))
}

fn encapsulated(outer: &Encapsulation, hop: &Hop, directory: &(impl Directory + ?Sized)) -> String {
    use tracer_common::record;
    let kind = match outer.kind {
        record::TUNNEL_VXLAN => format!("VXLAN VNI {}", outer.identifier),
        record::TUNNEL_GENEVE => format!("Geneve VNI {}", outer.identifier),
        record::TUNNEL_IPIP => "IPIP".to_owned(),
        record::TUNNEL_SIT => "IPv6 in IPv4".to_owned(),
        record::TUNNEL_IP4_IN_IP6 => "IPv4 in IPv6".to_owned(),
        record::TUNNEL_IP6_IN_IP6 => "IPv6 in IPv6".to_owned(),
        record::TUNNEL_GRE if outer.identifier == 0 => "GRE".to_owned(),
        record::TUNNEL_GRE => format!("GRE key {}", outer.identifier),
        other => format!("tunnel of kind {other}"),
    };
    let end = |address: IpAddr| match directory.owner(address, hop.time_ns) {
        Owner::Node(node) => format!("{address} ({node})"),
        _ => address.to_string(),
    };
    format!("in {kind}, {} -> {}", end(outer.source), end(outer.destination))
}

fn write_missing<'a>(
    out: &mut impl Write,
    missing: impl Iterator<Item = &'a MissingHop>,
    style: Style,
) -> io::Result<()> {
    for hop in missing {
        let text = format!("{:>TIME_WIDTH$}  {}: {}", "not seen", hop.point, hop.reason);
        let text = if hop.explained { style.faint(&text) } else { style.doubtful(&text) };
        writeln!(out, "{text}")?;
    }
    Ok(())
}

fn write_verdict(out: &mut impl Write, trajectory: &Trajectory, style: Style) -> io::Result<()> {
    let (verdict, detail) = match &trajectory.verdict {
        Verdict::Delivered => (style.good("delivered"), None),
        Verdict::Dropped(dropped) => {
            let place = drop_place(&dropped.sighting.place);
            let verdict = format!("dropped {place}: {}", dropped.sighting.reason);
            (style.bad(&verdict), Some(dropped.advice.clone()))
        }
        Verdict::Lost { after, expected } => {
            let hop = trajectory.hops.iter().rfind(|hop| hop.point.id == *after);
            let place = hop.map_or_else(String::new, |hop| expect::describe(&hop.point));
            (style.bad(&format!("lost after {place}")), Some(format!("next should have been {expected}")))
        }
        Verdict::Unknown { reason } => (style.doubtful("not known what became of it"), Some(reason.clone())),
    };
    let records = match trajectory.lost_records {
        1 => "1 record".to_owned(),
        count => format!("{count} records"),
    };
    let seen = trajectory.hops.len();
    writeln!(out, "    {verdict}, {seen} of {} hops, {records} lost", trajectory.expected_hops)?;
    if let Some(detail) = detail {
        writeln!(out, "    {detail}")?;
    }
    if let Some(reason) = &trajectory.ambiguous {
        writeln!(out, "    {}", style.doubtful(&format!("ambiguous: {reason}")))?;
    }
    for note in &trajectory.notes {
        writeln!(out, "    note: {note}")?;
    }
    Ok(())
}

/// The verdict in one word, as in JSON.
#[must_use]
pub const fn verdict_word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Delivered => "delivered",
        Verdict::Dropped(_) => "dropped",
        Verdict::Lost { .. } => "lost",
        Verdict::Unknown { .. } => "unknown",
    }
}

/// What is to be said of a trajectory's packet at one hop, without the others at hand: three lines of text.
#[must_use]
pub fn comment(trajectory: &Trajectory, index: usize, directory: &(impl Directory + ?Sized)) -> String {
    let Some(hop) = trajectory.hops.get(index) else { return String::new() };
    let before = index.checked_sub(1).and_then(|before| trajectory.hops.get(before));
    let mut parts = vec![from_the_pod(&hop.point)];
    parts.extend(before.map_or_else(|| at_start(hop, directory), |before| changes(before, hop, directory)));
    match trajectory.legs.iter().find(|leg| leg.from + 1 == index).map(|leg| leg.latency) {
        None => {}
        Some(Latency::Exact { ns }) => parts.push(format!("+{}", duration(ns))),
        Some(Latency::Estimated { ns, error_ns }) => {
            parts.push(format!("+{} between two clocks", estimate(ns, error_ns)));
        }
        Some(Latency::Unknown(why)) => {
            parts.push(format!("time since the last hop unknown ({})", why.reason()))
        }
    }
    parts.retain(|part| !part.is_empty());
    let end = |address: IpAddr| {
        let name = owner_name(&directory.owner(address, hop.time_ns));
        if name.is_empty() { address.to_string() } else { name }
    };
    let (first, last) = (&trajectory.hops[0].packet, &trajectory.hops[trajectory.hops.len() - 1].packet);
    let verdict = match &trajectory.verdict {
        Verdict::Delivered => "delivered".to_owned(),
        Verdict::Dropped(dropped) => {
            format!("dropped {}: {}", drop_place(&dropped.sighting.place), dropped.sighting.reason)
        }
        Verdict::Lost { after, expected } => {
            let place = trajectory.hops.iter().rfind(|hop| hop.point.id == *after);
            let place = place.map_or_else(String::new, |hop| expect::describe(&hop.point));
            format!("lost after {place}; next should have been {expected}")
        }
        Verdict::Unknown { reason } => format!("not known what became of it: {reason}"),
    };
    let ambiguous = if trajectory.ambiguous.is_some() { " (ambiguous)" } else { "" };
    let again =
        trajectory.retransmission_of.map_or_else(String::new, |id| format!(", retransmission of #{id}"));
    format!(
        "#{}{again}, hop {} of {}: {}\n{} -> {}\n{verdict}{ambiguous}",
        trajectory.id,
        index + 1,
        trajectory.expected_hops,
        parts.join("; "),
        end(first.source),
        end(last.destination),
    )
}

/// "on node n1 at eth0 (nf_hook_slow)", "in pod default/curl".
pub(super) fn drop_place(place: &DropPlace) -> String {
    let mut text = match &place.pod {
        Some(pod) => format!("in pod {}/{} on {}", pod.namespace, pod.name, place.node),
        None => format!("on {}", place.node),
    };
    if let Some(device) = &place.device {
        text += &format!(" at {device}");
    }
    if let Some(function) = &place.function {
        text += &format!(" ({function})");
    }
    text
}

pub(super) fn wall_time(unix_ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(unix_ns.into()).map_or_else(
        |_| format!("{unix_ns} ns"),
        |time| time.strftime("%Y-%m-%d %H:%M:%S.%6f UTC").to_string(),
    )
}

/// Nanoseconds in the unit that reads best, to about three digits.
#[must_use]
pub fn duration(ns: u64) -> String {
    let scaled = |value: f64, unit: &str| {
        let digits = if value < 10.0 { 2 } else { 1 };
        format!("{value:.digits$} {unit}")
    };
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => scaled(ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => scaled(ns as f64 / 1e6, "ms"),
        _ => scaled(ns as f64 / 1e9, "s"),
    }
}

#[cfg(test)]
mod tests;
