//! Drops by place and reason, for metrics. What the kernel counts by namespace and device is told by node and role: the
//! namespace is looked up when it is counted, so that a pod's drops stay told when the pod is gone. Pure.

use std::collections::{BTreeMap, HashMap};

use tracer_common::measure::DroppedAt;

use super::source::DropState;
use crate::trajectory::model::DeviceRole;

/// What was told so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// As last read.
    seen: HashMap<DroppedAt, u64>,
    sums: BTreeMap<(String, Option<DeviceRole>, String), u64>,
}

/// Where a count belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `None`: the namespace is nobody's.
    pub node: Option<String>,
    pub role: Option<DeviceRole>,
    pub reason: String,
}

impl Tally {
    /// Takes in the kernel's counts; gives those that do not grow any more, as their namespace is gone: the kernel may
    /// forget them.
    pub fn take(
        &mut self,
        counts: &[(DroppedAt, u64)],
        place: impl Fn(&DroppedAt) -> Place,
    ) -> Vec<DroppedAt> {
        let mut gone = Vec::new();
        for (at, count) in counts {
            let before = self.seen.insert(*at, *count).unwrap_or(0);
            let Place { node, role, reason } = place(at);
            // One that falls was forgotten and has begun anew.
            let more = count.checked_sub(before).unwrap_or(*count);
            if node.is_none() && more == 0 && before > 0 {
                self.seen.remove(at);
                gone.push(*at);
            }
            if more > 0 {
                *self.sums.entry((node.unwrap_or_default(), role, reason)).or_default() += more;
            }
        }
        gone
    }

    /// All that was ever counted.
    #[must_use]
    pub fn states(&self) -> Vec<DropState> {
        let state = |((node, role, reason), count): (&(String, Option<DeviceRole>, String), &u64)| {
            DropState { node: node.clone(), role: *role, reason: reason.clone(), count: *count }
        };
        self.sums.iter().map(state).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: DroppedAt = DroppedAt { netns: 7, ifindex: 2, reason: 5 };

    fn known(_: &DroppedAt) -> Place {
        Place {
            node: Some("node-1".to_owned()),
            role: Some(DeviceRole::PodPeer),
            reason: "NETFILTER_DROP".to_owned(),
        }
    }

    fn unknown(_: &DroppedAt) -> Place {
        Place { node: None, role: None, reason: "NETFILTER_DROP".to_owned() }
    }

    #[test]
    fn what_was_counted_stays_with_whose_namespace_it_was_and_grows_only() {
        let mut tally = Tally::default();
        assert!(tally.take(&[(AT, 3)], known).is_empty());
        assert!(tally.take(&[(AT, 5)], known).is_empty());
        // The pod has gone; its last drops came before its namespace was forgotten.
        assert!(tally.take(&[(AT, 6)], unknown).is_empty());
        assert_eq!(tally.take(&[(AT, 6)], unknown), [AT]);
        // Another namespace of that number.
        assert!(tally.take(&[(AT, 1)], known).is_empty());

        let counts: Vec<_> = tally.states().into_iter().map(|state| (state.node, state.count)).collect();
        assert_eq!(counts, [(String::new(), 1), ("node-1".to_owned(), 6)]);
    }
}
