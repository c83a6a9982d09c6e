//! Finding the packet under way that a sighting belongs to, or starting a new one.

use std::net::IpAddr;

use crate::trajectory::correlate::fragments::datagram_of;
use crate::trajectory::correlate::index::udp_gso_segments;
use crate::trajectory::correlate::open::{Handle, Open, Progress, Segment, Values, has_id};
use crate::trajectory::correlate::range::Range;
use crate::trajectory::correlate::{Correlator, MAX_EQUAL, STALLED_NS};
use crate::trajectory::model::{Directory, Owner, Sighting};
use crate::trajectory::order::{Ends, Place, Stage, is_upstream};
use crate::trajectory::rewrite::Endpoint;

impl<D: Directory> Correlator<D> {
    pub(super) fn push_whole(&mut self, sighting: Sighting, key: u64) {
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        self.index.whole(key, &mut found);
        let chosen = self.choose(&found, &sighting);
        if chosen.is_none() {
            let later = self.displace(&found, &sighting, |all, slot| all.range_in(slot, &sighting));
            if !later.is_empty() {
                self.found = found;
                later.into_iter().for_each(|later| self.place(later));
                return;
            }
        }
        let crowded = found.len() >= MAX_EQUAL;
        if chosen.is_none() && crowded {
            let oldest = found[0];
            if let Some(handle) = self.handle_of(oldest) {
                self.index.remove_whole(key, oldest);
                self.overdue.push(handle);
            }
            self.mark_crowded(&found);
        }
        self.found = found;
        if let Some(slot) = chosen {
            let range = self.range_in(slot, &sighting);
            self.join(slot, sighting, range);
            return;
        }
        if let Some((slot, range)) = self.find_udp(&sighting) {
            self.join(slot, sighting, range);
            return;
        }
        if let Some((datagram, range)) = datagram_of(&sighting.packet, self.hash)
            && self.index.has_bytes(datagram)
        {
            let chosen = self.find_pieces(&sighting, datagram, range);
            if !chosen.is_empty() {
                self.place_bytes(&chosen, sighting, datagram, range);
                return;
            }
        }
        self.open_whole(sighting, key);
    }

    pub(super) fn push_fragment(&mut self, sighting: Sighting, key: u64, range: Range) {
        if let Some(slot) = self.find_datagram(&sighting, key, range) {
            self.join(slot, sighting, range);
            return;
        }
        self.push_bytes(sighting, key, range);
    }

    /// Packets under way that have some of these bytes, for each byte at most one.
    fn find_pieces(&mut self, sighting: &Sighting, key: u64, range: Range) -> Vec<u32> {
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        self.index.bytes(key, range, &mut found);
        let chosen = if found.is_empty() { Vec::new() } else { self.choose_bytes(&found, sighting, range) };
        self.found = found;
        chosen
    }

    fn open_whole(&mut self, sighting: Sighting, key: u64) {
        let packet = &sighting.packet;
        let gso = udp_gso_segments(packet);
        let (by_range, range) = match gso {
            Some(_) => (true, Range { start: 0, length: packet.payload_length }),
            None => (false, Range::WHOLE),
        };
        let identification = packet.identification;
        let datagram = datagram_of(packet, self.hash).map(|(key, _)| key);
        let slot = self.open(sighting, key, range, by_range);
        self.index.insert_whole(key, slot);
        if let Some(datagram) = datagram {
            self.index.insert_datagram(datagram, slot);
        }
        self.note_mistakable(slot);
        self.join_crowd(slot);
        if let Some(segments) = gso {
            self.index.insert_udp(identification, segments, slot);
        }
        self.after_join(slot);
    }

    /// The best of several packets of equal content; ties are remembered as rivals.
    fn choose(&mut self, found: &[u32], sighting: &Sighting) -> Option<u32> {
        let mut best: Option<(u8, u32)> = None;
        let mut ties: Vec<u32> = Vec::new();
        for &slot in found {
            let Some(open) = self.slots[slot as usize].as_ref() else { continue };
            let Some(cost) = open.fit(sighting, self.range_in(slot, sighting), &self.directory) else {
                continue;
            };
            match best {
                Some((lowest, _)) if cost > lowest => {}
                Some((lowest, chosen)) if cost == lowest => {
                    let pass_over = self.slots[chosen as usize]
                        .as_ref()
                        .is_some_and(|older| has_stalled(older, open, sighting));
                    ties.push(if pass_over { chosen } else { slot });
                    if pass_over {
                        best = Some((cost, slot));
                    }
                }
                _ => {
                    best = Some((cost, slot));
                    ties.clear();
                }
            }
        }
        let (_, chosen) = best?;
        for other in ties {
            self.remember_tie(chosen, other, sighting);
        }
        Some(chosen)
    }

    /// The bytes that a sighting stands for in a packet that it is matched to by fingerprint.
    fn range_in(&self, slot: u32, sighting: &Sighting) -> Range {
        match self.slots[slot as usize].as_ref() {
            Some(open) if open.is_fragmented => {
                datagram_of(&sighting.packet, self.hash).map_or(open.range, |(_, range)| range)
            }
            Some(open) if open.by_range => {
                Range { start: 0, length: sighting.packet.payload_length.min(open.range.length) }
            }
            _ => Range::WHOLE,
        }
    }

    /// A UDP GSO packet that this datagram was cut from, and its bytes there.
    pub(super) fn find_udp(&mut self, sighting: &Sighting) -> Option<(u32, Range)> {
        let packet = &sighting.packet;
        if packet.protocol != 17
            || !self.index.has_udp()
            || packet.gso_segments > 1
            || packet.fragment.is_some()
        {
            return None;
        }
        let mut found = Vec::new();
        self.index.udp(packet.identification, &mut found);
        let mut best: Option<(u8, u32, Range)> = None;
        for slot in found {
            let Some(open) = self.slots[slot as usize].as_ref() else { continue };
            let Some(whole) = open.segments.iter().map(|s| &s.sighting.packet).find(|p| p.gso_segments > 1)
            else {
                continue;
            };
            let number = (packet.identification as u16).wrapping_sub(whole.identification as u16);
            let start = u32::from(number) * u32::from(whole.gso_size);
            let length = whole.payload_length.saturating_sub(start).min(whole.gso_size.into());
            if number == 0 || length == 0 || packet.payload_length != length {
                continue;
            }
            let range = Range { start, length };
            if let Some(cost) = open.fit(sighting, range, &self.directory)
                && best.is_none_or(|(lowest, _, _)| cost < lowest)
            {
                best = Some((cost, slot, range));
            }
        }
        best.map(|(_, slot, range)| (slot, range))
    }

    pub(super) fn push_bytes(&mut self, sighting: Sighting, key: u64, range: Range) {
        let chosen = self.find_pieces(&sighting, key, range);
        if chosen.is_empty() && !self.found.is_empty() {
            let found = std::mem::take(&mut self.found);
            let later = self.displace(&found, &sighting, |_, _| range);
            self.found = found;
            if !later.is_empty() {
                later.into_iter().for_each(|later| self.place(later));
                return;
            }
        }
        self.place_bytes(&chosen, sighting, key, range);
    }

    /// Puts a sighting of some bytes where it belongs: `chosen` are the packets that have some of them.
    fn place_bytes(&mut self, chosen: &[u32], sighting: Sighting, key: u64, range: Range) {
        match chosen {
            [] => {
                let slot = self.open_bytes(sighting, key, range);
                self.note_mistakable(slot);
                self.after_join(slot);
            }
            [only] if self.contains(*only, range) => self.join(*only, sighting, range),
            _ if self.is_first_on_the_way(chosen, &sighting, range) => {
                self.absorb(chosen, sighting, key, range)
            }
            _ => self.share(chosen, &sighting, key, range),
        }
    }

    fn open_bytes(&mut self, sighting: Sighting, key: u64, range: Range) -> u32 {
        let slot = self.open(sighting, key, range, true);
        if let Some(open) = self.slots[slot as usize].as_mut() {
            open.in_stream = true;
        }
        self.index.insert_bytes(key, range, slot);
        slot
    }

    /// Of the packets that have some of these bytes: for each byte at most one.
    fn choose_bytes(&mut self, found: &[u32], sighting: &Sighting, range: Range) -> Vec<u32> {
        let mut fits: Vec<(u8, u64, u32)> = Vec::with_capacity(found.len());
        for &slot in found {
            let Some(open) = self.slots[slot as usize].as_ref() else { continue };
            if let Some(cost) = open.fit(sighting, range, &self.directory) {
                fits.push((cost, open.serial, slot));
            }
        }
        if fits.len() > 1 {
            fits.sort_unstable();
        }
        let mut chosen: Vec<(u8, u32)> = Vec::with_capacity(fits.len());
        for (cost, _, slot) in fits {
            let Some(open) = self.slots[slot as usize].as_ref() else { continue };
            let clash = chosen.iter().position(|(_, other)| {
                self.slots[*other as usize].as_ref().is_some_and(|other| other.range.overlaps(open.range))
            });
            let Some(clash) = clash else {
                chosen.push((cost, slot));
                continue;
            };
            let (other_cost, other) = chosen[clash];
            if other_cost != cost {
                continue;
            }
            let pass_over =
                self.slots[other as usize].as_ref().is_some_and(|older| has_stalled(older, open, sighting));
            if pass_over {
                chosen[clash] = (cost, slot);
            }
            self.remember_tie(other, slot, sighting);
        }
        chosen.into_iter().map(|(_, slot)| slot).collect()
    }

    fn contains(&self, slot: u32, range: Range) -> bool {
        self.slots[slot as usize].as_ref().is_some_and(|open| open.range.contains(range))
    }

    /// No sighting of the same bytes is known to be before this one: then it is the packet, and what was seen
    /// so far are its pieces.
    fn is_first_on_the_way(&self, chosen: &[u32], sighting: &Sighting, range: Range) -> bool {
        let here = Place { point: &sighting.point, time_ns: sighting.time_ns, ttl: sighting.packet.ttl };
        let node = |address: IpAddr| match self.directory.owner(address, sighting.time_ns) {
            Owner::Pod { node, .. } | Owner::Node(node) => Some(node),
            Owner::Service(_) | Owner::Unknown => None,
        };
        let (source, destination) = (node(sighting.packet.source), node(sighting.packet.destination));
        let ends = Ends { source: source.as_deref(), destination: destination.as_deref() };
        chosen.iter().filter_map(|slot| self.slots[*slot as usize].as_ref()).all(|open| {
            open.segments.iter().filter(|segment| segment.range.overlaps(range)).all(|segment| {
                let other = &segment.sighting;
                let there = Place { point: &other.point, time_ns: other.time_ns, ttl: other.packet.ttl };
                !is_upstream(there, here, ends)
            })
        })
    }

    /// Makes one packet of several, with the sighting that shows that they are one.
    fn absorb(&mut self, chosen: &[u32], sighting: Sighting, key: u64, range: Range) {
        let Some((&keep, others)) = chosen.split_first() else { return };
        let mut union = range;
        for &slot in others {
            if !self.is_part_of(slot, keep) {
                continue;
            }
            self.unlink(slot);
            let Some(mut other) = self.take(slot) else { continue };
            union = union.union(other.range);
            if let Some(open) = self.slots[keep as usize].as_mut() {
                for segment in other.segments.drain(..) {
                    if !segment.is_copy_in(open) {
                        open.add(segment.sighting, segment.range);
                    }
                }
                open.drops.append(&mut other.drops);
            }
            self.recycle(other.segments);
        }
        if let Some(open) = self.slots[keep as usize].as_mut() {
            self.index.remove_bytes(key, open.range, keep);
            open.range = union.union(open.range);
            self.index.insert_bytes(key, open.range, keep);
        }
        self.join(keep, sighting, range);
    }

    /// Whether all sightings of one open packet can belong to another.
    fn is_part_of(&self, slot: u32, keep: u32) -> bool {
        let (Some(part), Some(open)) = (&self.slots[slot as usize], &self.slots[keep as usize]) else {
            return false;
        };
        part.segments.iter().all(|segment| {
            segment.is_copy_in(open) || open.fit(&segment.sighting, segment.range, &self.directory).is_some()
        })
    }

    /// A merged packet stands for several: it is a hop of each, and of the bytes nobody has shown yet.
    fn share(&mut self, chosen: &[u32], sighting: &Sighting, key: u64, range: Range) {
        let mut taken: Vec<Range> = chosen
            .iter()
            .filter_map(|slot| self.slots[*slot as usize].as_ref())
            .map(|open| open.range)
            .collect();
        taken.sort_by_key(|taken| taken.offset_from(range.start));
        for &slot in chosen {
            self.join(slot, sighting.clone(), range);
        }
        for gap in range.gaps(&taken) {
            let slot = self.open_bytes(sighting.clone(), key, gap);
            if let Some(segment) =
                self.slots[slot as usize].as_mut().and_then(|open| open.segments.first_mut())
            {
                segment.range = range;
            }
            self.after_join(slot);
        }
    }

    /// Starts a packet with its first sighting; the caller puts it into the index.
    fn open(&mut self, sighting: Sighting, key: u64, range: Range, by_range: bool) -> u32 {
        while self.live() + self.done.len() >= self.config.max_open.max(1) && self.evict() {}
        let serial = self.next_serial;
        self.next_serial += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        let handle = Handle { slot, serial };
        let mut segments = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(12));
        let sources = Values { first: Endpoint::source(&sighting.packet), second: None };
        let destinations = Values { first: Endpoint::destination(&sighting.packet), second: None };
        segments.push(Segment { sighting, range });
        self.slots[slot as usize] = Some(Open {
            serial,
            key,
            range,
            by_range,
            in_stream: false,
            is_fragmented: false,
            segments,
            sources,
            destinations,
            opened_ns: self.now_ns,
            touched_ns: 0,
            dirty: true,
            settling: false,
            progress: Progress::UnderWay,
            waited: false,
            kin: Vec::new(),
            rivals: Vec::new(),
            doubtful: false,
            undecided: false,
            crowded: false,
            drops: Vec::new(),
        });
        self.note_kin(handle, 0);
        self.by_age.push_back(handle);
        if self.by_age.len() > 2 * self.live() + 1024 {
            let mut by_age = std::mem::take(&mut self.by_age);
            by_age.retain(|handle| self.get(*handle).is_some());
            self.by_age = by_age;
        }
        self.dirty.push(handle);
        slot
    }

    pub(super) fn join(&mut self, slot: u32, sighting: Sighting, range: Range) {
        let Some(open) = self.slots[slot as usize].as_mut() else { return };
        let handle = Handle { slot, serial: open.serial };
        let values = (open.sources.second, open.destinations.second);
        let gso = if open.by_range { None } else { udp_gso_segments(&sighting.packet) };
        if let Some(segments) = gso {
            // The datagrams so far are the first ones cut from this packet.
            for segment in &mut open.segments {
                segment.range = Range { start: 0, length: segment.sighting.packet.payload_length };
            }
            open.by_range = true;
            open.range = Range { start: 0, length: sighting.packet.payload_length };
            self.index.insert_udp(sighting.packet.identification, segments, slot);
        }
        let range = if gso.is_some() { open.range } else { range };
        open.add(sighting, range);
        let last = open.segments.len() - 1;
        let is_translated = (open.sources.second, open.destinations.second) != values;
        if !open.dirty {
            open.dirty = true;
            self.dirty.push(handle);
        }
        if is_translated {
            self.note_kin(handle, last);
        }
        self.after_join(slot);
    }

    pub(super) fn remember_rivals(&mut self, a: u32, b: u32) {
        let (Some(first), Some(second)) = (self.handle_of(a), self.handle_of(b)) else { return };
        for (one, other) in [(first, second), (second, first)] {
            if let Some(open) = self.get_mut(one)
                && !open.rivals.contains(&other)
                && open.rivals.len() < MAX_EQUAL
            {
                open.rivals.push(other);
            }
        }
    }
}

impl<D: Directory> Correlator<D> {
    /// Two packets fit a sighting equally well and the older one got it. Devices keep the order of packets; what lies
    /// between two nodes may not, nor is it certain when one is held up.
    fn remember_tie(&mut self, a: u32, b: u32, sighting: &Sighting) {
        self.remember_rivals(a, b);
        let (Some(first), Some(second)) = (&self.slots[a as usize], &self.slots[b as usize]) else { return };
        let on_the_wire = !first.is_on_node_of(sighting) && !second.is_on_node_of(sighting);
        if on_the_wire || has_stalled(first, second, sighting) || has_stalled(second, first, sighting) {
            self.mark_undecided([a, b]);
        }
    }

    pub(super) fn mark_undecided(&mut self, slots: [u32; 2]) {
        for slot in slots {
            if let Some(open) = self.slots[slot as usize].as_mut() {
                open.undecided = true;
            }
        }
    }

    fn mark_crowded(&mut self, slots: &[u32]) {
        for &slot in slots {
            if let Some(open) = self.slots[slot as usize].as_mut() {
                open.crowded = true;
            }
        }
    }

    /// A crowd lasts until it has passed: records of those that had no room are still to come. `found` holds the others.
    fn join_crowd(&mut self, slot: u32) {
        let is_crowded = |other: &u32| self.slots[*other as usize].as_ref().is_some_and(|open| open.crowded);
        if self.found.iter().any(is_crowded) {
            self.mark_crowded(&[slot]);
        }
    }

    /// A packet that begins while others of the same content are under way may have a record that one of these was given:
    /// streams of several machines run ahead of each other. `found` still holds the others.
    fn note_mistakable(&mut self, slot: u32) {
        let found = std::mem::take(&mut self.found);
        for &other in &found {
            let (Some(open), Some(rival)) = (&self.slots[slot as usize], &self.slots[other as usize]) else {
                continue;
            };
            let Some(first) = open.segments.first().map(|segment| &segment.sighting) else { continue };
            let crosses = rival.is_mistakable()
                || rival.segments.iter().any(|segment| segment.sighting.point.node != first.point.node);
            if other == slot
                || !crosses
                || has_id(&first.packet)
                || !rival.has_ends_of(first, &self.directory)
            {
                continue;
            }
            // One that has arrived before this one was sent, by the same clock, cannot have its records.
            let is_before = |sighting: &Sighting| {
                sighting.point.clock == first.point.clock && sighting.time_ns <= first.time_ns
            };
            // First seen on its way it may have been sent long before.
            let begins_here = Stage::of(&first.point).rank() < 2;
            if !begins_here || !rival.segments.iter().all(|segment| is_before(&segment.sighting)) {
                self.remember_rivals(slot, other);
                self.mark_undecided([slot, other]);
            }
        }
        self.found = found;
    }
}

/// Whether the younger of two equal packets should take a sighting because the older one was left behind.
fn has_stalled(older: &Open, younger: &Open, sighting: &Sighting) -> bool {
    match (older.latest_before(sighting), younger.latest_before(sighting)) {
        (Some(old), Some(young)) => {
            let waited = sighting.time_ns - old;
            waited > STALLED_NS && (sighting.time_ns - young).saturating_mul(16) < waited
        }
        _ => false,
    }
}
