//! A trajectory's path as text that a test can hold literally, the same for both address families.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Watched;
use crate::told::Trajectory;

/// What one kind of packets goes by, literally.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// The other end as the pod addresses it: a pod's name, or `svc/NAME`.
    pub to: &'a str,
    /// `protocol family`, such as `tcp IPv4`.
    pub kinds: &'a [&'a str],
    pub there: &'a [&'a str],
    pub back: &'a [&'a str],
}

/// Every kind.
pub const ECHO_WEB_AND_DNS: &[&str] =
    &["icmp IPv4", "icmpv6 IPv6", "tcp IPv4", "tcp IPv6", "udp IPv4", "udp IPv6"];

impl Watched<'_> {
    /// One line a hop: place, device, direction, addresses by name, TTL, tunnel with VNI (if it has one) and outer
    /// addresses by name. A
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
                let identifier = match outer.identifier {
                    0 => String::new(),
                    identifier => format!(" {identifier}"),
                };
                line += &format!(" {}{identifier} {src} > {dst}", outer.kind);
            }
            lines.push(line);
            let missing = trajectory.missing.iter().filter(|missing| missing.after_hop == Some(number));
            lines.extend(missing.map(|missing| format!("({})", missing.point)));
        }
        lines
    }

    /// Compares the path of every trajectory with that of its way. Whitespace does not count. Neighbour discovery between
    /// the ends is left out: it has no way beyond its link.
    ///
    /// # Panics
    /// When a path differs, a packet is on none of the ways, or one of a way's kinds was not told in both directions.
    #[track_caller]
    pub fn assert_ways(&self, pod: &str, ways: &[Way<'_>]) {
        let pod = self.lab.pod(pod);
        let mut wrong: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
        let mut told = BTreeSet::new();
        for trajectory in self.trajectories.iter().filter(|trajectory| !is_neighbour_discovery(trajectory)) {
            let is_there = pod.ips().contains(&trajectory.src.ip);
            // As the pod knows the other end: before NAT on the way there, behind it on the way back.
            let other = match (is_there, trajectory.hops.last()) {
                (false, Some(last)) => last.src.ip,
                _ => trajectory.dst.ip,
            };
            let (other, kind) = (self.name(other), kind(trajectory));
            let way = ways.iter().find(|way| way.to == other && way.kinds.contains(&kind.as_str()));
            let expected =
                way.map_or(&["no such way"][..], |way| if is_there { way.there } else { way.back });
            let expected: Vec<_> = expected.iter().map(|line| normal(line)).collect();
            let path = self.path(trajectory);
            if path != expected {
                wrong.entry(path).or_insert(expected);
            }
            told.insert((other, kind, is_there));
        }
        let wrong = wrong.iter().map(|(path, expected)| {
            format!("told:\n  {}\nexpected:\n  {}\n", path.join("\n  "), expected.join("\n  "))
        });
        let wrong: Vec<_> = wrong.collect();
        assert!(wrong.is_empty(), "{} other paths\n{}{}", wrong.len(), wrong.concat(), self.in_words());
        let both = [true, false];
        let expected = ways.iter().flat_map(|way| {
            let of_kind =
                move |kind: &&str| both.map(|is_there| (way.to.to_owned(), (*kind).to_owned(), is_there));
            way.kinds.iter().flat_map(of_kind)
        });
        assert_eq!(told, expected.collect(), "told, as other end, kind and whether from {}", pod.name());
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

fn kind(trajectory: &Trajectory) -> String {
    let family = if trajectory.src.ip.is_ipv6() { "IPv6" } else { "IPv4" };
    format!("{} {family}", trajectory.protocol)
}

fn is_neighbour_discovery(trajectory: &Trajectory) -> bool {
    trajectory.protocol == "icmpv6"
        && trajectory.icmp.as_ref().is_some_and(|icmp| [135, 136].contains(&icmp.r#type))
}
