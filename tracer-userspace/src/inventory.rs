//! Pods, Services, EndpointSlices and nodes, by name and by address and time.
//!
//! The inventory is a plain struct that is told what changed: by [`file::load`] once, or by watchers of the
//! Kubernetes API for as long as they run. It does no I/O and reads no clock: times are arguments, nanoseconds of
//! CLOCK_MONOTONIC of the machine that runs the inventory.
//!
//! An address is not an identity: it may move from pod to pod. So whose address it was is a question about an
//! address *and* a time, objects are keyed by UID, and a pod that is gone is remembered for [`RETENTION_NS`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::trajectory::hash::FastState;
use crate::trajectory::model::{Directory, Owner, ServiceRef};

pub mod file;
mod object;
#[cfg(test)]
mod tests;

use self::object::{Key, key};
pub use self::object::{
    NETNS_ANNOTATION, NodeEntry, ObjectError, PodEntry, ServiceEntry, ServicePort, SliceEntry, SlicePort,
    Workload, WorkloadKind,
};
pub use tracer_manifest::{Kind, Object};

/// How long a pod's former address and a Service's former endpoint are remembered, nanoseconds: records may be
/// late, and connections outlive the endpoint they were balanced to.
pub const RETENTION_NS: u64 = 120_000_000_000;

/// How long before its first appearance in the inventory a pod may already have used its address, nanoseconds:
/// the API tells of an address seconds after the pod's first packets.
pub const ANNOUNCEMENT_LAG_NS: u64 = 30_000_000_000;

/// How often the memory is searched for what is too old, nanoseconds.
const FORGET_INTERVAL_NS: u64 = 1_000_000_000;

/// From when until when a pod had an address.
#[derive(Clone, Debug)]
struct Tenure {
    key: Key,
    owner: Owner,
    from_ns: u64,
    until_ns: Option<u64>,
}

/// An endpoint that a Service had.
#[derive(Clone, Debug)]
struct FormerEndpoint {
    address: IpAddr,
    ports: Vec<SlicePort>,
    until_ns: u64,
}

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    pods: BTreeMap<Key, PodEntry>,
    nodes: BTreeMap<Key, NodeEntry>,
    services: BTreeMap<Key, ServiceEntry>,
    slices: BTreeMap<Key, SliceEntry>,
    /// Oldest first, per address.
    tenures: HashMap<IpAddr, Vec<Tenure>, FastState>,
    /// Addresses that the objects do not tell, see [`Inventory::add_node_address`].
    extra_node_addresses: HashMap<IpAddr, BTreeSet<Arc<str>>, FastState>,
    former_endpoints: HashMap<ServiceRef, Vec<FormerEndpoint>>,
    ignored: BTreeMap<String, usize>,
    forgot_ns: u64,
    index: Index,
}

/// What can be made anew from the objects at any time.
#[derive(Clone, Debug, Default)]
struct Index {
    node_by_address: HashMap<IpAddr, Arc<str>, FastState>,
    services_by_address: HashMap<IpAddr, Vec<Key>, FastState>,
    services_by_node_port: HashMap<(u8, u16), Vec<Key>>,
    slices_by_service: HashMap<ServiceRef, Vec<Key>>,
}

impl Inventory {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes an object that is new or has changed at `now_ns`.
    ///
    /// # Errors
    /// The object lacks something that every such object has, or a value makes no sense. The inventory is then
    /// as it was before.
    pub fn apply(&mut self, object: &Object, now_ns: u64) -> Result<(), ObjectError> {
        self.put(object, now_ns)?;
        self.refresh(object.kind(), now_ns);
        Ok(())
    }

    /// As [`Inventory::apply`], where an object is not new but told of for the first time: a pod whose addresses were
    /// nobody's has always had them.
    ///
    /// # Errors
    /// As [`Inventory::apply`].
    pub fn apply_told(&mut self, object: &Object, now_ns: u64) -> Result<(), ObjectError> {
        let is_first = match object {
            Object::Pod(pod) => {
                PodEntry::read(pod)?.addresses.iter().all(|address| !self.tenures.contains_key(address))
            }
            _ => false,
        };
        self.apply(object, if is_first { 0 } else { now_ns })
    }

    /// Takes note that an object was deleted at `now_ns`.
    pub fn delete(&mut self, object: &Object, now_ns: u64) {
        self.remove(object.kind(), &key(object.metadata()), now_ns);
        self.refresh(object.kind(), now_ns);
    }

    /// Takes a complete list of all objects of one kind: what is not in it is gone. Returns the objects that
    /// could not be used, by their place in the list.
    pub fn reset(&mut self, kind: Kind, objects: &[Object], now_ns: u64) -> Vec<(usize, ObjectError)> {
        let listed: BTreeSet<Key> = objects.iter().map(|object| key(object.metadata())).collect();
        let known: Vec<Key> = match kind {
            Kind::Pod => self.pods.keys().cloned().collect(),
            Kind::Node => self.nodes.keys().cloned().collect(),
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::EndpointSlice => self.slices.keys().cloned().collect(),
        };
        for key in known.iter().filter(|key| !listed.contains(key)) {
            self.remove(kind, key, now_ns);
        }
        let mut refused = Vec::new();
        for (place, object) in objects.iter().enumerate().filter(|(_, object)| object.kind() == kind) {
            if let Err(error) = self.put(object, now_ns) {
                refused.push((place, error));
            }
        }
        self.refresh(kind, now_ns);
        refused
    }

    /// Takes the place of everything by a complete newer inventory: what is not in it is gone since `now_ns`, and
    /// remembered for a while.
    pub fn renew(&mut self, newer: Self, now_ns: u64) {
        let gone: Vec<Key> = self.pods.keys().filter(|key| !newer.pods.contains_key(*key)).cloned().collect();
        for key in gone {
            self.remove(Kind::Pod, &key, now_ns);
        }
        let gone: Vec<Key> =
            self.slices.keys().filter(|key| !newer.slices.contains_key(*key)).cloned().collect();
        for key in gone {
            self.remove(Kind::EndpointSlice, &key, now_ns);
        }
        for (key, entry) in newer.pods {
            self.put_pod(key, entry, now_ns);
        }
        for (key, entry) in newer.slices {
            self.put_slice(key, Some(entry), now_ns);
        }
        self.nodes = newer.nodes;
        self.services = newer.services;
        self.ignored = newer.ignored;
        for kind in [Kind::Node, Kind::Service, Kind::EndpointSlice] {
            self.refresh(kind, now_ns);
        }
    }

    /// Adds an address that belongs to a node though its object does not say so: that of a tunnel device or a
    /// bridge, found on the machine. An address that several nodes have (docker0) belongs to none.
    pub fn add_node_address(&mut self, node: &str, address: IpAddr) {
        let nodes = self.extra_node_addresses.entry(address).or_default();
        if !nodes.contains(node) {
            nodes.insert(node.into());
        }
        self.index_nodes();
    }

    /// All pods that exist, finished ones included.
    pub fn pods(&self) -> impl Iterator<Item = &PodEntry> {
        self.pods.values()
    }

    pub fn nodes(&self) -> impl Iterator<Item = &NodeEntry> {
        self.nodes.values()
    }

    pub fn services(&self) -> impl Iterator<Item = &ServiceEntry> {
        self.services.values()
    }

    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&PodEntry> {
        self.pods().find(|entry| entry.pod.namespace == namespace && entry.pod.name == name)
    }

    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeEntry> {
        self.nodes().find(|entry| &*entry.name == name)
    }

    #[must_use]
    pub fn service(&self, namespace: &str, name: &str) -> Option<&ServiceEntry> {
        self.services().find(|entry| entry.service.namespace == namespace && entry.service.name == name)
    }

    /// The running pod that has this address now.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr) -> Option<&PodEntry> {
        let tenure = self.tenures.get(&address)?.iter().rfind(|tenure| tenure.until_ns.is_none())?;
        self.pods.get(&tenure.key)
    }

    /// The Service that has this ClusterIP, external IP or load balancer IP.
    #[must_use]
    pub fn service_at(&self, address: IpAddr) -> Option<&ServiceEntry> {
        self.index.services_by_address.get(&address)?.iter().find_map(|key| self.services.get(key))
    }

    /// Services that have this node port, with that port.
    pub fn services_by_node_port(
        &self,
        node_port: u16,
    ) -> impl Iterator<Item = (&ServiceEntry, &ServicePort)> {
        self.services().flat_map(move |service| {
            service
                .ports
                .iter()
                .filter(move |port| port.node_port == Some(node_port))
                .map(move |port| (service, port))
        })
    }

    /// The EndpointSlices of a Service.
    pub fn slices<'a>(&'a self, service: &ServiceRef) -> impl Iterator<Item = &'a SliceEntry> + use<'a> {
        let keys = self.index.slices_by_service.get(service);
        keys.into_iter().flatten().filter_map(|key| self.slices.get(key))
    }

    /// All known addresses of a node: from its object, its CNI's annotations and [`Inventory::add_node_address`].
    #[must_use]
    pub fn node_addresses(&self, name: &str) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self
            .node(name)
            .into_iter()
            .flat_map(|node| node.internal_addresses.iter().chain(&node.other_addresses))
            .copied()
            .collect();
        let mut extra: Vec<IpAddr> = self
            .extra_node_addresses
            .iter()
            .filter(|(_, nodes)| nodes.len() == 1 && nodes.contains(name))
            .map(|(address, _)| *address)
            .filter(|address| !addresses.contains(address))
            .collect();
        extra.sort_unstable();
        addresses.append(&mut extra);
        addresses
    }

    /// Objects of kinds that tracer has no use for, by kind.
    #[must_use]
    pub fn ignored(&self) -> &BTreeMap<String, usize> {
        &self.ignored
    }

    fn put(&mut self, object: &Object, now_ns: u64) -> Result<(), ObjectError> {
        let key = key(object.metadata());
        match object {
            Object::Pod(pod) => self.put_pod(key, PodEntry::read(pod)?, now_ns),
            Object::Node(node) => {
                self.nodes.insert(key, NodeEntry::read(node)?);
            }
            Object::Service(service) => {
                self.services.insert(key, ServiceEntry::read(service)?);
            }
            Object::EndpointSlice(slice) => {
                let entry = SliceEntry::read(slice)?;
                self.put_slice(key, entry, now_ns);
            }
        }
        Ok(())
    }

    /// What follows from a change of objects of one kind.
    fn refresh(&mut self, kind: Kind, now_ns: u64) {
        match kind {
            Kind::Pod => {}
            Kind::Node => self.index_nodes(),
            Kind::Service => self.index_services(),
            Kind::EndpointSlice => self.index_slices(),
        }
        if now_ns.saturating_sub(self.forgot_ns) >= FORGET_INTERVAL_NS {
            self.forgot_ns = now_ns;
            self.forget(now_ns);
        }
    }

    fn put_pod(&mut self, key: Key, entry: PodEntry, now_ns: u64) {
        let holds = !entry.host_network && !entry.is_finished();
        let addresses: &[IpAddr] = if holds { &entry.addresses } else { &[] };
        self.end_tenures(&key, addresses, now_ns);
        let owner = Owner::Pod { pod: Arc::clone(&entry.pod), node: Arc::clone(&entry.node) };
        for address in addresses {
            let tenures = self.tenures.entry(*address).or_default();
            if let Some(tenure) =
                tenures.iter_mut().find(|tenure| tenure.key == key && tenure.until_ns.is_none())
            {
                // The node of a pod is known only after it is scheduled.
                tenure.owner = owner.clone();
                continue;
            }
            for former in tenures.iter_mut().filter(|tenure| tenure.until_ns.is_none()) {
                former.until_ns = Some(now_ns);
            }
            tenures.push(Tenure { key: key.clone(), owner: owner.clone(), from_ns: now_ns, until_ns: None });
        }
        self.pods.insert(key, entry);
    }

    /// Ends what the pod had, except for the addresses that it still has.
    fn end_tenures(&mut self, key: &Key, still: &[IpAddr], now_ns: u64) {
        let Some(entry) = self.pods.get(key) else { return };
        for address in entry.addresses.iter().filter(|address| !still.contains(address)) {
            for tenure in self.tenures.get_mut(address).into_iter().flatten() {
                if tenure.key == *key && tenure.until_ns.is_none() {
                    tenure.until_ns = Some(now_ns);
                }
            }
        }
    }

    fn put_slice(&mut self, key: Key, entry: Option<SliceEntry>, now_ns: u64) {
        if let Some(old) = self.slices.remove(&key) {
            let gone = old.addresses.iter().filter(|address| {
                entry.as_ref().is_none_or(|new| new.ports != old.ports || !new.addresses.contains(address))
            });
            let former: Vec<FormerEndpoint> = gone
                .map(|address| FormerEndpoint {
                    address: *address,
                    ports: old.ports.clone(),
                    until_ns: now_ns,
                })
                .collect();
            if !former.is_empty() {
                self.former_endpoints.entry(old.service).or_default().extend(former);
            }
        }
        if let Some(entry) = entry {
            self.slices.insert(key, entry);
        }
    }

    fn remove(&mut self, kind: Kind, key: &Key, now_ns: u64) {
        match kind {
            Kind::Pod => {
                self.end_tenures(key, &[], now_ns);
                self.pods.remove(key);
            }
            Kind::Node => {
                self.nodes.remove(key);
            }
            Kind::Service => {
                self.services.remove(key);
            }
            Kind::EndpointSlice => self.put_slice(key.clone(), None, now_ns),
        }
    }

    /// Drops what is older than [`RETENTION_NS`]: memory is bounded by what exists and what just went.
    fn forget(&mut self, now_ns: u64) {
        let limit = now_ns.saturating_sub(RETENTION_NS);
        self.tenures.retain(|_, tenures| {
            tenures.retain(|tenure| tenure.until_ns.is_none_or(|until| until >= limit));
            !tenures.is_empty()
        });
        self.former_endpoints.retain(|_, former| {
            former.retain(|endpoint| endpoint.until_ns >= limit);
            !former.is_empty()
        });
    }

    fn index_nodes(&mut self) {
        let mut map = HashMap::default();
        for (address, nodes) in &self.extra_node_addresses {
            if let (1, Some(node)) = (nodes.len(), nodes.first()) {
                map.insert(*address, Arc::clone(node));
            }
        }
        for node in self.nodes.values() {
            for address in node.internal_addresses.iter().chain(&node.other_addresses) {
                map.insert(*address, Arc::clone(&node.name));
            }
        }
        self.index.node_by_address = map;
    }

    fn index_services(&mut self) {
        let (mut by_address, mut by_node_port) = (HashMap::default(), HashMap::new());
        for (key, service) in &self.services {
            for address in service.addresses() {
                by_address.entry(address).or_insert_with(Vec::new).push(key.clone());
            }
            for port in &service.ports {
                if let Some(number) = port.node_port {
                    by_node_port.entry((port.protocol, number)).or_insert_with(Vec::new).push(key.clone());
                }
            }
        }
        self.index.services_by_address = by_address;
        self.index.services_by_node_port = by_node_port;
    }

    fn index_slices(&mut self) {
        let mut map: HashMap<ServiceRef, Vec<Key>> = HashMap::new();
        for (key, slice) in &self.slices {
            map.entry(slice.service.clone()).or_default().push(key.clone());
        }
        self.index.slices_by_service = map;
    }

    fn pod_owner(&self, address: IpAddr, at_ns: u64) -> Option<&Owner> {
        let tenures = self.tenures.get(&address)?;
        let next = tenures.iter().find(|tenure| tenure.from_ns > at_ns);
        let current = tenures.iter().rfind(|tenure| tenure.from_ns <= at_ns);
        match current {
            Some(tenure) if tenure.until_ns.is_none_or(|until| at_ns < until) => return Some(&tenure.owner),
            _ => {}
        }
        // In the gap between two pods the later one is meant: the former had stopped when it was deleted, and
        // the API tells of the latter only after its first packets.
        if let Some(tenure) = next.filter(|tenure| tenure.from_ns - at_ns <= ANNOUNCEMENT_LAG_NS) {
            return Some(&tenure.owner);
        }
        current
            .filter(|tenure| tenure.until_ns.is_some_and(|until| at_ns - until <= RETENTION_NS))
            .map(|tenure| &tenure.owner)
    }

    fn has_endpoint(&self, service: &ServiceRef, port: &ServicePort, to: (IpAddr, u16)) -> bool {
        let fits = |candidate: &SlicePort| {
            candidate.name == port.name && candidate.protocol == port.protocol && candidate.port == to.1
        };
        self.slices(service).any(|slice| slice.ports.iter().any(fits) && slice.addresses.contains(&to.0))
            || self.former_endpoints.get(service).is_some_and(|former| {
                former.iter().any(|endpoint| endpoint.address == to.0 && endpoint.ports.iter().any(fits))
            })
    }

    fn count_ignored(&mut self, kind: &str) {
        *self.ignored.entry(kind.to_owned()).or_default() += 1;
    }
}

impl Directory for Inventory {
    /// A node's address stays the node's even where a Service uses it too (externalIPs, k3s load balancers).
    fn owner(&self, address: IpAddr, at_ns: u64) -> Owner {
        if let Some(owner) = self.pod_owner(address, at_ns) {
            return owner.clone();
        }
        if let Some(node) = self.index.node_by_address.get(&address) {
            return Owner::Node(Arc::clone(node));
        }
        self.service_at(address)
            .map_or(Owner::Unknown, |service| Owner::Service(Arc::clone(&service.service)))
    }

    fn is_service_translation(&self, protocol: u8, from: (IpAddr, u16), to: (IpAddr, u16)) -> bool {
        let by_address = self.index.services_by_address.get(&from.0).into_iter().flatten();
        let of_address = by_address.filter_map(|key| self.services.get(key)).flat_map(|service| {
            service.ports.iter().filter(|port| port.port == from.1).map(move |port| (service, port))
        });
        let is_node = self.index.node_by_address.contains_key(&from.0);
        let by_node_port = self.index.services_by_node_port.get(&(protocol, from.1)).into_iter().flatten();
        let of_node_port =
            by_node_port.filter(|_| is_node).filter_map(|key| self.services.get(key)).flat_map(|service| {
                let ports = service.ports.iter().filter(|port| port.node_port == Some(from.1));
                ports.map(move |port| (service, port))
            });
        of_address
            .chain(of_node_port)
            .filter(|(_, port)| port.protocol == protocol)
            .any(|(service, port)| self.has_endpoint(&service.service, port, to))
    }
}
