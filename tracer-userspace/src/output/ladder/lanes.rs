//! The places of a ladder: requester, nodes, responder, each a column.

use std::sync::Arc;

use crate::output::ladder::LEAD;
use crate::trajectory::exchange::{Exchange, Member};
use crate::trajectory::model::{DeviceRole, Direction, Directory, Hop, Owner, Verdict};
use crate::trajectory::rewrite::Endpoint;

/// Columns from the first lane to the last.
const SPAN: usize = 60;
/// Nodes that have a lane of their own.
const MAX_NODES: usize = 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Lanes {
    names: Vec<String>,
    /// Nodes between the ends, in the request's order, and their lanes.
    nodes: Vec<(Arc<str>, usize)>,
}

/// Where an arrow ends that does not reach its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    /// Column from the first lane on.
    pub(super) column: usize,
    pub(super) mark: char,
}

impl Lanes {
    pub(super) fn of(exchange: &Exchange, directory: &(impl Directory + ?Sized)) -> Self {
        let at_ns = exchange.start_ns().unwrap_or_default();
        let owners = [exchange.requester, exchange.responder].map(|end| directory.owner(end.address, at_ns));
        let is_end = |name: &str, owner: &Owner| matches!(owner, Owner::Node(node) if **node == *name);
        let mut names = vec![name(&owners[0], exchange.requester)];
        let mut nodes = Vec::new();
        let on_the_way = nodes_on_the_way(exchange);
        let count = on_the_way.len();
        for (index, node) in on_the_way.into_iter().enumerate() {
            if index == 0 && is_end(&node, &owners[0]) {
                nodes.push((node, 0));
            } else if index + 1 == count && is_end(&node, &owners[1]) {
                nodes.push((node, names.len()));
            } else {
                nodes.push((node.clone(), names.len()));
                names.push(node.to_string());
            }
        }
        names.push(name(&owners[1], exchange.responder));
        Self { names, nodes }
    }

    pub(super) fn count(&self) -> usize {
        self.names.len()
    }

    /// A lane's column from the first lane on.
    pub(super) fn column(&self, lane: usize) -> usize {
        lane * SPAN / (self.count() - 1)
    }

    /// The names over their lanes.
    pub(super) fn header(&self) -> String {
        let gap = SPAN / (self.count() - 1);
        let mut line = String::new();
        for (lane, name) in self.names.iter().enumerate() {
            let short: String = if name.chars().count() > gap.saturating_sub(2) {
                name.chars().take(gap.saturating_sub(4)).chain("..".chars()).collect()
            } else {
                name.clone()
            };
            let width = short.chars().count();
            let start = (LEAD + self.column(lane)).saturating_sub(width / 2).max(line.chars().count() + 1);
            let padding = start.saturating_sub(line.chars().count());
            line.extend(std::iter::repeat_n(' ', padding));
            line += &short;
        }
        line
    }

    /// The end that a packet comes from, and the one that it goes to.
    pub(super) fn ends(&self, member: &Member) -> (usize, usize) {
        let last = self.count() - 1;
        if member.from_requester { (0, last) } else { (last, 0) }
    }

    /// Lanes between the ends that a packet passed with a hop.
    pub(super) fn passed(&self, member: &Member) -> Vec<usize> {
        let mut lanes: Vec<usize> =
            member.trajectory.hops.iter().filter_map(|hop| self.of_node(&hop.point.node)).collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }

    fn of_node(&self, node: &str) -> Option<usize> {
        self.nodes.iter().find(|(name, _)| **name == *node).map(|(_, lane)| *lane)
    }

    /// Where a packet ended that was not delivered.
    pub(super) fn stop(&self, member: &Member) -> Option<Stop> {
        let mark = match &member.trajectory.verdict {
            Verdict::Delivered => return None,
            Verdict::Dropped(_) | Verdict::Lost { .. } => 'x',
            Verdict::Unknown { .. } => '?',
        };
        let (from, to) = self.ends(member);
        let step = |lane: usize| if from < to { (lane + 1).min(to) } else { lane.saturating_sub(1).max(to) };
        if let Verdict::Dropped(dropped) = &member.trajectory.verdict {
            let place = &dropped.sighting.place;
            let in_pod = place.pod.is_some().then_some(if self.has_left(member) { to } else { from });
            let lane = in_pod.or_else(|| self.of_node(&place.node)).unwrap_or(from);
            // An arrow needs some length to be one.
            let column = if lane == from { self.beside(lane, step(lane)) } else { self.column(lane) };
            return Some(Stop { column, mark });
        }
        let Some(last) = member.trajectory.hops.last() else {
            return Some(Stop { column: self.beside(from, step(from)), mark });
        };
        let lane = if last.point.role == DeviceRole::PodInterface {
            if last.point.direction == Direction::Egress { from } else { to }
        } else {
            self.of_node(&last.point.node).unwrap_or(from)
        };
        let next = step(lane);
        let column = if lane == to {
            self.column(to)
        } else if leaves(last) {
            usize::midpoint(self.column(lane), self.column(next))
        } else {
            self.beside(lane, next)
        };
        Some(Stop { column, mark })
    }

    /// Whether a packet was seen on any node.
    fn has_left(&self, member: &Member) -> bool {
        member.trajectory.hops.iter().any(|hop| hop.point.role != DeviceRole::PodInterface)
    }

    /// Just behind a lane, towards the next.
    fn beside(&self, lane: usize, next: usize) -> usize {
        let (here, there) = (self.column(lane), self.column(next));
        if there >= here { here + (there - here).min(4) } else { here - (here - there).min(4) }
    }
}

/// Whether what comes after a hop is at another place.
fn leaves(hop: &Hop) -> bool {
    matches!(
        (hop.point.role, hop.point.direction),
        (DeviceRole::Nic | DeviceRole::PodPeer | DeviceRole::PodInterface, Direction::Egress)
    )
}

fn name(owner: &Owner, end: Endpoint) -> String {
    match owner {
        Owner::Pod { pod, .. } => pod.name.clone(),
        Owner::Service(service) => format!("svc/{}", service.name),
        Owner::Node(node) => format!("{node} (host)"),
        Owner::Unknown => end.address.to_string(),
    }
}

/// Nodes in the order in which requests pass them: the longest way seen, and behind it what others showed.
fn nodes_on_the_way(exchange: &Exchange) -> Vec<Arc<str>> {
    let mut ways: Vec<Vec<Arc<str>>> = exchange.members.iter().map(nodes_of).collect();
    ways.sort_by_key(|way| std::cmp::Reverse(way.len()));
    let mut nodes: Vec<Arc<str>> = Vec::new();
    for node in ways.into_iter().flatten() {
        if nodes.len() < MAX_NODES && !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    nodes
}

/// Nodes of a packet's hops, from the requester on.
fn nodes_of(member: &Member) -> Vec<Arc<str>> {
    let mut nodes: Vec<Arc<str>> = Vec::new();
    for hop in &member.trajectory.hops {
        if !nodes.contains(&hop.point.node) {
            nodes.push(hop.point.node.clone());
        }
    }
    if !member.from_requester {
        nodes.reverse();
    }
    nodes
}
