//! What can be observed and what the run has taught about paths: input of the expectation, bounded memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::trajectory::hash::FastState;
use crate::trajectory::model::{DeviceRole, Direction, ObservationPoint, PodRef, PointId};
use crate::trajectory::order::{NIC_IN, NIC_OUT, Stage, TUNNEL_IN, TUNNEL_OUT};
use crate::trajectory::recent::Recent;
use crate::trajectory::rewrite::Endpoint;

/// Most node pairs, skips and rewritten endpoints that are remembered, each.
const MAX_LEARNT: usize = 16_384;

/// All observation points that are attached.
#[derive(Debug, Default)]
pub struct Topology {
    /// Indexed by [`PointId`].
    points: Vec<Option<Known>>,
    nodes: HashMap<Arc<str>, Vec<PointId>, FastState>,
    pods: HashMap<String, HashMap<String, Vec<PointId>, FastState>, FastState>,
    /// Points attached on each node, its pods' included.
    attached: HashMap<Arc<str>, usize, FastState>,
}

#[derive(Debug)]
struct Known {
    point: Arc<ObservationPoint>,
    /// In the point's clock: nothing was recorded before.
    since_ns: u64,
}

/// A stage looked up on a node.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// No such hook is observed.
    None,
    One(&'a Arc<ObservationPoint>),
    /// Several devices could be it.
    Several,
}

impl Topology {
    /// Adds a point; `since_ns` is when it was attached, in the point's clock.
    pub fn add(&mut self, point: Arc<ObservationPoint>, since_ns: u64) {
        let index = point.id.0 as usize;
        if self.points.len() <= index {
            self.points.resize_with(index + 1, || None);
        }
        if self.points[index].is_some() {
            self.remove(point.id);
        }
        if let Some(pod) = &point.pod {
            let names = self.pods.entry(pod.namespace.clone()).or_default();
            names.entry(pod.name.clone()).or_default().push(point.id);
        } else {
            self.nodes.entry(point.node.clone()).or_default().push(point.id);
        }
        *self.attached.entry(point.node.clone()).or_default() += 1;
        self.points[index] = Some(Known { point, since_ns });
    }

    /// Forgets a point whose device went away.
    pub fn remove(&mut self, id: PointId) {
        let Some(known) = self.points.get_mut(id.0 as usize).and_then(Option::take) else { return };
        if let Some(count) = self.attached.get_mut(&known.point.node) {
            *count -= 1;
        }
        if let Some(pod) = &known.point.pod {
            if let Some(ids) = self.pods.get_mut(&pod.namespace).and_then(|names| names.get_mut(&pod.name)) {
                ids.retain(|other| *other != id);
                if ids.is_empty()
                    && let Some(names) = self.pods.get_mut(&pod.namespace)
                {
                    names.remove(&pod.name);
                }
            }
        } else if let Some(ids) = self.nodes.get_mut(&known.point.node) {
            ids.retain(|other| *other != id);
        }
    }

    /// Whether a point is known; a sighting of an unknown one registers it.
    #[must_use]
    pub fn contains(&self, id: PointId) -> bool {
        self.points.get(id.0 as usize).is_some_and(Option::is_some)
    }

    /// When the point was attached, in its clock.
    #[must_use]
    pub fn since(&self, id: PointId) -> Option<u64> {
        self.points.get(id.0 as usize)?.as_ref().map(|known| known.since_ns)
    }

    /// Whether anything on the node is observed.
    #[must_use]
    pub fn observes_node(&self, node: &str) -> bool {
        self.attached.get(node).is_some_and(|count| *count > 0)
    }

    /// The pod's own device or its peer, in one direction.
    #[must_use]
    pub fn of_pod(&self, pod: &PodRef, stage: Stage) -> Option<&Arc<ObservationPoint>> {
        let ids = self.pods.get(&pod.namespace)?.get(&pod.name)?;
        ids.iter()
            .filter_map(|id| self.get(*id))
            .find(|point| Stage::of(point) == stage && same_pod(point.pod.as_deref(), pod))
    }

    /// The bridge that the pod's peer is a port of.
    #[must_use]
    pub fn bridge_of(&self, pod: &PodRef) -> Option<u32> {
        let ids = self.pods.get(&pod.namespace)?.get(&pod.name)?;
        ids.iter()
            .filter_map(|id| self.get(*id))
            .find(|point| point.role == DeviceRole::PodPeer && same_pod(point.pod.as_deref(), pod))?
            .bridge
    }

    /// The node's device for a stage; `ifindex` narrows it to one (a bridge).
    #[must_use]
    pub fn of_node(&self, node: &str, stage: Stage, ifindex: Option<u32>) -> Lookup<'_> {
        let Some(ids) = self.nodes.get(node) else { return Lookup::None };
        let mut found = Lookup::None;
        for point in ids.iter().filter_map(|id| self.get(*id)) {
            if Stage::of(point) == stage && ifindex.is_none_or(|wanted| wanted == point.ifindex) {
                found = match found {
                    Lookup::None => Lookup::One(point),
                    _ => return Lookup::Several,
                };
            }
        }
        found
    }

    /// The node's device with this number, in one direction.
    fn device(&self, hook: &PlannedHook) -> Option<&Arc<ObservationPoint>> {
        let mut points = self.nodes.get(&hook.node)?.iter().filter_map(|id| self.get(*id));
        points.find(|point| point.ifindex == hook.ifindex && point.direction == hook.direction)
    }

    /// Whether the node has observed devices whose place on a path is not fixed.
    #[must_use]
    pub fn has_other(&self, node: &str) -> bool {
        self.nodes
            .get(node)
            .is_some_and(|ids| ids.iter().filter_map(|id| self.get(*id)).any(|p| p.role == DeviceRole::Other))
    }

    /// A point by id.
    #[must_use]
    pub fn get(&self, id: PointId) -> Option<&Arc<ObservationPoint>> {
        self.points.get(id.0 as usize)?.as_ref().map(|known| &known.point)
    }
}

fn same_pod(a: Option<&PodRef>, b: &PodRef) -> bool {
    a.is_some_and(|a| a.is_same(b))
}

/// The hooks that packets from one node to another should pass, of the nodes' own devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedWay {
    pub from: Arc<str>,
    pub to: Arc<str>,
    pub hooks: Vec<PlannedHook>,
}

/// A hook of a node's own device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedHook {
    pub node: Arc<str>,
    pub ifindex: u32,
    pub direction: Direction,
}

/// What complete trajectories of the same run have shown, and before there are any, what the nodes' own state says.
#[derive(Debug)]
pub struct Learnt {
    /// From node to node: the devices between the two pods' peers.
    pairs: Recent<(Arc<str>, Arc<str>), Way>,
    /// The same as routes and maps have it. Devices are looked up when asked for: they come and go.
    planned: Recent<(Arc<str>, Arc<str>), Vec<PlannedHook>>,
    /// (hop before, hook that is passed by).
    skips: Recent<(PointId, PointId), ()>,
    /// Addresses and ports of which NAT rewrites a packet's destination: it does not end there.
    translated: Recent<(u8, IpAddr, u16), ()>,
    /// What NAT makes of the destination in one flow: connection tracking keeps it for the flow's life.
    flows: Recent<FlowKey, Endpoint>,
}

/// Protocol, source and destination as they are before the rewrite.
type FlowKey = (u8, Endpoint, Endpoint);

impl Default for Learnt {
    fn default() -> Self {
        Self {
            pairs: Recent::new(MAX_LEARNT),
            planned: Recent::new(MAX_LEARNT),
            skips: Recent::new(MAX_LEARNT),
            translated: Recent::new(MAX_LEARNT),
            flows: Recent::new(MAX_LEARNT),
        }
    }
}

/// The devices that packets from one node to another take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    pub tunnel_out: Option<PointId>,
    pub nic_out: Option<PointId>,
    pub nic_in: Option<PointId>,
    pub tunnel_in: Option<PointId>,
}

impl Way {
    /// Of the hooks those that are observed.
    fn along(topology: &Topology, hooks: &[PlannedHook]) -> Self {
        let mut way = Self::default();
        for point in hooks.iter().filter_map(|hook| topology.device(hook)) {
            way.set(point);
        }
        way
    }

    /// Takes in a device of the way; others are not part of it.
    pub fn set(&mut self, point: &ObservationPoint) {
        match Stage::of(point) {
            TUNNEL_OUT => self.tunnel_out = Some(point.id),
            NIC_OUT => self.nic_out = Some(point.id),
            NIC_IN => self.nic_in = Some(point.id),
            TUNNEL_IN => self.tunnel_in = Some(point.id),
            _ => {}
        }
    }
}

impl Learnt {
    /// The devices used between two nodes: as a packet showed them, else as planned.
    #[must_use]
    pub fn way(&self, topology: &Topology, from: &Arc<str>, to: &Arc<str>) -> Option<Way> {
        if self.pairs.is_empty() && self.planned.is_empty() {
            return None;
        }
        let key = (from.clone(), to.clone());
        self.pairs.get(&key).copied().or_else(|| Some(Way::along(topology, self.planned.get(&key)?)))
    }

    /// Remembers the devices used between two nodes.
    pub fn learn_way(&mut self, from: &Arc<str>, to: &Arc<str>, way: Way) {
        let key = (from.clone(), to.clone());
        if self.pairs.get(&key) != Some(&way) {
            self.pairs.insert(key, way);
        }
    }

    /// Takes in which devices packets between two nodes should pass, until a packet has shown it.
    pub fn plan(&mut self, way: PlannedWay) {
        self.planned.insert((way.from, way.to), way.hooks);
    }

    /// Whether packets are known to pass by `missing` after `before`.
    #[must_use]
    pub fn skips(&self, before: PointId, missing: PointId) -> bool {
        self.skips.get(&(before, missing)).is_some()
    }

    /// Remembers that a hook is passed by.
    pub fn learn_skip(&mut self, before: PointId, missing: PointId) {
        if !self.skips(before, missing) {
            self.skips.insert((before, missing), ());
        }
    }

    /// Where NAT sends this flow.
    #[must_use]
    pub fn destination(&self, protocol: u8, source: Endpoint, destination: Endpoint) -> Option<Endpoint> {
        if self.flows.is_empty() {
            return None;
        }
        self.flows.get(&(protocol, source, destination)).copied()
    }

    /// Remembers where NAT sends a flow.
    pub fn learn_destination(&mut self, protocol: u8, source: Endpoint, destination: Endpoint, to: Endpoint) {
        *self.flows.entry((protocol, source, destination), || to) = to;
    }

    /// Whether packets to this address and port are sent on by NAT.
    #[must_use]
    pub fn is_translated(&self, protocol: u8, address: IpAddr, port: u16) -> bool {
        self.translated.get(&(protocol, address, port)).is_some()
    }

    /// Remembers that NAT sends on what goes to this address and port.
    pub fn learn_translation(&mut self, protocol: u8, address: IpAddr, port: u16) {
        self.translated.entry((protocol, address, port), || ());
    }
}
