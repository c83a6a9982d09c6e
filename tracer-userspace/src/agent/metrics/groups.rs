//! Whose legs are measured apart: pods or workloads, as many as were asked for and no more, so that the number of series
//! is bounded. Pure.

use std::collections::{HashMap, HashSet};

use clap::ValueEnum;

/// What a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Each pod
    Pod,
    /// The Deployment, StatefulSet, DaemonSet or Job that has made pods; a pod without one by itself
    Workload,
}

impl By {
    /// The label that has its name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Workload => "workload",
        }
    }
}

/// A pod's or a workload's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupName {
    pub namespace: String,
    pub name: String,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Groups {
    pub by: By,
    most: u16,
    /// The first has number 1.
    names: Vec<GroupName>,
    numbers: HashMap<GroupName, u16>,
    refused: HashSet<GroupName>,
    /// By UID of the pod.
    pods: HashMap<String, GroupName>,
}

impl Groups {
    #[must_use]
    pub fn new(by: By, most: u16) -> Self {
        Self {
            by,
            most,
            names: Vec::new(),
            numbers: HashMap::new(),
            refused: HashSet::new(),
            pods: HashMap::new(),
        }
    }

    /// Which pods there are, by UID, and to which group each belongs.
    pub fn learn(&mut self, pods: HashMap<String, GroupName>) {
        self.pods = pods;
    }

    /// The number of a pod's group; 0 where there is none left, or the pod is not known. A group keeps its number, so
    /// that its counts go on when its pods are replaced.
    pub fn of(&mut self, uid: &str) -> u16 {
        let Some(name) = self.pods.get(uid) else { return 0 };
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.names.len() >= usize::from(self.most) {
            self.refused.insert(name.clone());
            return 0;
        }
        self.names.push(name.clone());
        let number = u16::try_from(self.names.len()).unwrap_or(0);
        self.numbers.insert(name.clone(), number);
        number
    }

    #[must_use]
    pub fn name(&self, number: u16) -> Option<&GroupName> {
        self.names.get(usize::from(number).checked_sub(1)?)
    }

    /// Groups for which there was no number.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> GroupName {
        GroupName { namespace: "default".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn a_group_keeps_its_number_and_those_that_are_too_many_are_counted() {
        let mut groups = Groups::new(By::Workload, 2);
        let pods = [("u1", "deploy/web"), ("u2", "deploy/web"), ("u3", "sts/db"), ("u4", "pod/curl")];
        groups.learn(pods.map(|(uid, group)| (uid.to_owned(), name(group))).into());

        assert_eq!(["u1", "u2", "u3", "u4", "u4", "u5"].map(|uid| groups.of(uid)), [1, 1, 2, 0, 0, 0]);
        assert_eq!((groups.name(2), groups.name(0), groups.name(3)), (Some(&name("sts/db")), None, None));
        assert_eq!(groups.refused(), 1);

        groups.learn([("u9".to_owned(), name("deploy/web"))].into());
        assert_eq!(groups.of("u9"), 1);
    }
}
