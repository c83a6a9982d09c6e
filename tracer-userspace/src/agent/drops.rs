//! From a drop record to a sighting of a drop: where it was, and by which of the kernel's functions.
//!
//! The record has the inode number of a network namespace. Which node or pod that is, the look over the machine has
//! found. Any namespace that is none of these belongs to the machine's node where the machine is one node and that node
//! is the machine itself, even if it is a pod's that has just started. On a machine with several nodes nobody can say
//! whose it is: the drop waits for the next look over the machine, and is counted only if that does not know it either.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tracer_common::measure::DroppedAt;
use tracer_common::record::DropRecord;

use super::decode;
use super::metrics::drops::Place;
use super::symbols::Symbols;
use crate::host::drop_reasons::DropReasons;
use crate::host::links::Link;
use crate::host::netns::NetnsId;
use crate::host::survey::Survey;
use crate::trajectory::model::{ClockId, DeviceRole, DropPlace, DropSighting, PodRef};

/// How long a namespace that is gone is remembered, nanoseconds: its last records may still come. Not longer, for the
/// kernel gives its number to the next one.
const REMEMBERED_NS: u64 = 5_000_000_000;

/// How long a drop waits for a look over the machine that knows its namespace, nanoseconds: such a look comes soon
/// after a pod's devices.
const WAIT_NS: u64 = 2_000_000_000;

/// Most drops that wait so.
const MOST_WAITING: usize = 1024;

/// Most places that are kept with their functions' names.
const MOST_PLACES: usize = 4096;

/// Whose the namespaces of this machine are. Pure: time is an argument.
#[derive(Debug, Default)]
pub struct Spaces {
    /// By inode number.
    spaces: HashMap<u64, Space>,
    /// The node that this machine is, if it is one and no other's namespaces are here.
    machine: Option<Arc<str>>,
}

#[derive(Debug)]
struct Space {
    node: Arc<str>,
    pod: Option<Arc<PodRef>>,
    /// By ifindex.
    devices: HashMap<u32, Arc<str>>,
    seen_ns: u64,
}

impl Spaces {
    /// Takes in what a look over the machine has found. `own` is the namespace of the machine itself.
    pub fn learn(&mut self, survey: &Survey, own: Option<NetnsId>, now_ns: u64) {
        let named = |link: &Link| (link.ifindex, Arc::clone(&link.name));
        self.spaces.retain(|_, space| space.seen_ns.saturating_add(REMEMBERED_NS) >= now_ns);
        for pod in survey.pods.iter().filter(|pod| !pod.host_network) {
            let space = Space {
                node: Arc::clone(&pod.node),
                pod: Some(Arc::clone(&pod.pod)),
                devices: pod.interface.iter().map(named).collect(),
                seen_ns: now_ns,
            };
            self.spaces.insert(pod.netns.id().inode, space);
        }
        for node in &survey.nodes {
            let space = Space {
                node: Arc::clone(&node.name),
                pod: None,
                devices: node.snapshot.links.iter().map(named).collect(),
                seen_ns: now_ns,
            };
            self.spaces.insert(node.netns.id().inode, space);
        }
        self.machine = match survey.nodes.as_slice() {
            [node] if Some(node.netns.id()) == own => Some(Arc::clone(&node.name)),
            _ => None,
        };
    }

    /// The place of a drop, without its function; `None` if nobody can say whose namespace it was.
    fn place(&self, netns: u32, ifindex: u32) -> Option<DropPlace> {
        match self.spaces.get(&u64::from(netns)) {
            Some(space) => Some(DropPlace {
                node: Arc::clone(&space.node),
                pod: space.pod.clone(),
                device: space.devices.get(&ifindex).cloned(),
                function: None,
            }),
            None => Some(DropPlace {
                node: Arc::clone(self.machine.as_ref()?),
                pod: None,
                device: None,
                function: None,
            }),
        }
    }
}

/// Says where drops were. The kernel's functions are read when the first one is asked for.
pub struct Drops {
    reasons: DropReasons,
    spaces: Spaces,
    symbols: Option<Symbols>,
    /// By namespace, device and code. Forgotten with every look over the machine.
    places: HashMap<(u32, u32, u64), Arc<DropPlace>>,
    /// In namespaces that are nobody's yet.
    waiting: VecDeque<DropRecord>,
    elsewhere: u64,
}

impl Drops {
    #[must_use]
    pub fn new(reasons: DropReasons) -> Self {
        Self {
            reasons,
            spaces: Spaces::default(),
            symbols: None,
            places: HashMap::new(),
            waiting: VecDeque::new(),
            elsewhere: 0,
        }
    }

    /// See [`Spaces::learn`]; gives the drops that have waited for it.
    pub fn learn(&mut self, survey: &Survey, own: Option<NetnsId>, now_ns: u64) -> Vec<DropSighting> {
        self.spaces.learn(survey, own, now_ns);
        self.places.clear();
        let mut known = Vec::new();
        for record in std::mem::take(&mut self.waiting) {
            match self.sighting(&record) {
                Some(sighting) => known.push(sighting),
                None if record.packet.time_ns.saturating_add(WAIT_NS) > now_ns => {
                    self.waiting.push_back(record)
                }
                None => self.elsewhere += 1,
            }
        }
        known
    }

    /// Where a count of drops belongs; the device's role is for who knows the points.
    #[must_use]
    pub fn place_of(&self, at: &DroppedAt, role: impl Fn(&DropPlace) -> Option<DeviceRole>) -> Place {
        let place = self.spaces.place(at.netns, at.ifindex);
        Place {
            node: place.as_ref().map(|place| place.node.to_string()),
            role: place.as_ref().and_then(role),
            reason: self.reasons.name(at.reason).to_string(),
        }
    }

    /// Drops in namespaces of which nobody can say whose they are; those that still wait among them.
    #[must_use]
    pub fn elsewhere(&self) -> u64 {
        self.elsewhere + self.waiting.len() as u64
    }

    /// The sighting that a record reports; `None` if its namespace is nobody's yet.
    pub fn attribute(&mut self, record: &DropRecord) -> Option<DropSighting> {
        let sighting = self.sighting(record);
        if sighting.is_none() {
            if self.waiting.len() >= MOST_WAITING {
                self.waiting.pop_front();
                self.elsewhere += 1;
            }
            self.waiting.push_back(*record);
        }
        sighting
    }

    fn sighting(&mut self, record: &DropRecord) -> Option<DropSighting> {
        Some(DropSighting {
            place: self.place(record)?,
            // One machine, one clock.
            clock: ClockId(0),
            time_ns: record.packet.time_ns,
            follows: record.packet.follows,
            reason: self.reasons.name(record.reason),
            packet: decode::packet(&record.packet),
        })
    }

    fn place(&mut self, record: &DropRecord) -> Option<Arc<DropPlace>> {
        let key = (record.netns, record.packet.ifindex, record.location);
        if let Some(place) = self.places.get(&key) {
            return Some(Arc::clone(place));
        }
        let place = self.spaces.place(record.netns, record.packet.ifindex)?;
        let symbols = self.symbols.get_or_insert_with(Symbols::of_this_kernel);
        let function = symbols.function(record.location).map(Arc::from);
        let place = Arc::new(DropPlace { function, ..place });
        if self.places.len() >= MOST_PLACES {
            self.places.clear();
        }
        self.places.insert(key, Arc::clone(&place));
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::record::HopRecord;

    use super::*;
    use crate::host::links::Snapshot;
    use crate::host::netns::Netns;
    use crate::host::survey::{LocalNode, LocalPod};

    const NODE_1: u64 = 4_026_532_001;
    const NODE_2: u64 = 4_026_532_002;
    const CURL: u64 = 4_026_532_010;
    const NOBODY: u32 = 4_026_532_099;

    fn link(ifindex: u32, name: &str) -> Link {
        Link {
            ifindex,
            name: name.into(),
            kind: "veth".into(),
            peer_ifindex: None,
            peer_netns_id: None,
            master: None,
            mac: Vec::new(),
            mtu: 1500,
            up: true,
            loopback: false,
            has_ethernet_header: true,
            addresses: Vec::new(),
            vxlan: None,
            passes_from_peer: false,
        }
    }

    fn node(name: &str, inode: u64, devices: &[(u32, &str)]) -> LocalNode {
        let links = devices.iter().map(|(ifindex, name)| link(*ifindex, name)).collect();
        LocalNode {
            name: name.into(),
            netns: Netns::made_up(inode),
            snapshot: Snapshot { links, default_route_devices: Vec::new() },
            addresses: Vec::new(),
            evidence: String::new(),
        }
    }

    fn pod(name: &str, node: &str, inode: u64, host_network: bool) -> LocalPod {
        LocalPod {
            pod: Arc::new(PodRef {
                namespace: "default".to_owned(),
                name: name.to_owned(),
                uid: String::new(),
            }),
            node: node.into(),
            netns: Netns::made_up(inode),
            host_network,
            interface: (!host_network).then(|| link(2, "eth0")),
            peer: None,
            evidence: String::new(),
        }
    }

    /// Two nodes that are namespaces of one machine, as in the lab, and a pod on the first.
    fn two_nodes() -> Survey {
        Survey {
            nodes: vec![
                node("node-1", NODE_1, &[(2, "ens5"), (7, "lxccurl")]),
                node("node-2", NODE_2, &[(2, "ens6")]),
            ],
            pods: vec![pod("curl", "node-1", CURL, false), pod("proxy", "node-1", NODE_1, true)],
            problems: Vec::new(),
        }
    }

    /// Node, pod and device.
    fn found(spaces: &Spaces, netns: u64, ifindex: u32) -> Option<(String, Option<String>, Option<String>)> {
        let place = spaces.place(u32::try_from(netns).unwrap(), ifindex)?;
        let pod = place.pod.map(|pod| pod.name.clone());
        Some((place.node.to_string(), pod, place.device.map(|device| device.to_string())))
    }

    fn place(
        node: &str,
        pod: Option<&str>,
        device: Option<&str>,
    ) -> Option<(String, Option<String>, Option<String>)> {
        Some((node.to_owned(), pod.map(str::to_owned), device.map(str::to_owned)))
    }

    #[test]
    fn a_drop_is_on_the_node_or_in_the_pod_whose_namespace_it_was_in() {
        let mut spaces = Spaces::default();
        spaces.learn(&two_nodes(), None, 0);
        assert_eq!(found(&spaces, NODE_1, 7), place("node-1", None, Some("lxccurl")));
        assert_eq!(found(&spaces, NODE_2, 2), place("node-2", None, Some("ens6")), "the same ifindex");
        assert_eq!(found(&spaces, CURL, 2), place("node-1", Some("curl"), Some("eth0")));
    }

    #[test]
    fn a_device_that_was_not_there_at_the_look_is_not_named() {
        let mut spaces = Spaces::default();
        spaces.learn(&two_nodes(), None, 0);
        assert_eq!(found(&spaces, NODE_1, 99), place("node-1", None, None));
    }

    #[test]
    fn an_unknown_namespace_is_the_nodes_only_where_the_machine_is_that_node() {
        let machine = Netns::made_up(NODE_1).id();
        let one_node = Survey { nodes: vec![node("node-1", NODE_1, &[])], ..Survey::default() };
        let mut spaces = Spaces::default();

        spaces.learn(&one_node, Some(machine), 0);
        assert_eq!(found(&spaces, NOBODY.into(), 2), place("node-1", None, None));
        assert_eq!(found(&spaces, 0, 0), place("node-1", None, None), "no device and no socket");

        spaces.learn(&one_node, Some(Netns::made_up(NODE_2).id()), 1);
        assert_eq!(found(&spaces, NOBODY.into(), 2), None, "the node is a namespace of the machine");

        spaces.learn(&two_nodes(), Some(machine), 2);
        assert_eq!(found(&spaces, NOBODY.into(), 2), None, "two nodes");
    }

    #[test]
    fn a_namespace_that_is_gone_is_remembered_for_late_records_and_no_longer() {
        let mut spaces = Spaces::default();
        spaces.learn(&two_nodes(), None, 0);
        let without_curl = Survey { pods: Vec::new(), ..two_nodes() };

        spaces.learn(&without_curl, None, REMEMBERED_NS);
        assert_eq!(found(&spaces, CURL, 2), place("node-1", Some("curl"), Some("eth0")));
        spaces.learn(&without_curl, None, REMEMBERED_NS + 1);
        assert_eq!(found(&spaces, CURL, 2), None);
    }

    #[test]
    fn a_namespace_number_that_is_used_again_is_the_new_owners() {
        let mut spaces = Spaces::default();
        spaces.learn(&two_nodes(), None, 0);
        let other = Survey { pods: vec![pod("other", "node-2", CURL, false)], ..two_nodes() };
        spaces.learn(&other, None, 1);
        assert_eq!(found(&spaces, CURL, 2), place("node-2", Some("other"), Some("eth0")));
    }

    fn drops_after(survey: &Survey) -> Drops {
        let mut drops = Drops::new(DropReasons::made_up(&[(9, "NETFILTER_DROP")]));
        assert!(drops.learn(survey, None, 0).is_empty());
        drops
    }

    fn record(netns: u64, time_ns: u64) -> DropRecord {
        let packet = HopRecord { time_ns, ..HopRecord::default() };
        DropRecord { packet, netns: u32::try_from(netns).unwrap(), reason: 9, ..DropRecord::default() }
    }

    #[test]
    fn a_drop_that_is_nobodys_is_counted() {
        let mut drops = drops_after(&two_nodes());

        assert_eq!(drops.attribute(&record(NOBODY.into(), 1)), None);
        let sighting = drops.attribute(&record(NODE_2, 2)).unwrap();

        assert_eq!((&*sighting.reason, &*sighting.place.node), ("NETFILTER_DROP", "node-2"));
        assert_eq!(drops.elsewhere(), 1);
        assert!(drops.learn(&two_nodes(), None, 1 + WAIT_NS).is_empty());
        assert_eq!((drops.elsewhere(), drops.waiting.len()), (1, 0));
    }

    #[test]
    fn a_drop_in_a_pod_that_has_just_started_is_told_when_the_pod_is_found() {
        let without_curl = Survey { pods: Vec::new(), ..two_nodes() };
        let mut drops = drops_after(&without_curl);
        assert_eq!(drops.attribute(&record(CURL, 1)), None);

        assert!(drops.learn(&without_curl, None, WAIT_NS).is_empty(), "not found yet");
        let told = drops.learn(&two_nodes(), None, WAIT_NS);

        assert_eq!(told.len(), 1);
        assert_eq!(told[0].place.pod.as_ref().unwrap().name, "curl");
        assert_eq!(drops.elsewhere(), 0);
    }

    #[test]
    fn no_more_drops_wait_than_there_is_room_for_and_all_are_counted() {
        let mut drops = drops_after(&two_nodes());
        for number in 0..MOST_WAITING as u64 + 10 {
            drops.attribute(&record(NOBODY.into(), number));
        }
        assert_eq!(drops.waiting.len(), MOST_WAITING);
        assert_eq!(drops.elsewhere(), MOST_WAITING as u64 + 10);
    }
}
