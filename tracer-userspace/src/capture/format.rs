//! What a file has for programs: JSON for all, and messages (`proto/capture.proto`) for `tracer read`.

use prost::Message as _;
use serde::Serialize;
use tracer_common::ABI_VERSION;
use tracer_common::record::HOP_RECORD_SIZE;

use crate::stream::{FORMAT, convert, wire};
use crate::trajectory::expect::topology::{PlannedHook, PlannedWay};
use crate::trajectory::model::{DeviceRole, Direction, DropSighting, ObservationPoint, PodRef, PointId};

#[allow(unreachable_pub, reason = "generated from proto/capture.proto, where everything is public")]
pub(crate) mod message {
    include!(concat!(env!("OUT_DIR"), "/tracer.capture.v1.rs"));
}

pub(crate) use message::note::Kind;

/// Under whose number custom options are: that for documentation (RFC 5612), as tracer has none of its own. What
/// is not ours under it is recognized by not being a message of ours.
pub const ENTERPRISE: u32 = 32_473;

/// Before a packet's record in its option, so that others' options are not taken for it.
const RECORD_MARK: [u8; 8] = *b"TRACERv1";

/// `tracer.capture/v1` of a packet.
#[derive(Serialize)]
pub(crate) struct PacketObject<'a> {
    pub(crate) trajectory: u64,
    /// From 1.
    pub(crate) hop: usize,
    pub(crate) hops: usize,
    pub(crate) verdict: &'a str,
}

/// `tracer.capture/v1` of an interface.
#[derive(Serialize)]
pub(crate) struct PointObject<'a> {
    schema: &'static str,
    node: &'a str,
    pod: Option<&'a PodRef>,
    device: &'a str,
    kind: &'a str,
    ifindex: u32,
    direction: Direction,
    role: DeviceRole,
    clock: u32,
    foreign_programs: Vec<&'a str>,
}

/// The version of both.
pub const SCHEMA: &str = "tracer.capture/v1";

impl<'a> PointObject<'a> {
    pub(crate) fn of(point: &'a ObservationPoint) -> Self {
        Self {
            schema: SCHEMA,
            node: &point.node,
            pod: point.pod.as_deref(),
            device: &point.device,
            kind: &point.kind,
            ifindex: point.ifindex,
            direction: point.direction,
            role: point.role,
            clock: point.clock.0,
            foreign_programs: point.foreign_programs.iter().map(|name| &**name).collect(),
        }
    }
}

/// A note, encoded.
pub(crate) fn note(clock: u32, kind: Kind) -> Vec<u8> {
    message::Note { clock, kind: Some(kind) }.encode_to_vec()
}

pub(crate) fn clock_begins(boot_id: &str, monotonic_ns: u64, wall_ns: u64) -> Kind {
    Kind::ClockBegins(wire::Hello {
        format: FORMAT,
        abi: ABI_VERSION,
        tracer: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: boot_id.to_owned(),
        monotonic_ns,
        wall_ns,
        ..wire::Hello::default()
    })
}

pub(crate) fn point(point: &ObservationPoint, since_ns: u64) -> Kind {
    Kind::Point(convert::point_to_wire(point, since_ns))
}

pub(crate) fn point_gone(id: PointId) -> Kind {
    Kind::PointGone(wire::PointGone { id: id.0 })
}

pub(crate) fn dropped(drop: &DropSighting) -> Kind {
    Kind::Drop(Box::new(convert::drop_to_wire(drop)))
}

pub(crate) fn way(way: &PlannedWay) -> Kind {
    let hook = |hook: &PlannedHook| message::Hook {
        node: hook.node.to_string(),
        ifindex: hook.ifindex,
        direction: match hook.direction {
            Direction::Ingress => wire::Direction::Ingress,
            Direction::Egress => wire::Direction::Egress,
        }
        .into(),
    };
    let (from, to) = (way.from.to_string(), way.to.to_string());
    Kind::Way(message::Way { from, to, hooks: way.hooks.iter().map(hook).collect() })
}

/// `None` where it cannot be one.
pub(crate) fn way_from(way: message::Way) -> Option<PlannedWay> {
    let name = |text: String| Some(convert::name(text).ok()?.into());
    let hook = |hook: message::Hook| {
        let direction = match hook.direction() {
            wire::Direction::Ingress => Direction::Ingress,
            wire::Direction::Egress => Direction::Egress,
            wire::Direction::Unspecified => return None,
        };
        Some(PlannedHook { node: name(hook.node)?, ifindex: hook.ifindex, direction })
    };
    let hooks = way.hooks.into_iter().map(hook).collect::<Option<_>>()?;
    Some(PlannedWay { from: name(way.from)?, to: name(way.to)?, hooks })
}

pub(crate) fn lost(node: &str, records: u64) -> Kind {
    Kind::Lost(message::Lost { node: node.to_owned(), records })
}

/// A packet's option: its hop record as the kernel side made it.
pub(crate) fn record_option(record: &[u8]) -> Vec<u8> {
    [&RECORD_MARK, record].concat()
}

/// The record in a packet's option; `None` if it is none.
pub(crate) fn record_of(option: &[u8]) -> Option<&[u8]> {
    option.strip_prefix(&RECORD_MARK).filter(|record| record.len() == HOP_RECORD_SIZE)
}
