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
