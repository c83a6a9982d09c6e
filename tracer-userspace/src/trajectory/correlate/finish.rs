//! When a packet is finished, and what is said of it then.

use crate::trajectory::correlate::assemble::{self, Context, Judged};
use crate::trajectory::correlate::history::Passage;
use crate::trajectory::correlate::open::{Handle, Open, Progress, Segment};
use crate::trajectory::correlate::range::Range;
use crate::trajectory::correlate::{CROWDED, Correlator, Done, FollowScope, clocks};
use crate::trajectory::model::{Directory, Owner, Trajectory};
use crate::trajectory::order::{NIC_OUT, POD_IN, POD_OUT, Stage};

impl<D: Directory> Correlator<D> {
    /// Closes the packet at once if its last hop was seen and nothing is missing.
    pub(super) fn after_join(&mut self, slot: u32) {
        if !self.may_be_last(slot) || self.waits_for_drops(slot) {
            return;
        }
        let Some((judged, handle)) = self.judge_complete(slot) else { return };
        let Some(open) = self.slots[slot as usize].as_mut() else { return };
        // Into a pod nothing can follow. What left the cluster may pass one more device, what reached a node may
        // be sent on by NAT (a NodePort, the answer to a packet with rewritten source).
        let last = judged.points(open).last().map(Stage::of);
        if last != Some(POD_IN) {
            if last == Some(NIC_OUT) {
                self.settled.push(handle);
            }
            return;
        }
        let nothing_missing = judged.expectation.missing().next().is_none();
        // Hops before the first one may be told late: an answer of a Service begins under another address.
        let has_beginning = judged.points(open).next().map(Stage::of) == Some(POD_OUT);
        if !nothing_missing
            || !has_beginning
            || open.is_mistakable()
            || judged.points(open).any(|point| self.topology.has_other(&point.node))
        {
            self.settled.push(handle);
            return;
        }
        open.progress = Progress::Complete;
        self.unlink(slot);
        if self.has_unresolved_rivals(handle) {
            self.waiting.push(handle);
        } else if let Some(open) = self.take(slot) {
            self.conclude(open, vec![judged]);
        }
    }

    /// Where the kernel tells drops, a packet that has entered its pod may yet be dropped there.
    fn waits_for_drops(&mut self, slot: u32) -> bool {
        let Some(open) = self.slots[slot as usize].as_mut() else { return false };
        let arrived = |segment: &&Segment| Stage::of(&segment.sighting.point) == POD_IN;
        let Some(arrived) = open.segments.iter().rev().find(arrived) else { return false };
        if !self.drops.tells(&arrived.sighting.point.node) {
            return false;
        }
        if !std::mem::replace(&mut open.settling, true) {
            self.settled.push(Handle { slot, serial: open.serial });
        }
        true
    }

    /// Cheap test that spares most sightings the judgement.
    fn may_be_last(&self, slot: u32) -> bool {
        let Some(open) = self.slots[slot as usize].as_ref() else { return false };
        let latest = |segment: &Segment| match Stage::of(&segment.sighting.point) {
            POD_IN => true,
            NIC_OUT => {
                let sighting = &segment.sighting;
                let owner = self.directory.owner(sighting.packet.destination, sighting.time_ns);
                matches!(owner, Owner::Unknown)
            }
            _ => false,
        };
        let Some(last) = open.segments.last() else { return false };
        if latest(last) {
            return true;
        }
        // The last hop may have come before this one.
        open.segments.iter().any(|segment| Stage::of(&segment.sighting.point) == POD_IN)
    }

    fn judge_complete(&self, slot: u32) -> Option<(Judged, Handle)> {
        let open = self.slots[slot as usize].as_ref()?;
        if open.progress == Progress::Complete {
            return None;
        }
        let mut judged = self.judge(open, None);
        let only = if judged.len() == 1 { judged.pop()? } else { return None };
        (only.is_complete() || only.is_dropped(open, &self.directory))
            .then_some((only, Handle { slot, serial: open.serial }))
    }

    fn judge(&self, open: &Open, cut_short: Option<&'static str>) -> Vec<Judged> {
        let from_ns = open.opened_ns.saturating_sub(self.config.grace_ns);
        let lost_on = |node: &str| self.losses.since(node, from_ns);
        assemble::judge(
            open,
            &Context {
                directory: &self.directory,
                topology: &self.topology,
                learnt: &self.learnt,
                lost_on: &lost_on,
                sees_snat: self.config.scopes.iter().all(|scope| scope.b.is_some()),
                cut_short,
            },
        )
    }

    pub(super) fn close_if_complete(&mut self, handle: Handle) {
        if self.get(handle).is_none() {
            return;
        }
        if let Some(open) = self.get_mut(handle) {
            open.settling = false;
        }
        let Some((judged, _)) = self.judge_complete(handle.slot) else { return };
        if self.has_unresolved_rivals(handle) {
            self.unlink(handle.slot);
            if let Some(open) = self.slots[handle.slot as usize].as_mut() {
                open.progress = Progress::Complete;
            }
            self.waiting.push(handle);
            return;
        }
        self.unlink(handle.slot);
        if let Some(open) = self.take(handle.slot) {
            self.conclude(open, vec![judged]);
        }
    }

    /// No sighting came for the grace time. A datagram without a beginning may be one that was cut from a UDP
    /// GSO packet which came later.
    pub(super) fn expire(&mut self, handle: Handle) {
        if self.index.has_udp()
            && let Some(open) = self.get(handle)
            && !open.by_range
            && let Some(first) = open.segments.first()
        {
            let sighting = first.sighting.clone();
            if let Some((slot, range)) = self.find_udp(&sighting)
                && slot != handle.slot
                && self.all_fit(handle.slot, slot, range)
            {
                self.unlink(handle.slot);
                if let Some(mut open) = self.take(handle.slot) {
                    for segment in open.segments.drain(..) {
                        self.join(slot, segment.sighting, range);
                    }
                    self.recycle(open.segments);
                }
                return;
            }
        }
        // Its datagrams may have come before it; they expire first if it waits once more.
        let now = self.now_ns;
        if self.index.has_udp()
            && let Some(open) = self.get_mut(handle)
            && open.by_range
            && !open.waited
        {
            open.waited = true;
            open.touched_ns = now;
            self.expiry.push_back((now, handle));
            return;
        }
        self.claim_late_pieces(handle);
        // What is closed cannot be claimed of any more.
        let rivals = self.get(handle).map_or_else(Vec::new, |open| open.rivals.clone());
        rivals.into_iter().for_each(|rival| self.claim_late_pieces(rival));
        self.close(handle, None);
    }

    fn all_fit(&self, slot: u32, into: u32, range: Range) -> bool {
        let (Some(open), Some(into)) = (&self.slots[slot as usize], &self.slots[into as usize]) else {
            return false;
        };
        open.segments.iter().all(|segment| into.fit(&segment.sighting, range, &self.directory).is_some())
    }

    pub(super) fn close(&mut self, handle: Handle, cut_short: Option<&'static str>) {
        let Some(open) = self.get(handle) else { return };
        let judged = self.judge(open, cut_short.or(open.crowded.then_some(CROWDED)));
        if open.progress == Progress::UnderWay {
            self.unlink(handle.slot);
        }
        if let Some(open) = self.take(handle.slot) {
            self.conclude(open, judged);
        }
    }

    fn conclude(&mut self, open: Open, judged: Vec<Judged>) {
        let complete = judged.iter().all(Judged::is_complete);
        if !complete {
            self.doubt_rivals(&open);
        }
        self.history.finished(open.serial, open.segments.iter().map(Passage::of));
        for unit in judged {
            unit.teach(&open, &mut self.learnt);
            let Some(follows) = self.wanted(&open) else {
                self.counters.unrelated += 1;
                continue;
            };
            let is_certain = self.is_certain(&open, &unit);
            let mut trajectory = unit.into_trajectory(&open, &self.directory, follows);
            trajectory.notes.extend(self.without_service(&trajectory));
            if is_certain {
                self.learn_clocks(&trajectory);
            }
            let earlier = self.earlier(&open, &trajectory);
            let quotes = self.quoted_by(&mut trajectory);
            let waits_since_ns = (!open.dirty && open.touched_ns > 0).then_some(open.touched_ns);
            self.done.push(Done { serial: open.serial, earlier, quotes, waits_since_ns, trajectory });
        }
        self.recycle(open.segments);
    }

    /// Why a packet to a followed Service shows no Service address. Socket load balancing (Cilium's
    /// kube-proxy replacement) puts the endpoint's in its place before there is a packet.
    fn without_service(&self, trajectory: &Trajectory) -> Option<String> {
        let first = &trajectory.hops.first()?.packet;
        first.ports?;
        let asks = |scope: &&FollowScope| {
            scope.a.contains(&first.source) && scope.wants(first.source, first.destination)
        };
        let service = self.config.scopes.iter().filter(asks).find_map(|scope| scope.service.as_ref())?;
        let is_pod =
            matches!(self.directory.owner(first.destination, trajectory.hops[0].time_ns), Owner::Pod { .. });
        is_pod.then(|| {
            format!(
                "sent to the endpoint itself, not to Service {}/{}: the client uses its address, or a BPF program at the \
                 client's socket has put it in place of the Service's (socket load balancing)",
                service.namespace, service.name
            )
        })
    }

    /// The follows that asked for the packet.
    fn wanted(&self, open: &Open) -> Option<u64> {
        let marked = open.segments.iter().fold(0, |follows, segment| follows | segment.sighting.follows);
        if self.config.scopes.is_empty() {
            return Some(marked);
        }
        let mut follows = 0;
        for (bit, scope) in self.config.scopes.iter().enumerate().take(64) {
            let wanted = open.segments.iter().any(|segment| scope.wants_packet(&segment.sighting.packet));
            follows |= u64::from(wanted) << bit;
        }
        (follows != 0).then_some(follows)
    }

    pub(super) fn report(&mut self, emit: &mut impl FnMut(Trajectory), all: bool) {
        if self.done.is_empty() {
            return;
        }
        let mut done = std::mem::take(&mut self.done);
        // What names an earlier packet comes behind it, even where its records came first.
        done.sort_by_key(|done| {
            let named = done.earlier.map_or(0, |earlier| earlier.handle.serial);
            (done.serial.max(named), done.serial < named)
        });
        // ICMP errors come behind the packets that they quote, which name them.
        let mut answers = Vec::new();
        if done.iter().any(|done| done.quotes.is_some()) {
            (answers, done) = done.into_iter().partition(|done| done.quotes.is_some());
        }
        let mut held: Vec<Done> = Vec::new();
        let too_many = done.len().saturating_sub(clocks::MAX_WAITING);
        for (number, mut finished) in done.into_iter().enumerate() {
            if !all && number >= too_many && self.awaits_clocks(&mut finished) {
                held.push(finished);
                continue;
            }
            if !all && finished.earlier.is_some_and(|earlier| self.is_pending(earlier.handle, &held)) {
                held.push(finished);
                continue;
            }
            let mut its_answers = Vec::new();
            if !answers.is_empty() {
                let is_answer =
                    |done: &Done| done.quotes.is_some_and(|quoted| quoted.serial == finished.serial);
                (its_answers, answers) = answers.into_iter().partition(is_answer);
                self.note_answers(&mut finished.trajectory, &its_answers, self.next_id + 1);
            }
            self.tell(finished, emit);
            for answer in its_answers {
                self.tell(answer, emit);
            }
        }
        for answer in answers {
            if !all && answer.quotes.is_some_and(|quoted| self.is_pending(quoted, &held)) {
                held.push(answer);
            } else {
                self.tell(answer, emit);
            }
        }
        self.done = held;
    }

    /// Numbers and reports one.
    fn tell(&mut self, mut finished: Done, emit: &mut impl FnMut(Trajectory)) {
        self.name_earlier(&mut finished);
        let mut trajectory = finished.trajectory;
        self.time_crossings(&mut trajectory);
        trajectory.quotes = finished.quotes.and_then(|quoted| self.history.id_of(quoted.serial));
        trajectory.id = self.next_id;
        self.history.reported(finished.serial, self.next_id);
        self.next_id += 1;
        self.counters.reported += 1;
        self.counters.ambiguous += u64::from(trajectory.ambiguous.is_some());
        emit(trajectory);
    }

    /// A packet that is not known whole may have a record that another of the same content was given.
    fn doubt_rivals(&mut self, open: &Open) {
        for &rival in &open.rivals {
            if let Some(other) = self.get_mut(rival) {
                other.doubtful = true;
            }
        }
    }

    /// Drops the oldest packet; false if there is none.
    pub(super) fn evict(&mut self) -> bool {
        while let Some(handle) = self.by_age.pop_front() {
            if let Some(open) = self.get(handle) {
                if open.progress == Progress::UnderWay {
                    self.unlink(handle.slot);
                }
                if let Some(open) = self.take(handle.slot) {
                    self.doubt_rivals(&open);
                    self.recycle(open.segments);
                }
                self.counters.evicted += 1;
                return true;
            }
        }
        if self.done.is_empty() {
            return false;
        }
        self.done.swap_remove(0);
        self.counters.evicted += 1;
        true
    }

    pub(super) fn has_unresolved_rivals(&self, handle: Handle) -> bool {
        self.get(handle).is_some_and(|open| {
            open.rivals
                .iter()
                .any(|rival| self.get(*rival).is_some_and(|rival| rival.progress == Progress::UnderWay))
        })
    }
}
