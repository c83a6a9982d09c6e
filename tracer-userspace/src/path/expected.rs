//! What a way says to a follow: the hooks that packets between two nodes should pass. Pure.

use std::sync::Arc;

use super::ways::{Path, Step};
use crate::trajectory::expect::topology::{PlannedHook, PlannedWay};

/// Both directions, of each node that has told its half.
#[must_use]
pub fn expected(path: &Path) -> Vec<PlannedWay> {
    let (Some(near), Some(far)) = (&path.from.node, &path.to.node) else { return Vec::new() };
    if near == far {
        return Vec::new();
    }
    let way = |from: &str, to: &str, steps: &[Step]| PlannedWay {
        from: from.into(),
        to: to.into(),
        hooks: steps.iter().filter(|step| step.pod.is_none()).map(hook).collect(),
    };
    vec![way(near, far, &path.there), way(far, near, &path.back)]
}

fn hook(step: &Step) -> PlannedHook {
    PlannedHook { node: Arc::from(step.node.as_str()), ifindex: step.ifindex, direction: step.direction }
}
