//! Which packets a node's hooks and taps saw, by content and order.

use std::collections::HashMap;

use super::Carried;
use crate::content::{Bytes, Content, Kind};

/// How much earlier than its source something may have been seen: clocks are read at slightly different places.
const SLACK_NS: u64 = 2_000_000;

/// One packet, seen somewhere.
#[derive(Clone, Debug)]
pub(super) struct Glimpse {
    pub(super) place: String,
    pub(super) time_ns: u64,
    pub(super) content: Content,
}

/// Where packets on a node come from: a pod of the node's, or the wire.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) time_ns: u64,
    pub(super) content: Content,
    pub(super) carried: Carried,
}

/// All sources of a node.
#[derive(Debug, Default)]
pub(super) struct Sources {
    by_kind: HashMap<Kind, Vec<Source>>,
}

impl Sources {
    pub(super) fn add(&mut self, source: Source) {
        self.by_kind.entry(source.content.kind.clone()).or_default().push(source);
    }

    /// Brings them into the order of time, which [`Sources::label`] needs.
    pub(super) fn sort(&mut self) {
        self.by_kind.values_mut().for_each(|sources| sources.sort_by_key(|source| source.time_ns));
    }

    /// For each glimpse at one point what it carried.
    pub(super) fn label(&self, glimpses: &[&Glimpse]) -> Vec<Vec<Carried>> {
        let mut labels = vec![Vec::new(); glimpses.len()];
        let mut by_kind: HashMap<&Kind, Vec<usize>> = HashMap::new();
        for (number, glimpse) in glimpses.iter().enumerate() {
            by_kind.entry(&glimpse.content.kind).or_default().push(number);
        }
        for (kind, mut numbers) in by_kind {
            let Some(sources) = self.by_kind.get(kind) else { continue };
            numbers.sort_by_key(|number| glimpses[*number].time_ns);
            if sources[0].content.bytes.is_some() {
                let mut used = vec![Vec::new(); sources.len()];
                for number in numbers {
                    labels[number] = take_bytes(sources, &mut used, glimpses[number]);
                }
            } else {
                label_whole(sources, &numbers, glimpses, &mut labels);
            }
        }
        labels
    }
}

/// Packets of equal content keep their order. Where some did not come to this point, nobody can say which: then each may be
/// any that was there before it.
fn label_whole(sources: &[Source], numbers: &[usize], glimpses: &[&Glimpse], labels: &mut [Vec<Carried>]) {
    if sources.len() == numbers.len() {
        for (number, source) in numbers.iter().zip(sources) {
            labels[*number] = vec![source.carried];
        }
        return;
    }
    for &number in numbers {
        let earlier = sources.iter().filter(|source| source.time_ns <= glimpses[number].time_ns + SLACK_NS);
        labels[number] = earlier.map(|source| source.carried).collect();
    }
}

/// The oldest sources that have the glimpse's bytes and have not shown them at this point yet.
fn take_bytes(sources: &[Source], used: &mut [Vec<Bytes>], glimpse: &Glimpse) -> Vec<Carried> {
    let Some(wanted) = glimpse.content.bytes else { return Vec::new() };
    let mut carried = Vec::new();
    let mut taken: Vec<Bytes> = Vec::new();
    for (source, used) in sources.iter().zip(used) {
        let Some(bytes) = source.content.bytes else { continue };
        let is_part = wanted.contains(bytes) || bytes.contains(wanted);
        if !is_part
            || source.time_ns > glimpse.time_ns + SLACK_NS
            || !has_counted_up(&source.content, &glimpse.content)
        {
            continue;
        }
        let common = if bytes.contains(wanted) { wanted } else { bytes };
        let is_used = |others: &[Bytes]| others.iter().any(|other| other.common(common) > 0);
        if is_used(used) || is_used(&taken) {
            continue;
        }
        used.push(common);
        taken.push(common);
        carried.push(source.carried);
        if wanted.is_covered_by(&taken) {
            break;
        }
    }
    carried
}

/// Whether identifications fit: the pieces of a packet are numbered from its own on, and all but the last are equally long.
fn has_counted_up(a: &Content, b: &Content) -> bool {
    let (Some(first), Some(second)) = (a.identification, b.identification) else { return true };
    let (Some(bytes), Some(others)) = (a.bytes, b.bytes) else { return first == second };
    let pieces = i64::from((second as u16).wrapping_sub(first as u16).cast_signed());
    let offset = i64::from(others.start.wrapping_sub(bytes.start).cast_signed());
    match (pieces, offset) {
        (0, 0) => true,
        (0, _) | (_, 0) => false,
        _ => {
            pieces.signum() == offset.signum()
                && offset % pieces == 0
                && (300..=9000).contains(&(offset / pieces))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::tests::{data, datagram};

    fn sources(of: Vec<(u64, Content)>) -> Sources {
        let mut sources = Sources::default();
        for (number, (time_ns, content)) in (0..).zip(of) {
            let carried = Carried { emission: number, copy: 0 };
            sources.add(Source { time_ns, content, carried });
        }
        sources.sort();
        sources
    }

    fn label(sources: &Sources, glimpses: Vec<(u64, Content)>) -> Vec<Vec<u32>> {
        let glimpses: Vec<_> = glimpses
            .into_iter()
            .map(|(time_ns, content)| Glimpse { place: String::new(), time_ns, content })
            .collect();
        let labels = sources.label(&glimpses.iter().collect::<Vec<_>>());
        labels.iter().map(|carried| carried.iter().map(|carried| carried.emission).collect()).collect()
    }

    #[test]
    fn equal_packets_keep_their_order() {
        let sources = sources(vec![(10, datagram(None)), (20, datagram(None))]);
        assert_eq!(label(&sources, vec![(40, datagram(None)), (30, datagram(None))]), [[1], [0]]);
    }

    #[test]
    fn where_one_of_two_equal_packets_is_missing_it_may_be_either() {
        let sources = sources(vec![(10, datagram(None)), (20, datagram(None))]);
        assert_eq!(label(&sources, vec![(30, datagram(None))]), [[0, 1]]);
    }

    #[test]
    fn an_identification_tells_equal_packets_apart() {
        let sources = sources(vec![(10, datagram(Some(1))), (20, datagram(Some(2)))]);
        assert_eq!(label(&sources, vec![(30, datagram(Some(2)))]), [[1]]);
    }

    #[test]
    fn pieces_are_of_the_packet_that_was_cut_and_a_merged_one_of_all() {
        let whole = data(Some(7), 1000, 3000);
        let pieces = [(7, 1000), (8, 2000), (9, 3000)].map(|(id, start)| data(Some(id), start, 1000));
        let cut = sources(vec![(10, whole.clone())]);
        let seen = pieces.iter().map(|piece| (20, piece.clone())).collect();
        assert_eq!(label(&cut, seen), [[0], [0], [0]]);
        let merged = sources(pieces.into_iter().map(|piece| (10, piece)).collect());
        assert_eq!(label(&merged, vec![(20, whole)]), [[0, 1, 2]]);
    }

    #[test]
    fn a_retransmission_within_a_millisecond_has_another_identification() {
        let sources = sources(vec![(10, data(Some(7), 1000, 500)), (20, data(Some(40), 1000, 500))]);
        assert_eq!(label(&sources, vec![(30, data(Some(40), 1000, 500))]), [[1]]);
    }

    #[test]
    fn without_identifications_bytes_that_come_twice_are_the_first_and_then_the_second() {
        let sources = sources(vec![(10, data(None, 1000, 500)), (20, data(None, 1000, 500))]);
        let seen = vec![(30, data(None, 1000, 500)), (40, data(None, 1000, 500))];
        assert_eq!(label(&sources, seen), [[0], [1]]);
    }
}
