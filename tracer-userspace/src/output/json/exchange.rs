//! One exchange as one line of JSON, `tracer.exchange/v1`.

use std::io::{self, Write};

use serde::Serialize;

use super::{EndObject, end, protocol};
use crate::output::WallClock;
use crate::trajectory::exchange::{Exchange, Kind, Member, Split, Times, Turn};
use crate::trajectory::expect;
use crate::trajectory::model::{Directory, Latency};
use crate::trajectory::rewrite::Endpoint;

/// The version of the format; it changes when a field changes its meaning or goes.
const SCHEMA: &str = "tracer.exchange/v1";

#[derive(Serialize)]
struct ExchangeLine {
    schema: &'static str,
    id: u64,
    kind: &'static str,
    protocol: Option<String>,
    outcome: &'static str,
    ending: Option<&'static str>,
    previous: Option<u64>,
    requester: EndObject,
    addressed: EndObject,
    responder: EndObject,
    start_time_ns: Option<u64>,
    packets: Vec<PacketObject>,
    left_out: u64,
    handshake: Option<TimesObject>,
    times: Option<TimesObject>,
    times_unknown: Option<&'static str>,
}

#[derive(Serialize)]
struct PacketObject {
    id: u64,
    role: &'static str,
    from_requester: bool,
    offset_ns: Option<u64>,
}

#[derive(Default, Serialize)]
struct TimesObject {
    total_ns: u64,
    resent_ns: u64,
    there: Option<LatencyObject>,
    application_ns: Option<u64>,
    beyond_ns: Option<u64>,
    beyond: Option<String>,
    back: Option<LatencyObject>,
    paths: Option<LatencyObject>,
    split_unknown: Option<&'static str>,
}

#[derive(Serialize)]
struct LatencyObject {
    latency_ns: Option<u64>,
    latency_error_ns: Option<u64>,
    latency_unknown: Option<&'static str>,
}

/// Writes an exchange that has ended as one line; one that goes on is not written.
///
/// # Errors
/// What `out` returns.
pub fn write_exchange(
    out: &mut impl Write,
    exchange: &Exchange,
    directory: &(impl Directory + ?Sized),
    wall_clock: WallClock<'_>,
) -> io::Result<()> {
    let Some(ending) = exchange.ending else { return Ok(()) };
    let start_ns = exchange.start_ns();
    let first = exchange.members.first().and_then(|member| member.trajectory.beginning());
    let at_ns = start_ns.or(first.map(|(_, _, time_ns)| time_ns)).unwrap_or_default();
    let end = |endpoint: Endpoint| end(endpoint.address, endpoint.port, at_ns, directory);
    let line = ExchangeLine {
        schema: SCHEMA,
        id: exchange.id,
        kind: kind(exchange.kind),
        protocol: first.map(|(packet, ..)| protocol(packet.protocol)),
        outcome: exchange.outcome.name(),
        ending: Some(ending.name()),
        previous: exchange.previous,
        requester: end(exchange.requester),
        addressed: end(exchange.addressed),
        responder: end(exchange.responder),
        start_time_ns: start_ns.map(|start_ns| wall_clock(exchange.clock, start_ns)),
        packets: exchange.members.iter().map(|member| packet(member, start_ns)).collect(),
        left_out: exchange.left_out,
        handshake: exchange.handshake.as_ref().map(times),
        times: exchange.times.as_ref().ok().map(times),
        times_unknown: exchange.times.as_ref().err().map(|why| why.reason()),
    };
    serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
    out.write_all(b"\n")
}

/// Stable name of a kind.
pub(crate) fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Tcp => "tcp",
        Kind::Dns => "dns",
        Kind::Udp => "udp",
        Kind::Echo => "echo",
        Kind::Other(_) => "other",
    }
}

fn packet(member: &Member, start_ns: Option<u64>) -> PacketObject {
    let offset_ns = member.time_ns.zip(start_ns).map(|(time_ns, start_ns)| time_ns.saturating_sub(start_ns));
    PacketObject {
        id: member.trajectory.id,
        role: member.role.name(),
        from_requester: member.from_requester,
        offset_ns,
    }
}

fn times(times: &Times) -> TimesObject {
    let whole =
        TimesObject { total_ns: times.total_ns, resent_ns: times.resent_ns, ..TimesObject::default() };
    match &times.split {
        Err(why) => TimesObject { split_unknown: Some(why.reason()), ..whole },
        Ok(Split { there, stay_ns, turn, back, paths }) => {
            let (application_ns, beyond_ns, beyond) = match turn {
                Turn::Pod(_) => (Some(*stay_ns), None, None),
                Turn::Device(point) => (None, Some(*stay_ns), Some(expect::describe(point))),
            };
            TimesObject {
                there: Some(latency(*there)),
                application_ns,
                beyond_ns,
                beyond,
                back: Some(latency(*back)),
                paths: Some(latency(*paths)),
                ..whole
            }
        }
    }
}

fn latency(latency: Latency) -> LatencyObject {
    let (latency_ns, latency_error_ns, latency_unknown) = super::latency(latency);
    LatencyObject { latency_ns, latency_error_ns, latency_unknown }
}
