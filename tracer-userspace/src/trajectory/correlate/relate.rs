//! What packets have to do with each other: retransmissions, copies that the network made, and ICMP errors with the
//! packets that they quote.

use crate::trajectory::correlate::history::{Kin, Passage, Quoted, Relation, takes_bytes};
use crate::trajectory::correlate::open::{Handle, Open};
use crate::trajectory::correlate::{Correlator, Done};
use crate::trajectory::icmp;
use crate::trajectory::model::{Directory, Hop, Owner, Trajectory, Verdict};
use crate::trajectory::order::{POD_OUT, Stage};

/// Most packets of equal bytes that one is compared with.
const MAX_KIN: usize = 8;

/// An earlier packet with the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Earlier {
    pub(super) handle: Handle,
    relation: Relation,
    /// Between the two at the first point that both passed, nanoseconds.
    after_ns: u64,
}

impl<D: Directory> Correlator<D> {
    /// Notes under which addresses a packet went, and which others have its bytes. Records may come out of order, so
    /// both sides are told.
    pub(super) fn note_kin(&mut self, handle: Handle, segment: usize) {
        // Borrows of two fields.
        let Self { history, slots, .. } = self;
        let sighting = slots[handle.slot as usize]
            .as_ref()
            .and_then(|open| open.segments.get(segment))
            .map(|segment| &segment.sighting);
        let Some(kin) = sighting.and_then(|sighting| history.note(sighting, handle)) else { return };
        let back = Kin { handle, relation: kin.relation };
        for (to, kin) in [(handle, kin), (kin.handle, back)] {
            if let Some(open) = self.get_mut(to)
                && open.kin.len() < MAX_KIN
                && !open.kin.iter().any(|known| known.handle == kin.handle)
            {
                open.kin.push(kin);
            }
        }
    }

    /// The latest of the packets with the same bytes that surely came before this one.
    pub(super) fn earlier(&self, open: &Open, trajectory: &Trajectory) -> Option<Earlier> {
        let mut latest: Option<Earlier> = None;
        for kin in &open.kin {
            let Some((hop, here, there)) = self.first_common_hop(kin, open, &trajectory.hops) else {
                continue;
            };
            let Some(after_ns) = here.time_ns.checked_sub(there.time_ns).filter(|ns| *ns > 0) else {
                continue;
            };
            let relation = match kin.relation {
                // Two copies have come the same way.
                Relation::Copy { proven: true } if here.ttl < there.ttl => Relation::Loop,
                Relation::Copy { .. } if here.ttl != there.ttl => continue,
                Relation::Copy { proven: false } if is_sent_twice(trajectory, hop) => {
                    Relation::Retransmission
                }
                Relation::Copy { proven: false } if !is_made_on_the_way(trajectory, hop) => continue,
                relation => relation,
            };
            if latest.is_none_or(|latest| after_ns < latest.after_ns) {
                latest = Some(Earlier { handle: kin.handle, relation, after_ns });
            }
        }
        latest
    }

    /// The first hop that another packet passed too with some of the same bytes: its index, and when each was there.
    fn first_common_hop(&self, kin: &Kin, open: &Open, hops: &[Hop]) -> Option<(usize, Passage, Passage)> {
        let there: Vec<Passage> = match self.get(kin.handle) {
            Some(other) => other.segments.iter().map(Passage::of).collect(),
            None => self.history.passages_of(kin.handle.serial).collect(),
        };
        hops.iter().enumerate().find_map(|(index, hop)| {
            let here = open.segments.iter().map(Passage::of).filter(|passage| passage.point == hop.point.id);
            let meetings = here.filter_map(|here| {
                let others = there.iter().filter(|there| there.meets(&here));
                others.min_by_key(|there| there.time_ns).map(|there| (index, here, *there))
            });
            meetings.min_by_key(|(_, here, _)| here.time_ns)
        })
    }

    /// The packet that an ICMP error quotes. Both may have been translated, so it is looked for as the error was at
    /// each of its hops.
    pub(super) fn quoted_by(&self, trajectory: &mut Trajectory) -> Option<Handle> {
        trajectory.hops.first()?.packet.quote.as_ref()?;
        match trajectory.hops.iter().find_map(|hop| self.history.quoted(&hop.packet))? {
            Quoted::One(handle) => Some(handle),
            Quoted::Several => {
                let note = "what it quotes fits several packets: which one it is about is not certain";
                trajectory.notes.push(note.to_owned());
                None
            }
        }
    }

    /// Whether a packet that a finished one names is still to be reported.
    pub(super) fn is_pending(&self, handle: Handle, held: &[Done]) -> bool {
        self.history.id_of(handle.serial).is_none()
            && (self.get(handle).is_some() || held.iter().any(|held| held.serial == handle.serial))
    }

    /// Names the earlier packet by its id, if it was reported.
    pub(super) fn name_earlier(&self, finished: &mut Done) {
        let Some(earlier) = finished.earlier else { return };
        let Some(id) = self.history.id_of(earlier.handle.serial) else { return };
        match earlier.relation {
            Relation::Retransmission => {
                finished.trajectory.retransmission_of = Some(id);
                finished.trajectory.retransmission_after_ns = Some(earlier.after_ns);
            }
            Relation::Copy { .. } => finished.trajectory.duplicate_of = Some(id),
            Relation::Loop => finished.trajectory.notes.push(format!(
                "the packet of #{id}, here once more with a lower TTL: its way is a loop of routes"
            )),
        }
    }

    /// Notes with a packet that did not arrive what ICMP errors say about it; `first_id` is the id that the first of
    /// them will have.
    pub(super) fn note_answers(&self, trajectory: &mut Trajectory, answers: &[Done], first_id: u64) {
        if trajectory.verdict == Verdict::Delivered {
            return;
        }
        for (id, answer) in (first_id..).zip(answers) {
            let Some(hop) = answer.trajectory.hops.first() else { continue };
            let packet = &hop.packet;
            let who = match self.directory.owner(packet.source, hop.time_ns) {
                Owner::Pod { pod, .. } => format!("pod {}/{}", pod.namespace, pod.name),
                Owner::Service(service) => format!("Service {}/{}", service.namespace, service.name),
                Owner::Node(node) => format!("node {node}"),
                Owner::Unknown => packet.source.to_string(),
            };
            let name = packet
                .icmp
                .and_then(|header| icmp::error_name(packet.protocol, header.kind, header.code))
                .unwrap_or("error");
            let family = if packet.source.is_ipv4() { "ICMP" } else { "ICMPv6" };
            let mtu = packet
                .quote
                .as_ref()
                .and_then(|quote| quote.mtu)
                .map_or_else(String::new, |mtu| format!(" (at most {mtu} bytes)"));
            trajectory.notes.push(format!("{who} answered: {family} {name}{mtu}, #{id}"));
        }
    }
}

/// Whether the pod itself sent bytes of TCP that it had sent before. Within a tick of TCP's clock it stamps them alike.
fn is_sent_twice(trajectory: &Trajectory, hop: usize) -> bool {
    let first = &trajectory.hops[0];
    hop == 0 && Stage::of(&first.point) == POD_OUT && takes_bytes(&first.packet)
}

/// Whether a packet that nothing tells from an earlier one began to exist at `hop`, where the earlier one had been: the
/// sender would have been seen sending it, as no record was lost.
fn is_made_on_the_way(trajectory: &Trajectory, hop: usize) -> bool {
    hop == 0
        && trajectory.lost_records == 0
        && trajectory.missing.iter().any(|missing| missing.before_first && !missing.explained)
        && Stage::of(&trajectory.hops[0].point).rank() > 0
}
