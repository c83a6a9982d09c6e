//! Which bytes each TCP flow has sent, to know a retransmission. Bounded: flows used last, ranges sent last.

use std::collections::VecDeque;

use crate::trajectory::correlate::open::Handle;
use crate::trajectory::correlate::range::Range;
use crate::trajectory::model::{Packet, Sighting};
use crate::trajectory::order::Stage;
use crate::trajectory::recent::Recent;
use crate::trajectory::rewrite::Endpoint;

const TCP: u8 = 6;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
/// Flows remembered.
const MAX_FLOWS: usize = 16_384;
/// Ranges remembered per flow; a retransmission is rarely further behind.
const MAX_RANGES: usize = 256;
/// Ids remembered of reported trajectories.
const MAX_IDS: usize = 1 << 17;

#[derive(Debug)]
pub(super) struct History {
    flows: Recent<(Endpoint, Endpoint), Flow>,
    ids: Ids,
}

#[derive(Debug)]
struct Flow {
    sent: VecDeque<Sent>,
    /// End of the bytes furthest ahead.
    ahead: u32,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    range: Range,
    timestamp: Option<u32>,
    identification: u32,
    handle: Handle,
}

impl History {
    pub(super) fn new() -> Self {
        Self { flows: Recent::new(MAX_FLOWS), ids: Ids::default() }
    }

    /// Notes that a packet takes its bytes of sequence space under this sighting's addresses. Returns the
    /// latest earlier packet with some of the same bytes, if this one is proven to be another packet.
    pub(super) fn note(&mut self, sighting: &Sighting, handle: Handle) -> Option<Handle> {
        let packet = &sighting.packet;
        let range = sequence_space(packet)?;
        let key = (Endpoint::source(packet), Endpoint::destination(packet));
        let flow = self.flows.entry(key, || Flow { sent: VecDeque::new(), ahead: range.start });
        let sent = Sent {
            range,
            timestamp: packet.tcp_timestamps.map(|(value, _)| value),
            identification: packet.identification,
            handle,
        };
        let at_source = Stage::of(&sighting.point).rank() < 2;
        let mut repeats = None;
        if range.offset_from(flow.ahead) < 0 {
            repeats = flow
                .sent
                .iter()
                .rev()
                .filter(|earlier| earlier.handle.serial < handle.serial && earlier.range.overlaps(range))
                .find(|earlier| is_other_packet(earlier, &sent, at_source))
                .map(|earlier| earlier.handle);
        }
        if i64::from(range.end().wrapping_sub(flow.ahead) as i32) > 0 {
            flow.ahead = range.end();
        }
        if flow.sent.back().is_none_or(|last| last.handle != handle) {
            if flow.sent.len() == MAX_RANGES {
                flow.sent.pop_front();
            }
            flow.sent.push_back(sent);
        }
        repeats
    }

    /// Remembers under which id a packet was reported.
    pub(super) fn reported(&mut self, serial: u64, id: u64) {
        self.ids.set(serial, id);
    }

    /// The id under which a packet was reported.
    pub(super) fn id_of(&self, serial: u64) -> Option<u64> {
        self.ids.get(serial)
    }
}

/// Equal bytes, but not the same packet: the sender stamped it anew, or it left the pod a second time.
fn is_other_packet(earlier: &Sent, later: &Sent, at_source: bool) -> bool {
    let unmarked = later.timestamp.is_none() && later.identification == 0;
    (at_source && unmarked)
        || earlier.timestamp != later.timestamp
        || (earlier.range.start == later.range.start && earlier.identification != later.identification)
}

/// Bytes that the packet takes in sequence space: payload, SYN and FIN.
fn sequence_space(packet: &Packet) -> Option<Range> {
    if packet.protocol != TCP || packet.ports.is_none() {
        return None;
    }
    let marks = u32::from(packet.tcp_flags & SYN != 0) + u32::from(packet.tcp_flags & FIN != 0);
    let length = packet.payload_length + marks;
    (length > 0).then_some(Range { start: packet.sequence, length })
}

/// Serial to id, for the serials reported last.
#[derive(Debug, Default)]
struct Ids {
    first: u64,
    ids: VecDeque<u64>,
}

impl Ids {
    fn set(&mut self, serial: u64, id: u64) {
        if serial < self.first {
            return;
        }
        let mut index = serial - self.first;
        if index >= MAX_IDS as u64 {
            let drop = (index - MAX_IDS as u64 + 1).min(self.ids.len() as u64);
            self.ids.drain(..drop as usize);
            self.first += drop;
            index = serial - self.first;
            if index >= MAX_IDS as u64 {
                self.first = serial;
                index = 0;
            }
        }
        let index = index as usize;
        if self.ids.len() <= index {
            self.ids.resize(index + 1, 0);
        }
        self.ids[index] = id;
    }

    fn get(&self, serial: u64) -> Option<u64> {
        let index = usize::try_from(serial.checked_sub(self.first)?).ok()?;
        self.ids.get(index).copied().filter(|id| *id != 0)
    }
}
