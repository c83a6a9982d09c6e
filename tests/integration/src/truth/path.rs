//! A trajectory's path as text that a test can hold literally, the same for both address families.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Watched;
use crate::told::Trajectory;

impl Watched<'_> {
    /// One line a hop: place, device, direction, addresses by name, TTL, tunnel with VNI and outer addresses by name. A
    /// missing hop that is explained is a line in brackets, in its place.
    #[must_use]
    pub fn path(&self, trajectory: &Trajectory) -> Vec<String> {
        let mut lines = Vec::new();
        for (number, hop) in trajectory.hops.iter().enumerate() {
            let (src, dst) = (self.name(hop.src.ip), self.name(hop.dst.ip));
            let mut line =
                format!("{} {} {} {src} > {dst} ttl {}", hop.place(), hop.device, hop.direction, hop.ttl);
            for outer in &hop.encapsulation {
                let (src, dst) = (self.name(outer.src), self.name(outer.dst));
                line += &format!(" {} {} {src} > {dst}", outer.kind, outer.identifier);
            }
            lines.push(line);
            let missing = trajectory.missing.iter().filter(|missing| missing.after_hop == Some(number));
            lines.extend(missing.map(|missing| format!("({})", missing.point)));
        }
        lines
    }

    /// Compares the paths of all trajectories from `pod` with `there`, and of all others with `back`. Whitespace does
    /// not count. Neighbour discovery between the ends is left out: it has no way beyond its link.
    ///
    /// # Panics
    /// When a path differs.
    #[track_caller]
    pub fn assert_paths(&self, pod: &str, there: &[&str], back: &[&str]) {
        let from = self.lab.pod(pod).ips();
        let mut wrong: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
        for trajectory in self.trajectories.iter().filter(|trajectory| !is_neighbour_discovery(trajectory)) {
            let expected = if from.contains(&trajectory.src.ip) { there } else { back };
            let expected: Vec<_> = expected.iter().map(|line| normal(line)).collect();
            let path = self.path(trajectory);
            if path != expected {
                wrong.entry(path).or_insert(expected);
            }
        }
        let wrong = wrong.iter().map(|(path, expected)| {
            format!("told:\n  {}\nexpected:\n  {}\n", path.join("\n  "), expected.join("\n  "))
        });
        let wrong: Vec<_> = wrong.collect();
        assert!(wrong.is_empty(), "{} other paths\n{}{}", wrong.len(), wrong.concat(), self.in_words());
    }

    /// What was told, as `protocol family direction`, each once and sorted; `there` is from `pod`.
    #[must_use]
    pub fn kinds(&self, pod: &str) -> Vec<String> {
        let from = self.lab.pod(pod).ips();
        let mut kinds: Vec<_> = self
            .trajectories
            .iter()
            .filter(|trajectory| !is_neighbour_discovery(trajectory))
            .map(|told| {
                let family = if told.src.ip.is_ipv6() { "IPv6" } else { "IPv4" };
                let way = if from.contains(&told.src.ip) { "there" } else { "back" };
                format!("{} {family} {way}", told.protocol)
            })
            .collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }

    fn name(&self, ip: IpAddr) -> String {
        let lab = self.lab;
        let pod = lab.pods().iter().find(|pod| pod.ips().contains(&ip)).map(|pod| pod.name().to_owned());
        let service = lab.services().iter().find(|service| service.cluster_ips().contains(&ip));
        let service = service.map(|service| format!("svc/{}", service.name));
        let nodes = lab.nodes();
        let node = nodes.iter().find(|node| ip == node.ipv4() || ip == node.ipv6());
        pod.or(service).or(node.map(|node| node.name().to_owned())).unwrap_or_else(|| ip.to_string())
    }
}

fn normal(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_neighbour_discovery(trajectory: &Trajectory) -> bool {
    trajectory.protocol == "icmpv6"
        && trajectory.icmp.as_ref().is_some_and(|icmp| [135, 136].contains(&icmp.r#type))
}
