//! The order of the points on a packet's way. Times of one clock are compared; times of two clocks never are:
//! between clocks the order comes from the path (where the source is, where the destination is, TTL, devices).

use std::cmp::{Ordering, Reverse};

use crate::trajectory::model::{ClockId, DeviceRole, Direction, ObservationPoint};

/// What a point is on the way of a packet: device role and direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stage {
    pub role: DeviceRole,
    pub direction: Direction,
}

const fn stage(role: DeviceRole, direction: Direction) -> Stage {
    Stage { role, direction }
}

/// Leaves the pod, seen inside it.
pub const POD_OUT: Stage = stage(DeviceRole::PodInterface, Direction::Egress);
/// Leaves the pod, seen at the node's end of the veth pair.
pub const PEER_OUT: Stage = stage(DeviceRole::PodPeer, Direction::Ingress);
/// From a bridge port up to the node's IP stack.
pub const BRIDGE_UP: Stage = stage(DeviceRole::Bridge, Direction::Ingress);
/// Into the tunnel.
pub const TUNNEL_OUT: Stage = stage(DeviceRole::Tunnel, Direction::Egress);
/// Leaves the node.
pub const NIC_OUT: Stage = stage(DeviceRole::Nic, Direction::Egress);
/// Arrives at the node.
pub const NIC_IN: Stage = stage(DeviceRole::Nic, Direction::Ingress);
/// Out of the tunnel.
pub const TUNNEL_IN: Stage = stage(DeviceRole::Tunnel, Direction::Ingress);
/// From the node's IP stack down to a bridge port.
pub const BRIDGE_DOWN: Stage = stage(DeviceRole::Bridge, Direction::Egress);
/// Enters the pod, seen at the node's end of the veth pair.
pub const PEER_IN: Stage = stage(DeviceRole::PodPeer, Direction::Egress);
/// Enters the pod, seen inside it.
pub const POD_IN: Stage = stage(DeviceRole::PodInterface, Direction::Ingress);

impl Stage {
    /// The stage of a point.
    #[must_use]
    pub fn of(point: &ObservationPoint) -> Self {
        Self { role: point.role, direction: point.direction }
    }

    /// Place among all points of the whole way: whatever has a lower rank comes first. Points between the two
    /// pods share a rank because a packet may pass several nodes.
    #[must_use]
    pub const fn rank(self) -> u8 {
        match (self.role, self.direction) {
            (DeviceRole::PodInterface, Direction::Egress) => 0,
            (DeviceRole::PodPeer, Direction::Ingress) => 1,
            (DeviceRole::PodPeer, Direction::Egress) => 3,
            (DeviceRole::PodInterface, Direction::Ingress) => 4,
            _ => 2,
        }
    }

    /// Whether a packet passes at most one point of this stage on its whole way.
    #[must_use]
    pub const fn is_single(self) -> bool {
        self.rank() != 2
    }

    /// Order among the points that one node shows of a packet that arrives at it or leaves it; used where two
    /// times are equal.
    const fn tie_break(self) -> u8 {
        match (self.role, self.direction) {
            (DeviceRole::PodInterface, Direction::Egress) => 0,
            (DeviceRole::PodPeer, Direction::Ingress) => 1,
            (DeviceRole::Nic, Direction::Ingress) => 2,
            (DeviceRole::Tunnel, Direction::Ingress) => 3,
            (DeviceRole::Bridge, Direction::Ingress) => 4,
            (DeviceRole::Other, _) => 5,
            (DeviceRole::Bridge, Direction::Egress) => 6,
            (DeviceRole::Tunnel, Direction::Egress) => 7,
            (DeviceRole::Nic, Direction::Egress) => 8,
            (DeviceRole::PodPeer, Direction::Egress) => 9,
            (DeviceRole::PodInterface, Direction::Ingress) => 10,
        }
    }
}

/// What ordering needs to know of a hop.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub point: &'a ObservationPoint,
    /// In the point's clock, nanoseconds.
    pub time_ns: u64,
    /// Inner TTL or hop limit.
    pub ttl: u8,
}

/// The nodes of the packet's two ends, where known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends<'a> {
    pub source: Option<&'a str>,
    pub destination: Option<&'a str>,
}

/// Sorts `items` into the order in which the packet passed them.
pub fn sort<'a, T>(items: &mut [T], ends: Ends<'_>, place: impl Fn(&T) -> Place<'a>) {
    let Some(first) = items.first().map(|item| place(item).point.clock) else { return };
    let one_clock = items.iter().all(|item| place(item).point.clock == first);
    items.sort_by(|a, b| {
        let (a, b) = (place(a), place(b));
        // Of a packet that was cut, the piece that was first at one point may not be the one that was first at the next.
        let by_rank = || Stage::of(a.point).rank().cmp(&Stage::of(b.point).rank());
        a.point.clock.cmp(&b.point.clock).then_with(by_rank).then_with(|| on_one_clock(&a, &b))
    });
    if one_clock {
        return;
    }

    // Visit number of each item, visits numbered in their final order.
    let visits = split(items, &place);
    let mut order: Vec<usize> = (0..visits.len()).collect();
    // Numbers of clocks mean nothing: where the path does not tell, the nodes' names do, so that it is the same each time.
    let node = |visit: usize| &place(&items[visits[visit].start]).point.node;
    order.sort_by(|&a, &b| {
        let key = |visit: usize| visits[visit].key(ends, items, &place);
        key(a).cmp(&key(b)).then_with(|| node(a).cmp(node(b)))
    });
    keep_time_order_within_clocks(&mut order, &visits);
    let mut position = vec![0usize; items.len()];
    let mut next = 0;
    for &visit in &order {
        for slot in &mut position[visits[visit].start..visits[visit].end] {
            *slot = next;
            next += 1;
        }
    }
    permute(items, position);
}

/// Whether the packet surely passed `a` before `b`.
#[must_use]
pub fn is_upstream(a: Place<'_>, b: Place<'_>, ends: Ends<'_>) -> bool {
    if a.point.clock == b.point.clock {
        return on_one_clock(&a, &b) == Ordering::Less;
    }
    let (ra, rb) = (Stage::of(a.point).rank(), Stage::of(b.point).rank());
    if ra != rb {
        return ra < rb;
    }
    let at = |node: &str, end: Option<&str>| end == Some(node);
    if at(&a.point.node, ends.source) != at(&b.point.node, ends.source) {
        return at(&a.point.node, ends.source);
    }
    if at(&a.point.node, ends.destination) != at(&b.point.node, ends.destination) {
        return at(&b.point.node, ends.destination);
    }
    a.ttl > b.ttl
}

fn on_one_clock(a: &Place<'_>, b: &Place<'_>) -> Ordering {
    a.time_ns
        .cmp(&b.time_ns)
        .then_with(|| b.ttl.cmp(&a.ttl))
        .then_with(|| Stage::of(a.point).tie_break().cmp(&Stage::of(b.point).tie_break()))
}

/// A run of hops on one clock between arriving at a node and leaving it.
struct Visit {
    start: usize,
    end: usize,
    clock: ClockId,
}

impl Visit {
    /// Source side first, destination side last, in between by falling TTL.
    fn key<'a, T>(&self, ends: Ends<'_>, items: &[T], place: &impl Fn(&T) -> Place<'a>) -> (u8, Reverse<u8>) {
        let hops = || items[self.start..self.end].iter().map(place);
        let mut class = 1;
        if hops().any(|hop| Stage::of(hop.point).rank() < 2) {
            class = 0;
        } else if hops().any(|hop| Stage::of(hop.point).rank() > 2) {
            class = 2;
        } else if let (Some(first), Some(last)) = (hops().next(), hops().last()) {
            let arrives = matches!(Stage::of(first.point), NIC_IN | TUNNEL_IN);
            let leaves = matches!(Stage::of(last.point), NIC_OUT | TUNNEL_OUT);
            if ends.source == Some(&*first.point.node) && !arrives {
                class = 0;
            } else if ends.destination == Some(&*last.point.node) && !leaves {
                class = 2;
            }
        }
        (class, Reverse(hops().map(|hop| hop.ttl).max().unwrap_or(0)))
    }
}

fn split<'a, T>(items: &[T], place: &impl Fn(&T) -> Place<'a>) -> Vec<Visit> {
    let mut visits: Vec<Visit> = Vec::with_capacity(4);
    for (i, item) in items.iter().enumerate() {
        let here = place(item);
        let continues = i > 0 && {
            let before = place(&items[i - 1]);
            before.point.clock == here.point.clock
                && before.point.node == here.point.node
                && !(Stage::of(before.point) == NIC_OUT && Stage::of(here.point) == NIC_IN)
        };
        match visits.last_mut() {
            Some(visit) if continues => visit.end = i + 1,
            _ => visits.push(Visit { start: i, end: i + 1, clock: here.point.clock }),
        }
    }
    visits
}

/// Visits on one clock were found in time order, which is stronger evidence than any guess about the path.
fn keep_time_order_within_clocks(order: &mut [usize], visits: &[Visit]) {
    for i in 0..order.len() {
        for j in i + 1..order.len() {
            if visits[order[i]].clock == visits[order[j]].clock && order[i] > order[j] {
                order.swap(i, j);
            }
        }
    }
}

/// Moves `items[i]` to `position[i]`.
fn permute<T>(items: &mut [T], mut position: Vec<usize>) {
    for i in 0..items.len() {
        while position[i] != i {
            let target = position[i];
            items.swap(i, target);
            position.swap(i, target);
        }
    }
}
