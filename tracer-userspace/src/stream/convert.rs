//! Between messages and the words of a trajectory. What a message claims is checked here: numbers fit, names have a
//! reasonable length, and no size is one at which arithmetic would overflow.

use std::net::IpAddr;
use std::sync::Arc;

use tracer_common::record::{MAX_TUNNELS, split_captured};

use super::{Counts, Sighted, wire};
use crate::trajectory::model::{
    ClockId, DeviceRole, Direction, DropPlace, DropSighting, Encapsulation, Frame, IcmpHeader,
    ObservationPoint, Packet, PodRef, PointId, Quote, Sighting,
};

/// Longest name of anything, bytes: Kubernetes' longest has 253.
const MAX_NAME: usize = 512;
/// Most programs on one hook: the kernel's own limit.
const MAX_PROGRAMS: usize = 64;
/// Longest packet, bytes; BIG TCP's are 512 KiB.
const MAX_LENGTH: u32 = 1 << 24;

/// What of a message cannot be, in words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invalid(pub(crate) &'static str);

type Checked<T> = Result<T, Invalid>;

pub(crate) fn point_to_wire(point: &ObservationPoint, since_ns: u64) -> wire::Point {
    wire::Point {
        id: point.id.0,
        node: point.node.to_string(),
        pod: point.pod.as_deref().map(pod_to_wire),
        device: point.device.to_string(),
        kind: point.kind.to_string(),
        ifindex: point.ifindex,
        direction: match point.direction {
            Direction::Ingress => wire::Direction::Ingress,
            Direction::Egress => wire::Direction::Egress,
        }
        .into(),
        role: match point.role {
            DeviceRole::PodInterface => wire::Role::PodInterface,
            DeviceRole::PodPeer => wire::Role::PodPeer,
            DeviceRole::Bridge => wire::Role::Bridge,
            DeviceRole::Tunnel => wire::Role::Tunnel,
            DeviceRole::Nic => wire::Role::Nic,
            DeviceRole::Other => wire::Role::Other,
        }
        .into(),
        bridge: point.bridge.unwrap_or(0),
        foreign_programs: point.foreign_programs.iter().map(ToString::to_string).collect(),
        hidden_by: point.hidden_by.as_deref().unwrap_or_default().to_owned(),
        since_ns,
        without_ethernet: !point.has_ethernet_header,
    }
}

/// The point and since when it exists. Its clock is to be set by who knows it.
pub(crate) fn point_from_wire(point: wire::Point) -> Checked<(ObservationPoint, u64)> {
    let direction = match point.direction() {
        wire::Direction::Ingress => Direction::Ingress,
        wire::Direction::Egress => Direction::Egress,
        wire::Direction::Unspecified => return Err(Invalid("a point has an unknown direction")),
    };
    let role = match point.role() {
        wire::Role::PodInterface => DeviceRole::PodInterface,
        wire::Role::PodPeer => DeviceRole::PodPeer,
        wire::Role::Bridge => DeviceRole::Bridge,
        wire::Role::Tunnel => DeviceRole::Tunnel,
        wire::Role::Nic => DeviceRole::Nic,
        wire::Role::Other => DeviceRole::Other,
        wire::Role::Unspecified => return Err(Invalid("a point's device has an unknown role")),
    };
    if point.node.is_empty() || point.device.is_empty() {
        return Err(Invalid("a point has no node or no device"));
    }
    if point.foreign_programs.len() > MAX_PROGRAMS {
        return Err(Invalid("a point has more programs than a hook can have"));
    }
    let pod = point.pod.map(pod_from_wire).transpose()?;
    let programs = point.foreign_programs.into_iter().map(|program| Ok(name(program)?.into()));
    let hidden_by = name(point.hidden_by)?;
    let converted = ObservationPoint {
        id: PointId(point.id),
        node: name(point.node)?.into(),
        clock: ClockId(0),
        pod,
        device: name(point.device)?.into(),
        kind: name(point.kind)?.into(),
        ifindex: point.ifindex,
        has_ethernet_header: !point.without_ethernet,
        direction,
        role,
        bridge: (point.bridge != 0).then_some(point.bridge),
        foreign_programs: programs.collect::<Checked<_>>()?,
        hidden_by: (!hidden_by.is_empty()).then(|| hidden_by.into()),
    };
    Ok((converted, point.since_ns))
}

fn pod_to_wire(pod: &PodRef) -> wire::Pod {
    wire::Pod { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() }
}

fn pod_from_wire(pod: wire::Pod) -> Checked<Arc<PodRef>> {
    let (namespace, name, uid) = (name(pod.namespace)?, name(pod.name)?, name(pod.uid)?);
    Ok(Arc::new(PodRef { namespace, name, uid }))
}

pub(crate) fn drop_to_wire(drop: &DropSighting) -> wire::Drop {
    let place = &drop.place;
    wire::Drop {
        node: place.node.to_string(),
        pod: place.pod.as_deref().map(pod_to_wire),
        device: place.device.as_deref().unwrap_or_default().to_owned(),
        function: place.function.as_deref().unwrap_or_default().to_owned(),
        reason: drop.reason.to_string(),
        packet: Some(packet_to_wire(&drop.packet, 0, drop.time_ns)),
    }
}

/// The drop of a packet of the stream's one follow. Its clock is to be set by who knows it.
pub(crate) fn drop_from_wire(drop: wire::Drop) -> Checked<DropSighting> {
    let packet = drop.packet.ok_or(Invalid("a drop has no packet"))?;
    if drop.node.is_empty() || drop.reason.is_empty() {
        return Err(Invalid("a drop has no node or no reason"));
    }
    let Sighted { time_ns, packet, .. } = sighting_from_wire(packet)?;
    let optional = |text: String| -> Checked<Option<Arc<str>>> {
        let text = name(text)?;
        Ok((!text.is_empty()).then(|| text.into()))
    };
    let place = DropPlace {
        node: name(drop.node)?.into(),
        pod: drop.pod.map(pod_from_wire).transpose()?,
        device: optional(drop.device)?,
        function: optional(drop.function)?,
    };
    let (place, reason) = (Arc::new(place), name(drop.reason)?.into());
    Ok(DropSighting { place, clock: ClockId(0), time_ns, follows: 1, reason, packet })
}

pub(crate) fn counts_to_wire(counts: &Counts) -> wire::Counts {
    let losses = counts.losses;
    wire::Counts {
        outcomes: counts.outcomes.iter().map(|(name, count)| (name.clone(), *count)).collect(),
        ring_full: losses.ring_full,
        channel_full: losses.channel_full,
        undecodable: losses.undecodable,
        unattributed: losses.unattributed,
        drop_records: losses.drop_records,
        drops_elsewhere: losses.drops_elsewhere,
        at_points: counts.at_points.iter().map(|(point, count)| (*point, *count)).collect(),
    }
}

/// Gives a name or any other text back if it is not too long.
pub(crate) fn name(text: String) -> Checked<String> {
    if text.len() > MAX_NAME {
        return Err(Invalid("a name is longer than any name can be"));
    }
    // It is printed to terminals.
    if text.chars().any(char::is_control) {
        return Err(Invalid("a name has control characters"));
    }
    Ok(text)
}

/// With this much of its bytes.
pub(crate) fn sighting_to_wire(sighting: &Sighting, frame: Option<&Frame>) -> wire::Sighting {
    let frame = frame.map_or_else(Vec::new, |frame| frame.0.to_vec());
    wire::Sighting { frame, ..packet_to_wire(&sighting.packet, sighting.point.id.0, sighting.time_ns) }
}

fn packet_to_wire(packet: &Packet, point: u32, time_ns: u64) -> wire::Sighting {
    wire::Sighting {
        point,
        time_ns,
        fingerprint: packet.fingerprint,
        source: octets(packet.source),
        destination: octets(packet.destination),
        source_port: packet.ports.map(|ports| ports.0.into()),
        destination_port: packet.ports.map(|ports| ports.1.into()),
        protocol: packet.protocol.into(),
        ttl: packet.ttl.into(),
        length: packet.length,
        payload_length: packet.payload_length,
        gso_segments: packet.gso_segments.into(),
        gso_size: packet.gso_size.into(),
        sequence: packet.sequence,
        acknowledgment: packet.acknowledgment,
        tcp_timestamps: packet.tcp_timestamps.map(|(value, echo)| wire::TcpTimestamps { value, echo }),
        tcp_flags: packet.tcp_flags.into(),
        window: packet.window.into(),
        identification: packet.identification,
        fragment: packet.fragment.map(|(offset, more)| wire::Fragment { offset: offset.into(), more }),
        icmp: packet.icmp.map(|icmp| wire::Icmp {
            r#type: icmp.kind.into(),
            code: icmp.code.into(),
            identifier: icmp.identifier.into(),
        }),
        encapsulation: packet.encapsulation.iter().map(encapsulation_to_wire).collect(),
        quote: packet.quote.as_deref().map(quote_to_wire),
        frame: Vec::new(),
    }
}

fn quote_to_wire(quote: &Quote) -> wire::Quote {
    wire::Quote {
        destination: octets(quote.destination),
        protocol: quote.protocol.into(),
        identification: quote.identification.into(),
        source_port: quote.ports.map(|ports| ports.0.into()),
        destination_port: quote.ports.map(|ports| ports.1.into()),
        sequence: quote.sequence,
        mtu: quote.mtu.unwrap_or(0).into(),
    }
}

fn quote_from_wire(quote: &wire::Quote) -> Checked<Quote> {
    let mtu = short(quote.mtu)?;
    Ok(Quote {
        destination: address(&quote.destination)?,
        protocol: byte(quote.protocol)?,
        identification: short(quote.identification)?,
        ports: ports(quote.source_port, quote.destination_port)?,
        sequence: quote.sequence,
        mtu: (mtu != 0).then_some(mtu),
    })
}

fn ports(source: Option<u32>, destination: Option<u32>) -> Checked<Option<(u16, u16)>> {
    match (source, destination) {
        (None, None) => Ok(None),
        (Some(source), Some(destination)) => Ok(Some((short(source)?, short(destination)?))),
        _ => Err(Invalid("a packet has only one port")),
    }
}

fn encapsulation_to_wire(outer: &Encapsulation) -> wire::Encapsulation {
    wire::Encapsulation {
        kind: outer.kind.into(),
        source: octets(outer.source),
        destination: octets(outer.destination),
        port: outer.port.into(),
        identifier: outer.identifier,
        ttl: outer.ttl.into(),
    }
}

pub(crate) fn sighting_from_wire(sighting: wire::Sighting) -> Checked<Sighted> {
    let frame = frame_from_wire(sighting.frame)?;
    let ports = ports(sighting.source_port, sighting.destination_port)?;
    if sighting.length > MAX_LENGTH || sighting.payload_length > MAX_LENGTH {
        return Err(Invalid("a packet is longer than any packet can be"));
    }
    if sighting.encapsulation.len() > MAX_TUNNELS {
        return Err(Invalid("a packet is in more tunnels than are followed"));
    }
    let fragment = match sighting.fragment {
        Some(fragment) => Some((short(fragment.offset)?, fragment.more)),
        None => None,
    };
    let icmp = match sighting.icmp {
        Some(icmp) => Some(IcmpHeader {
            kind: byte(icmp.r#type)?,
            code: byte(icmp.code)?,
            identifier: short(icmp.identifier)?,
        }),
        None => None,
    };
    let packet = Packet {
        fingerprint: sighting.fingerprint,
        source: address(&sighting.source)?,
        destination: address(&sighting.destination)?,
        ports,
        protocol: byte(sighting.protocol)?,
        ttl: byte(sighting.ttl)?,
        length: sighting.length,
        payload_length: sighting.payload_length,
        gso_segments: short(sighting.gso_segments)?,
        gso_size: short(sighting.gso_size)?,
        sequence: sighting.sequence,
        acknowledgment: sighting.acknowledgment,
        tcp_timestamps: sighting.tcp_timestamps.map(|timestamps| (timestamps.value, timestamps.echo)),
        tcp_flags: byte(sighting.tcp_flags)?,
        window: short(sighting.window)?,
        identification: sighting.identification,
        fragment,
        icmp,
        quote: sighting.quote.as_ref().map(quote_from_wire).transpose()?.map(Box::new),
        encapsulation: sighting.encapsulation.iter().map(encapsulation_from_wire).collect::<Checked<_>>()?,
    };
    Ok(Sighted { point: sighting.point, time_ns: sighting.time_ns, packet, frame })
}

fn frame_from_wire(frame: Vec<u8>) -> Checked<Option<Frame>> {
    if frame.is_empty() {
        return Ok(None);
    }
    if split_captured(&frame).is_none() {
        return Err(Invalid("a captured packet has no record, no bytes, or more than can be captured"));
    }
    Ok(Some(Frame(frame.into())))
}

fn encapsulation_from_wire(outer: &wire::Encapsulation) -> Checked<Encapsulation> {
    Ok(Encapsulation {
        kind: byte(outer.kind)?,
        source: address(&outer.source)?,
        destination: address(&outer.destination)?,
        port: short(outer.port)?,
        identifier: outer.identifier,
        ttl: byte(outer.ttl)?,
    })
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn address(octets: &[u8]) -> Checked<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Ok(v4.into());
    }
    <[u8; 16]>::try_from(octets)
        .map(|v6| IpAddr::from(v6).to_canonical())
        .map_err(|_| Invalid("an address has neither 4 nor 16 bytes"))
}

fn byte(number: u32) -> Checked<u8> {
    number.try_into().map_err(|_| Invalid("a number is larger than its 8 bits"))
}

fn short(number: u32) -> Checked<u16> {
    number.try_into().map_err(|_| Invalid("a number is larger than its 16 bits"))
}
