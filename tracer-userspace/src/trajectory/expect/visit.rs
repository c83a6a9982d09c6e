//! The way cut into visits, one per node, and what the table asks about each.

use std::sync::Arc;

use crate::trajectory::expect::table::{self, At, When};
use crate::trajectory::expect::topology::{Lookup, Way};
use crate::trajectory::expect::{Facts, Seen, Why};
use crate::trajectory::model::{DeviceRole, Direction, ObservationPoint, Owner, PodRef, PointId};
use crate::trajectory::order::{BRIDGE_DOWN, BRIDGE_UP, NIC_IN, NIC_OUT, Stage, TUNNEL_IN, TUNNEL_OUT};
use crate::trajectory::rewrite::Endpoint;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit<'a> {
    Pod(&'a Arc<PodRef>),
    Host,
    Wire,
    /// To an address that the inventory does not know: it may be outside or on this very node.
    Outside,
    /// Still addressed to a Service or to an address that NAT rewrites.
    Unresolved,
}

/// One node on the way, with the hops seen there (maybe none).
#[derive(Clone, Debug)]
pub(super) struct Visit<'a> {
    pub(super) node: Arc<str>,
    pub(super) hops: std::ops::Range<usize>,
    pub(super) entry: At,
    pub(super) exit: Exit<'a>,
    pub(super) observed: bool,
}

fn node_of(owner: &Owner) -> Option<&Arc<str>> {
    match owner {
        Owner::Pod { node, .. } | Owner::Node(node) => Some(node),
        Owner::Service(_) | Owner::Unknown => None,
    }
}

pub(super) fn plan_visits<'a>(seen: &[Seen<'_>], facts: &Facts<'a>) -> Vec<Visit<'a>> {
    let mut visits: Vec<Visit<'a>> = Vec::with_capacity(3);
    let empty = |node: &Arc<str>, at: usize| Visit {
        node: node.clone(),
        hops: at..at,
        entry: At::FromWire,
        exit: Exit::Wire,
        observed: facts.topology.observes_node(node),
    };
    for (i, hop) in seen.iter().enumerate() {
        let continues = i > 0
            && seen[i - 1].point.node == hop.point.node
            && !(Stage::of(seen[i - 1].point) == NIC_OUT && Stage::of(hop.point) == NIC_IN);
        match visits.last_mut() {
            Some(visit) if continues => visit.hops.end = i + 1,
            _ => visits.push(Visit { hops: i..i + 1, ..empty(&hop.point.node, i) }),
        }
    }

    let destination = resolved_destination(seen, facts);
    if let Some(node) = node_of(facts.source)
        && visits.first().is_some_and(|visit| visit.node != *node)
    {
        visits.insert(0, empty(node, 0));
    }
    if let Some(node) = destination.and_then(node_of) {
        let left = seen.last().is_some_and(|hop| Stage::of(hop.point) == NIC_OUT);
        if left || visits.last().is_some_and(|visit| visit.node != *node) {
            visits.push(empty(node, seen.len()));
        }
    }

    let last = visits.len().saturating_sub(1);
    for (i, visit) in visits.iter_mut().enumerate() {
        if i == 0 {
            visit.entry = match facts.source {
                Owner::Pod { node, .. } if *node == visit.node => At::FromPod,
                Owner::Node(node) if *node == visit.node => At::FromHost,
                _ if seen[visit.hops.clone()]
                    .first()
                    .is_some_and(|hop| matches!(Stage::of(hop.point), NIC_IN | TUNNEL_IN)) =>
                {
                    At::FromWire
                }
                _ => At::FromHost,
            };
        }
        if i == last {
            visit.exit = match destination {
                None => Exit::Unresolved,
                Some(Owner::Pod { pod, node }) if *node == visit.node => Exit::Pod(pod),
                Some(Owner::Node(node)) if *node == visit.node => Exit::Host,
                Some(_) => Exit::Outside,
            };
        }
    }
    visits
}

/// The owner of the place where the packet is to end, or `None` if NAT has yet to say.
fn resolved_destination<'a>(seen: &[Seen<'_>], facts: &Facts<'a>) -> Option<&'a Owner> {
    if matches!(facts.destination, Owner::Service(_)) {
        return None;
    }
    if matches!(facts.destination, Owner::Pod { .. }) {
        return Some(facts.destination);
    }
    let packet = seen.last()?.packet;
    let to = Endpoint::destination(packet);
    let translated =
        to.port.is_some_and(|port| facts.learnt.is_translated(packet.protocol, to.address, port));
    (!translated).then_some(facts.destination)
}

/// What the rows of the table ask about one visit.
pub(super) struct Conditions<'a> {
    source_pod: Option<&'a Arc<PodRef>>,
    target_pod: Option<&'a Arc<PodRef>>,
    source_bridge: Option<u32>,
    target_bridge: Option<u32>,
    source_routed: bool,
    target_routed: bool,
    arrives_encapsulated: bool,
    leaves_encapsulated: bool,
    /// The tunnel device that the packet came out of here, or went into at the node before.
    tunnel_in: Option<Arc<ObservationPoint>>,
    /// The tunnel device that the packet goes into here, or comes out of at the next node.
    tunnel_out: Option<Arc<ObservationPoint>>,
    to_wire: bool,
    way_in: Option<Way>,
    way_out: Option<Way>,
}

impl<'a> Conditions<'a> {
    pub(super) fn of(seen: &[Seen<'_>], facts: &Facts<'a>, visits: &[Visit<'a>], index: usize) -> Self {
        let visit = &visits[index];
        let hops = &seen[visit.hops.clone()];
        let previous = index.checked_sub(1).map(|i| &visits[i]);
        let next = visits.get(index + 1);
        let topology = facts.topology;

        let source_pod = match (visit.entry, facts.source) {
            (At::FromPod, Owner::Pod { pod, .. }) => Some(pod),
            _ => None,
        };
        let target_pod = if let Exit::Pod(pod) = visit.exit { Some(pod) } else { None };
        let source_bridge = source_pod.and_then(|pod| topology.bridge_of(pod));
        let target_bridge = target_pod.and_then(|pod| topology.bridge_of(pod));
        // Between two ports of one bridge nothing but evidence tells routed from bridged. Leaving by the bridge is none:
        // what br_netfilter translates to another port does that until the neighbour is known, and was not routed.
        let at_bridge = |direction| {
            let mut points = hops.iter().map(|hop| hop.point);
            points.any(|point| point.role == DeviceRole::Bridge && point.direction == direction)
        };
        let routed = at_bridge(Direction::Ingress)
            || hops.windows(2).any(|pair| pair[1].packet.ttl < pair[0].packet.ttl);
        let one_bridge = source_bridge.is_some() && source_bridge == target_bridge;
        let unresolved = matches!(visit.exit, Exit::Unresolved | Exit::Outside);

        let way_in = previous.and_then(|from| facts.learnt.way(topology, &from.node, &visit.node));
        let way_out = next.and_then(|to| facts.learnt.way(topology, &visit.node, &to.node));
        let of = |visit: Option<&Visit<'_>>| visit.map_or(&seen[0..0], |visit| &seen[visit.hops.clone()]);
        let arriving = Tunnelled::on(of(previous), NIC_OUT, TUNNEL_OUT).or(hops, NIC_IN, TUNNEL_IN);
        let leaving = Tunnelled::on(of(next), NIC_IN, TUNNEL_IN).or(hops, NIC_OUT, TUNNEL_OUT);
        let learnt = |id: Option<PointId>| id.and_then(|id| topology.get(id)).cloned();
        let tunnel_in = device(hops, TUNNEL_IN)
            .or_else(|| learnt(way_in.and_then(|way| way.tunnel_in)))
            .or_else(|| device(of(previous), TUNNEL_OUT));
        let tunnel_out = device(hops, TUNNEL_OUT)
            .or_else(|| learnt(way_out.and_then(|way| way.tunnel_out)))
            .or_else(|| device(of(next), TUNNEL_IN));
        Self {
            source_pod,
            target_pod,
            source_bridge,
            target_bridge,
            source_routed: source_bridge.is_some() && (routed || !(one_bridge || unresolved)),
            target_routed: target_bridge.is_some() && (routed || !one_bridge || at_bridge(Direction::Egress)),
            arrives_encapsulated: arriving
                .known()
                .unwrap_or_else(|| way_in.is_some_and(|way| way.tunnel_in.is_some())),
            leaves_encapsulated: leaving
                .known()
                .unwrap_or_else(|| way_out.is_some_and(|way| way.tunnel_out.is_some())),
            tunnel_in,
            tunnel_out,
            to_wire: matches!(visit.exit, Exit::Wire),
            way_in,
            way_out,
        }
    }

    pub(super) fn hold(&self, when: When) -> bool {
        match when {
            When::Always => true,
            When::SourceRoutedOverBridge => self.source_routed,
            When::TargetRoutedOverBridge => self.target_pod.is_some() && self.target_routed,
            When::ArrivedEncapsulated => self.arrives_encapsulated,
            When::LeavesEncapsulated => self.to_wire && self.leaves_encapsulated,
            When::ToPod => self.target_pod.is_some(),
            When::ToWire => self.to_wire,
        }
    }

    /// Why a hop here shows nothing of the packet although it passes.
    pub(super) fn opaque(
        &self,
        stage: Stage,
        previous: Option<&Arc<str>>,
        next: Option<&Arc<str>>,
    ) -> Option<Why> {
        let (tunnel, other) = match stage.direction {
            Direction::Ingress => (self.tunnel_in.as_ref()?, previous),
            Direction::Egress => (self.tunnel_out.as_ref()?, next),
        };
        let opaque = table::opaque(&tunnel.kind, stage)?;
        Some(Why::Encrypted { tunnel: tunnel.clone(), opaque, other: other.cloned() })
    }

    /// The device of a missing stage; `None` if no such hook is observed, so that it cannot be missed.
    #[expect(clippy::type_complexity, reason = "private, read in one place")]
    pub(super) fn resolve(
        &self,
        stage: Stage,
        facts: &Facts<'_>,
        visit: &Visit<'_>,
    ) -> Option<(Option<Arc<PodRef>>, Option<Arc<ObservationPoint>>)> {
        let topology = facts.topology;
        if stage.is_single() {
            let pod = if stage.rank() < 2 { self.source_pod } else { self.target_pod }?;
            return topology.of_pod(pod, stage).map(|point| (Some(pod.clone()), Some(point.clone())));
        }
        let learnt = match stage {
            TUNNEL_IN => self.way_in.and_then(|way| way.tunnel_in),
            NIC_IN => self.way_in.and_then(|way| way.nic_in),
            TUNNEL_OUT => self.way_out.and_then(|way| way.tunnel_out),
            NIC_OUT => self.way_out.and_then(|way| way.nic_out),
            _ => None,
        };
        if let Some(point) = learnt.and_then(|id| topology.get(id)) {
            return Some((None, Some(point.clone())));
        }
        let ifindex = match stage {
            BRIDGE_UP => self.source_bridge,
            BRIDGE_DOWN => self.target_bridge,
            _ => None,
        };
        match topology.of_node(&visit.node, stage, ifindex) {
            Lookup::None => None,
            Lookup::One(point) => Some((None, Some(point.clone()))),
            Lookup::Several => Some((None, None)),
        }
    }
}

/// What the hops at one end of a wire say about a tunnel.
#[derive(Clone, Copy, Default)]
struct Tunnelled {
    yes: bool,
    /// A NIC showed the bare packet.
    bare: bool,
}

impl Tunnelled {
    fn on(hops: &[Seen<'_>], nic: Stage, tunnel: Stage) -> Self {
        let mut result = Self::default();
        for hop in hops {
            let stage = Stage::of(hop.point);
            if stage == nic {
                result.yes |= !hop.packet.encapsulation.is_empty();
                result.bare |= hop.packet.encapsulation.is_empty();
            } else if stage == tunnel {
                result.yes = true;
            }
        }
        result
    }

    fn or(self, hops: &[Seen<'_>], nic: Stage, tunnel: Stage) -> Self {
        let other = Self::on(hops, nic, tunnel);
        Self { yes: self.yes || other.yes, bare: self.bare || other.bare }
    }

    fn known(self) -> Option<bool> {
        if self.yes {
            Some(true)
        } else if self.bare {
            Some(false)
        } else {
            None
        }
    }
}

fn device(hops: &[Seen<'_>], stage: Stage) -> Option<Arc<ObservationPoint>> {
    hops.iter().map(|hop| hop.point).find(|point| Stage::of(point) == stage).cloned()
}
