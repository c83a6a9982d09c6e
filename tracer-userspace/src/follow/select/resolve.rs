//! From a name to an end: who has the addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use kube::core::{Selector, SelectorExt as _};

use super::error::{near_names, similar_pods};
use super::parse::{PortName, Target};
use super::{DEFAULT_NAMESPACE, End, EndKind, SelectError};
use crate::inventory::{Inventory, PodEntry, ServiceEntry, WorkloadKind};
use crate::trajectory::model::{Directory, Owner};

/// Finds a pod by name. Without a namespace it is that of kubectl, "default"; but where the name alone does not
/// say which pod is meant, or means one elsewhere, the user is told what to type.
fn find_pod<'a>(
    inventory: &'a Inventory,
    namespace: Option<&str>,
    name: &str,
    option: &'static str,
) -> Result<&'a PodEntry, SelectError> {
    let named = inventory.pods().filter(|entry| entry.pod.name == name);
    // A pod that has ended may keep the name that its successor has.
    let mut candidates: Vec<&PodEntry> = named.collect();
    candidates.sort_by_key(|entry| (&entry.pod.namespace, entry.is_finished()));
    let namespaces: BTreeSet<String> = candidates.iter().map(|entry| entry.pod.namespace.clone()).collect();
    match namespace {
        None if namespaces.len() > 1 => Err(SelectError::AmbiguousPod {
            name: name.to_owned(),
            namespaces: namespaces.into_iter().collect(),
            option,
        }),
        None => match candidates.first() {
            Some(entry) if entry.pod.namespace == DEFAULT_NAMESPACE => Ok(entry),
            Some(entry) => Err(SelectError::PodElsewhere {
                name: name.to_owned(),
                asked: DEFAULT_NAMESPACE.to_owned(),
                namespaces: vec![entry.pod.namespace.clone()],
                option,
            }),
            None => Err(unknown_pod(inventory, DEFAULT_NAMESPACE, name)),
        },
        Some(namespace) => match candidates.iter().find(|entry| entry.pod.namespace == namespace) {
            Some(entry) => Ok(entry),
            None => {
                check_namespace(inventory, namespace)?;
                if namespaces.is_empty() {
                    return Err(unknown_pod(inventory, namespace, name));
                }
                Err(SelectError::PodElsewhere {
                    name: name.to_owned(),
                    asked: namespace.to_owned(),
                    namespaces: namespaces.into_iter().collect(),
                    option,
                })
            }
        },
    }
}

fn unknown_pod(inventory: &Inventory, namespace: &str, name: &str) -> SelectError {
    SelectError::UnknownPod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        near: similar_pods(inventory, namespace, name),
        service: inventory.service(namespace, name).is_some(),
    }
}

/// The inventory has no Namespace objects: one exists if something is in it.
fn check_namespace(inventory: &Inventory, namespace: &str) -> Result<(), SelectError> {
    let of_pods = inventory.pods().map(|entry| entry.pod.namespace.as_str());
    let of_services = inventory.services().map(|entry| entry.service.namespace.as_str());
    let all: BTreeSet<&str> = of_pods.chain(of_services).collect();
    if all.contains(namespace) {
        return Ok(());
    }
    Err(SelectError::UnknownNamespace {
        name: namespace.to_owned(),
        near: near_names(namespace, all.iter().copied()),
        known: all.len(),
    })
}

fn pod_end(entry: &PodEntry) -> Result<End, SelectError> {
    let name = format!("{}/{}", entry.pod.namespace, entry.pod.name);
    if entry.phase != "Running" {
        return Err(SelectError::PodNotRunning { name, phase: entry.phase.clone() });
    }
    if entry.addresses.is_empty() {
        return Err(SelectError::PodWithoutAddress { name });
    }
    Ok(End {
        name,
        kind: EndKind::Pod,
        addresses: entry.addresses.clone(),
        pods: vec![Arc::clone(&entry.pod)],
        nodes: BTreeSet::from([Arc::clone(&entry.node)]),
    })
}

/// Where names are looked up.
pub(super) struct Around<'a> {
    pub(super) inventory: &'a Inventory,
    /// Whose value the name is.
    pub(super) option: &'static str,
    /// Stated by the user.
    pub(super) namespace: Option<&'a str>,
    /// Of the followed pod.
    pub(super) of_pod: &'a str,
}

impl<'a> Around<'a> {
    /// The end that is followed: of a Service the pods behind it.
    pub(super) fn followed(&self, target: &Target) -> Result<End, SelectError> {
        let (end, service) = self.resolve(target, &[], None)?;
        if service.is_none() && end.kind == EndKind::Address {
            return Err(SelectError::AddressOfNobody { address: end.name });
        }
        let Some(service) = service else { return Ok(end) };
        let mut pods = PodsEnd::new(end.name);
        let addresses = self.inventory.slices(&service.service).flat_map(|slice| &slice.addresses);
        for entry in addresses.filter_map(|address| self.inventory.pod_at(*address)) {
            // Endpoints may be pods of anywhere, where somebody made the EndpointSlice by hand.
            if entry.pod.namespace == service.service.namespace {
                pods.add(entry);
            }
        }
        pods.end()
    }

    /// All pods of the namespace with these labels; `text` is what was typed.
    pub(super) fn labelled(&self, text: &str, labels: &Selector) -> Result<End, SelectError> {
        let namespace = self.namespace.unwrap_or(DEFAULT_NAMESPACE);
        check_namespace(self.inventory, namespace)?;
        let mut pods = PodsEnd::new(format!("{namespace}/{text}"));
        let of_it = self.inventory.pods().filter(|entry| entry.pod.namespace == namespace);
        of_it.filter(|entry| labels.matches(&entry.labels)).for_each(|entry| pods.add(entry));
        pods.end()
    }

    /// The target's end, and the Service if it is one.
    pub(super) fn resolve(
        &self,
        target: &Target,
        ports: &[PortName],
        protocol: Option<u8>,
    ) -> Result<(End, Option<&'a ServiceEntry>), SelectError> {
        let inventory = self.inventory;
        match target {
            Target::Address(address) => self.resolve_address(*address, ports, protocol),
            Target::Node(name) => {
                let end = self.node_end(name)?;
                Ok((self.with_node_ports(end, ports, protocol), None))
            }
            Target::Service { namespace, name } => {
                let service = self.find_service(namespace.as_deref(), name)?;
                Ok((service_end(inventory, service)?, Some(service)))
            }
            Target::Workload { kind, namespace, name } => {
                Ok((self.workload(*kind, namespace.as_deref(), name)?, None))
            }
            Target::Pod { namespace, name } => {
                let namespace = namespace.as_deref().or(self.namespace);
                match find_pod(inventory, namespace, name, self.option) {
                    Ok(entry) => Ok((pod_end(entry)?, None)),
                    Err(error) => self.resolve_domain_name(name).unwrap_or(Err(error)),
                }
            }
        }
    }

    /// All pods that a controller has made, as their owner references say.
    fn workload(&self, kind: WorkloadKind, namespace: Option<&str>, name: &str) -> Result<End, SelectError> {
        let namespace = namespace.or(self.namespace).unwrap_or(self.of_pod);
        let is_of_it =
            |entry: &PodEntry| entry.workloads.iter().any(|owner| owner.kind == kind && owner.name == name);
        let (here, elsewhere): (Vec<_>, Vec<_>) = self
            .inventory
            .pods()
            .filter(|entry| is_of_it(entry))
            .partition(|entry| entry.pod.namespace == namespace);
        if here.is_empty() {
            check_namespace(self.inventory, namespace)?;
            let workloads = || self.inventory.pods().flat_map(|entry| &entry.workloads);
            let names = workloads().filter(|owner| owner.kind == kind).map(|owner| owner.name.as_str());
            let near: BTreeSet<&str> = names.filter(|other| *other != name).collect();
            let elsewhere: BTreeSet<&str> =
                elsewhere.iter().map(|entry| entry.pod.namespace.as_str()).collect();
            return Err(SelectError::UnknownWorkload {
                option: self.option,
                namespace: namespace.to_owned(),
                name: format!("{kind}/{name}"),
                near: near_names(name, near.into_iter())
                    .iter()
                    .map(|near| format!("{kind}/{near}"))
                    .collect(),
                elsewhere: elsewhere.iter().map(|other| format!("{kind}/{other}/{name}")).collect(),
            });
        }
        let mut pods = PodsEnd::new(format!("{kind}/{namespace}/{name}"));
        here.into_iter().for_each(|entry| pods.add(entry));
        pods.end()
    }

    /// `NAME.NAMESPACE` and `NAME.NAMESPACE.svc...`, as DNS knows it: a Service, else a pod. `None` if there is no
    /// such namespace.
    fn resolve_domain_name(
        &self,
        text: &str,
    ) -> Option<Result<(End, Option<&'a ServiceEntry>), SelectError>> {
        let (name, rest) = text.split_once('.')?;
        let (namespace, suffix) = rest.split_once('.').unwrap_or((rest, ""));
        if let Some(service) = self.inventory.service(namespace, name) {
            return Some(service_end(self.inventory, service).map(|end| (end, Some(service))));
        }
        if suffix == "svc" || suffix.starts_with("svc.") {
            return Some(Err(self.unknown_service(namespace, name)));
        }
        check_namespace(self.inventory, namespace).ok()?;
        Some(
            find_pod(self.inventory, Some(namespace), name, self.option)
                .and_then(|entry| Ok((pod_end(entry)?, None))),
        )
    }

    fn find_service(&self, namespace: Option<&str>, name: &str) -> Result<&'a ServiceEntry, SelectError> {
        let stated = namespace.or(self.namespace);
        if let Some(service) = self.inventory.service(stated.unwrap_or(self.of_pod), name) {
            return Ok(service);
        }
        let stated_or_default = stated.unwrap_or(self.of_pod);
        if stated.is_some() {
            check_namespace(self.inventory, stated_or_default)?;
        }
        Err(self.unknown_service(stated_or_default, name))
    }

    fn unknown_service(&self, namespace: &str, name: &str) -> SelectError {
        let all = || self.inventory.services().map(|entry| &entry.service);
        let near = near_names(
            name,
            all().filter(|service| service.namespace == namespace).map(|service| service.name.as_str()),
        );
        SelectError::UnknownService {
            option: self.option,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            near: near.into_iter().map(|near| format!("svc/{namespace}/{near}")).collect(),
            elsewhere: all()
                .filter(|service| service.name == name && service.namespace != namespace)
                .map(|service| format!("svc/{}/{}", service.namespace, service.name))
                .collect(),
        }
    }

    fn node_end(&self, name: &str) -> Result<End, SelectError> {
        let nodes = || self.inventory.nodes().map(|entry| &*entry.name);
        let Some(node) = self.inventory.node(name) else {
            return Err(SelectError::UnknownNode { name: name.to_owned(), near: near_names(name, nodes()) });
        };
        let addresses = self.inventory.node_addresses(name);
        if addresses.is_empty() {
            return Err(SelectError::NodeWithoutAddress { name: name.to_owned() });
        }
        Ok(End {
            name: format!("node/{name}"),
            kind: EndKind::Node,
            addresses,
            pods: Vec::new(),
            nodes: BTreeSet::from([Arc::clone(&node.name)]),
        })
    }

    /// An address means what it belongs to; a Service's must, for it is translated on the way.
    fn resolve_address(
        &self,
        address: IpAddr,
        ports: &[PortName],
        protocol: Option<u8>,
    ) -> Result<(End, Option<&'a ServiceEntry>), SelectError> {
        let alone = |kind| End {
            name: address.to_string(),
            kind,
            addresses: vec![address],
            pods: Vec::new(),
            nodes: BTreeSet::new(),
        };
        if let Some(entry) = self.inventory.pod_at(address) {
            let nodes = BTreeSet::from([Arc::clone(&entry.node)]);
            return Ok((End { pods: vec![Arc::clone(&entry.pod)], nodes, ..alone(EndKind::Pod) }, None));
        }
        match self.inventory.owner(address, u64::MAX) {
            Owner::Node(node) => {
                let end = End { nodes: BTreeSet::from([node]), ..alone(EndKind::Node) };
                Ok((self.with_node_ports(end, ports, protocol), None))
            }
            Owner::Service(_) => {
                let service = self.inventory.service_at(address);
                let Some(service) = service else { return Ok((alone(EndKind::Address), None)) };
                Ok((service_end(self.inventory, service)?, Some(service)))
            }
            Owner::Pod { .. } | Owner::Unknown => Ok((alone(EndKind::Address), None)),
        }
    }

    /// A node port leads to the endpoints of its Service.
    fn with_node_ports(&self, mut end: End, ports: &[PortName], protocol: Option<u8>) -> End {
        for number in ports.iter().filter_map(PortName::number) {
            for (service, port) in self.inventory.services_by_node_port(number) {
                if protocol.is_none_or(|protocol| protocol == port.protocol) {
                    add_endpoints(self.inventory, service, &mut end);
                }
            }
        }
        end
    }
}

fn service_end(inventory: &Inventory, service: &ServiceEntry) -> Result<End, SelectError> {
    let name = format!("svc/{}/{}", service.service.namespace, service.service.name);
    if let Some(external) = &service.external_name {
        return Err(SelectError::ExternalName { name, external: external.clone() });
    }
    let mut end = End {
        name,
        kind: EndKind::Service,
        addresses: service.addresses().collect(),
        pods: Vec::new(),
        nodes: BTreeSet::new(),
    };
    add_endpoints(inventory, service, &mut end);
    if end.addresses.is_empty() {
        return Err(if service.headless {
            SelectError::HeadlessWithoutEndpoints { name: end.name, has_selector: service.has_selector }
        } else {
            SelectError::ServiceWithoutAddress { name: end.name }
        });
    }
    if inventory.slices(&service.service).all(|slice| slice.addresses.is_empty()) {
        return Err(SelectError::ServiceWithoutEndpoints {
            name: end.name,
            has_selector: service.has_selector,
        });
    }
    Ok(end)
}

fn add_endpoints(inventory: &Inventory, service: &ServiceEntry, end: &mut End) {
    for address in inventory.slices(&service.service).flat_map(|slice| &slice.addresses) {
        if !end.addresses.contains(address) {
            end.addresses.push(*address);
        }
        if let Some(entry) = inventory.pod_at(*address) {
            if !end.pods.contains(&entry.pod) {
                end.pods.push(Arc::clone(&entry.pod));
            }
            end.nodes.insert(Arc::clone(&entry.node));
        } else if let Owner::Node(node) = inventory.owner(*address, u64::MAX) {
            // The endpoint is a pod with hostNetwork.
            end.nodes.insert(node);
        }
    }
}

/// An end of several pods.
struct PodsEnd {
    end: End,
    /// Pods that send nothing: not running, or without an address.
    silent: usize,
}

impl PodsEnd {
    fn new(name: String) -> Self {
        let (addresses, pods, nodes) = (Vec::new(), Vec::new(), BTreeSet::new());
        Self { end: End { name, kind: EndKind::Pod, addresses, pods, nodes }, silent: 0 }
    }

    fn add(&mut self, entry: &PodEntry) {
        match pod_end(entry) {
            Err(_) => self.silent += 1,
            Ok(pod) if self.end.pods.contains(&pod.pods[0]) => {}
            Ok(pod) => {
                self.end.addresses.extend(pod.addresses);
                self.end.pods.extend(pod.pods);
                self.end.nodes.extend(pod.nodes);
            }
        }
    }

    fn end(self) -> Result<End, SelectError> {
        if self.end.pods.is_empty() {
            return Err(SelectError::NoPods { name: self.end.name, silent: self.silent });
        }
        Ok(self.end)
    }
}
