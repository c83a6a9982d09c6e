//! One trajectory as one line of JSON, `tracer.trajectory/v1`; `docs/json.md` describes every field. These types
//! are the format, kept apart from the model so that the model can change. An exchange is a line of its own (`exchange`).

mod exchange;

use std::io::{self, Write};
use std::net::IpAddr;

use serde::Serialize;
use tracer_common::record;

use crate::output::WallClock;
use crate::trajectory::model::{
    DeviceRole, Direction, Directory, DropSighting, Dropped, Encapsulation, Hop, Latency, Leg, MissingHop,
    Owner, Packet, Trajectory, Verdict,
};

pub(crate) use exchange::kind;
pub use exchange::write_exchange;

/// The version of the format; it changes when a field changes its meaning or goes.
pub const SCHEMA: &str = "tracer.trajectory/v1";

#[derive(Serialize)]
struct TrajectoryLine<'a> {
    schema: &'static str,
    id: u64,
    protocol: String,
    src: EndObject,
    dst: EndObject,
    verdict: &'static str,
    verdict_detail: Option<VerdictDetail<'a>>,
    hops: Vec<HopObject<'a>>,
    legs: Vec<LegObject>,
    expected_hops: usize,
    missing: Vec<MissingObject<'a>>,
    lost_records: u64,
    retransmission_of: Option<u64>,
    retransmission_after_ns: Option<u64>,
    duplicate_of: Option<u64>,
    quotes: Option<u64>,
    ambiguous: Option<&'a str>,
    notes: &'a [String],
    tcp: Option<TcpObject>,
    icmp: Option<IcmpObject>,
    payload_length: u32,
}

#[derive(Serialize)]
struct EndObject {
    ip: IpAddr,
    port: Option<u16>,
    pod: Option<String>,
    namespace: Option<String>,
    node: Option<String>,
    service: Option<String>,
}

#[derive(Default, Serialize)]
struct VerdictDetail<'a> {
    after_hop: Option<usize>,
    expected: Option<&'a str>,
    reason: Option<&'a str>,
    drop: Option<DropObject<'a>>,
}

#[derive(Serialize)]
struct DropObject<'a> {
    node: &'a str,
    pod: Option<&'a str>,
    namespace: Option<&'a str>,
    device: Option<&'a str>,
    function: Option<&'a str>,
    time_ns: u64,
    advice: &'a str,
}

#[derive(Serialize)]
struct HopObject<'a> {
    node: &'a str,
    pod: Option<&'a str>,
    namespace: Option<&'a str>,
    device: &'a str,
    kind: &'a str,
    role: &'static str,
    ifindex: u32,
    direction: &'static str,
    time_ns: u64,
    monotonic_ns: u64,
    src: AddressObject,
    dst: AddressObject,
    ttl: u8,
    length: u32,
    segments: u32,
    encapsulation: Vec<EncapsulationObject>,
}

#[derive(Serialize)]
struct AddressObject {
    ip: IpAddr,
    port: Option<u16>,
}

#[derive(Serialize)]
struct EncapsulationObject {
    kind: &'static str,
    src: IpAddr,
    dst: IpAddr,
    port: Option<u16>,
    identifier: u32,
    ttl: u8,
}

#[derive(Serialize)]
struct LegObject {
    from: usize,
    to: usize,
    latency_ns: Option<u64>,
    /// 0 where one clock saw both ends.
    latency_error_ns: Option<u64>,
    latency_unknown: Option<&'static str>,
}

#[derive(Serialize)]
struct MissingObject<'a> {
    after_hop: Option<usize>,
    point: &'a str,
    reason: &'a str,
    explained: bool,
}

#[derive(Serialize)]
struct TcpObject {
    seq: u32,
    ack: u32,
    flags: Vec<&'static str>,
    window: u16,
}

#[derive(Serialize)]
struct IcmpObject {
    #[serde(rename = "type")]
    kind: u8,
    code: u8,
    seq: u32,
}

/// Writes one trajectory as one line.
///
/// # Errors
/// What `out` returns.
pub fn write_trajectory(
    out: &mut impl Write,
    trajectory: &Trajectory,
    directory: &(impl Directory + ?Sized),
    wall_clock: WallClock<'_>,
) -> io::Result<()> {
    let Some((packet, _, time_ns)) = trajectory.beginning() else { return Ok(()) };
    let (verdict, verdict_detail) = verdict(trajectory, wall_clock);
    let line = TrajectoryLine {
        schema: SCHEMA,
        id: trajectory.id,
        protocol: protocol(packet.protocol),
        src: end(packet.source, packet.ports.map(|ports| ports.0), time_ns, directory),
        dst: end(packet.destination, packet.ports.map(|ports| ports.1), time_ns, directory),
        verdict,
        verdict_detail,
        hops: trajectory.hops.iter().map(|seen| hop(seen, wall_clock)).collect(),
        legs: trajectory.legs.iter().map(leg).collect(),
        expected_hops: trajectory.expected_hops,
        missing: trajectory.missing.iter().map(missing).collect(),
        lost_records: trajectory.lost_records,
        retransmission_of: trajectory.retransmission_of,
        retransmission_after_ns: trajectory.retransmission_after_ns,
        duplicate_of: trajectory.duplicate_of,
        quotes: trajectory.quotes,
        ambiguous: trajectory.ambiguous.as_deref(),
        notes: &trajectory.notes,
        tcp: tcp(packet),
        icmp: packet.icmp.map(|icmp| IcmpObject { kind: icmp.kind, code: icmp.code, seq: packet.sequence }),
        payload_length: packet.payload_length,
    };
    serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
    out.write_all(b"\n")
}

fn leg(leg: &Leg) -> LegObject {
    let (latency_ns, latency_error_ns, latency_unknown) = latency(leg.latency);
    LegObject { from: leg.from, to: leg.from + 1, latency_ns, latency_error_ns, latency_unknown }
}

/// Nanoseconds, their error, and why there are none.
fn latency(latency: Latency) -> (Option<u64>, Option<u64>, Option<&'static str>) {
    match latency {
        Latency::Exact { ns } => (Some(ns), Some(0), None),
        Latency::Estimated { ns, error_ns } => (Some(ns), Some(error_ns), None),
        Latency::Unknown(why) => (None, None, Some(why.reason())),
    }
}

fn verdict<'a>(
    trajectory: &'a Trajectory,
    wall_clock: WallClock<'_>,
) -> (&'static str, Option<VerdictDetail<'a>>) {
    match &trajectory.verdict {
        Verdict::Delivered => ("delivered", None),
        Verdict::Dropped(dropped) => {
            let reason = Some(&*dropped.sighting.reason);
            let drop = Some(drop_object(dropped, wall_clock));
            ("dropped", Some(VerdictDetail { after_hop: dropped.after, expected: None, reason, drop }))
        }
        Verdict::Lost { after, expected } => (
            "lost",
            Some(VerdictDetail {
                after_hop: trajectory.hops.iter().rposition(|hop| hop.point.id == *after),
                expected: Some(expected),
                ..VerdictDetail::default()
            }),
        ),
        Verdict::Unknown { reason } => {
            ("unknown", Some(VerdictDetail { reason: Some(reason), ..VerdictDetail::default() }))
        }
    }
}

fn drop_object<'a>(dropped: &'a Dropped, wall_clock: WallClock<'_>) -> DropObject<'a> {
    let DropSighting { place, clock, time_ns, .. } = &dropped.sighting;
    DropObject {
        node: &place.node,
        pod: place.pod.as_ref().map(|pod| pod.name.as_str()),
        namespace: place.pod.as_ref().map(|pod| pod.namespace.as_str()),
        device: place.device.as_deref(),
        function: place.function.as_deref(),
        time_ns: wall_clock(*clock, *time_ns),
        advice: &dropped.advice,
    }
}

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        other => format!("ip-{other}"),
    }
}

fn end(ip: IpAddr, port: Option<u16>, at_ns: u64, directory: &(impl Directory + ?Sized)) -> EndObject {
    let nobody = EndObject { ip, port, pod: None, namespace: None, node: None, service: None };
    match directory.owner(ip, at_ns) {
        Owner::Pod { pod, node } => EndObject {
            pod: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            node: Some(node.to_string()),
            ..nobody
        },
        Owner::Service(service) => EndObject {
            namespace: Some(service.namespace.clone()),
            service: Some(service.name.clone()),
            ..nobody
        },
        Owner::Node(node) => EndObject { node: Some(node.to_string()), ..nobody },
        Owner::Unknown => nobody,
    }
}

fn hop<'a>(hop: &'a Hop, wall_clock: WallClock<'_>) -> HopObject<'a> {
    let (point, packet) = (&hop.point, &hop.packet);
    HopObject {
        node: &point.node,
        pod: point.pod.as_ref().map(|pod| pod.name.as_str()),
        namespace: point.pod.as_ref().map(|pod| pod.namespace.as_str()),
        device: &point.device,
        kind: &point.kind,
        role: match point.role {
            DeviceRole::PodInterface => "pod-interface",
            DeviceRole::PodPeer => "pod-peer",
            DeviceRole::Bridge => "bridge",
            DeviceRole::Tunnel => "tunnel",
            DeviceRole::Nic => "nic",
            DeviceRole::Other => "other",
        },
        ifindex: point.ifindex,
        direction: match point.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        },
        time_ns: wall_clock(point.clock, hop.time_ns),
        monotonic_ns: hop.time_ns,
        src: AddressObject { ip: packet.source, port: packet.ports.map(|ports| ports.0) },
        dst: AddressObject { ip: packet.destination, port: packet.ports.map(|ports| ports.1) },
        ttl: packet.ttl,
        length: packet.length,
        segments: hop.segments,
        encapsulation: packet.encapsulation.iter().map(encapsulation).collect(),
    }
}

fn encapsulation(outer: &Encapsulation) -> EncapsulationObject {
    EncapsulationObject {
        kind: match outer.kind {
            record::TUNNEL_VXLAN => "vxlan",
            record::TUNNEL_GENEVE => "geneve",
            record::TUNNEL_IPIP => "ipip",
            record::TUNNEL_SIT => "sit",
            record::TUNNEL_IP4_IN_IP6 => "ip4ip6",
            record::TUNNEL_IP6_IN_IP6 => "ip6ip6",
            record::TUNNEL_GRE => "gre",
            _ => "unknown",
        },
        src: outer.source,
        dst: outer.destination,
        port: (outer.port != 0).then_some(outer.port),
        identifier: outer.identifier,
        ttl: outer.ttl,
    }
}

fn missing(hop: &MissingHop) -> MissingObject<'_> {
    MissingObject {
        after_hop: (!hop.before_first).then_some(hop.after),
        point: &hop.point,
        reason: &hop.reason,
        explained: hop.explained,
    }
}

fn tcp(packet: &Packet) -> Option<TcpObject> {
    const NAMES: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
    if packet.protocol != 6 || packet.ports.is_none() {
        return None;
    }
    Some(TcpObject {
        seq: packet.sequence,
        ack: packet.acknowledgment,
        flags: (0..8).filter(|bit| packet.tcp_flags >> bit & 1 == 1).map(|bit| NAMES[bit]).collect(),
        window: packet.window,
    })
}

#[cfg(test)]
mod tests;
