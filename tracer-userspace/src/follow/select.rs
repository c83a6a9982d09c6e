//! From the names on the command line to addresses and ports: what a follow is about.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::host::plan::Scope;
use crate::inventory::{Inventory, PodEntry, ServiceEntry};
use crate::trajectory::model::{Directory, Owner, PodRef};

mod error;
mod parse;
mod ports;
#[cfg(test)]
mod tests;
mod translated;

pub use self::error::SelectError;
use self::error::{near_names, similar_pods};
use self::parse::{PortName, Target, parse_pod, parse_port, parse_protocol, parse_target};
use self::ports::{node_port_targets, numbers, service_ports};
pub use self::translated::Translated;

/// The namespace of kubectl when none is configured.
const DEFAULT_NAMESPACE: &str = "default";

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;

/// What the user asked for, as typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `-n`.
    pub namespace: Option<String>,
    /// `--pod [NS/]NAME`.
    pub pod: String,
    /// `--to POD | NS/POD | svc/NAME | svc/NS/NAME | node/NAME | IP | NAME.NAMESPACE`.
    pub to: Option<String>,
    /// `--port`: numbers, or names of ports of the Service.
    pub ports: Vec<String>,
    /// `--protocol`: tcp, udp, icmp, icmp6, sctp or a number.
    pub protocol: Option<String>,
}

/// What a follow is about: packets between one of A's addresses and one of B's, in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The followed pod.
    pub pod: Arc<PodRef>,
    /// The followed pod's end.
    pub a: End,
    /// What NAT puts in their place on a part of the way.
    pub translated: Translated,
    /// `None`: any peer.
    pub b: Option<End>,
    /// IANA number.
    pub protocol: Option<u8>,
    /// At either end; empty: any. For a Service the ports asked for and their target ports.
    pub ports: Vec<u16>,
    /// What a user should know about this selection, as sentences.
    pub notes: Vec<String>,
}

/// One end of a follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// "default/curl", "svc/default/httpbin", "192.0.2.1".
    pub name: String,
    pub kind: EndKind,
    /// Both families; for a Service its own and its endpoints'.
    pub addresses: Vec<IpAddr>,
    /// The pods at this end, as far as the inventory knows them.
    pub pods: Vec<Arc<PodRef>>,
    /// The nodes of these pods, or the node itself; empty for an address outside.
    pub nodes: BTreeSet<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKind {
    Pod,
    Service,
    Node,
    Address,
}

impl Selection {
    /// The pods and nodes whose devices see the packets. A target outside may be reached, and answer, through any
    /// node.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let ends = [Some(&self.a), self.b.as_ref()];
        let pods = ends.into_iter().flatten().flat_map(|end| &end.pods).map(|pod| (**pod).clone());
        let nodes = match &self.b {
            Some(b) if !b.nodes.is_empty() => Some(self.a.nodes.union(&b.nodes).cloned().collect()),
            _ => None,
        };
        Scope { pods: Some(pods.collect()), nodes, all_devices: false }
    }
}

/// Resolves what the user asked for.
///
/// # Errors
/// See [`SelectError`]; [`SelectError::is_usage`] tells wrong typing from what the cluster does not have.
pub fn select(inventory: &Inventory, request: &Request) -> Result<Selection, SelectError> {
    let (stated, name) = parse_pod(&request.pod)?;
    let protocol = request.protocol.as_deref().map(parse_protocol).transpose()?;
    let ports = request.ports.iter().map(|text| parse_port(text)).collect::<Result<Vec<_>, _>>()?;
    let target = request.to.as_deref().map(parse_target).transpose()?;
    if let (Some(protocol @ (PROTOCOL_ICMP | PROTOCOL_ICMPV6)), false) = (protocol, ports.is_empty()) {
        return Err(SelectError::PortlessProtocol { protocol });
    }

    let namespace = stated.as_deref().or(request.namespace.as_deref());
    let pod = find_pod(inventory, namespace, &name, "--pod")?;
    let a = pod_end(pod)?;
    let mut notes = Vec::new();
    if pod.host_network {
        notes.push(format!(
            "{} uses the host's network: packets of every process of node {} that uses it match",
            a.name, pod.node
        ));
    }
    // What is called without a namespace is meant to be the followed pod's neighbour, if that was said.
    let neighbourhood = stated.as_deref().or(request.namespace.as_deref());
    let mut matched_ports = BTreeSet::new();
    let b = match target {
        None => {
            matched_ports.extend(numbers(&ports, None)?);
            None
        }
        Some(target) => {
            let around = Around { inventory, namespace: neighbourhood, of_pod: &pod.pod.namespace };
            let (end, service) = around.resolve(&target, &ports, protocol)?;
            match service {
                Some(service) => {
                    matched_ports.extend(service_ports(inventory, service, &ports, protocol)?);
                    note_empty_service(inventory, service, &mut notes);
                }
                None => matched_ports.extend(numbers(&ports, Some(&end.name))?),
            }
            if end.kind == EndKind::Node {
                matched_ports.extend(node_port_targets(inventory, &matched_ports, protocol));
            }
            Some(end)
        }
    };
    let mut selection = Selection {
        pod: Arc::clone(&pod.pod),
        a,
        translated: Translated::default(),
        b,
        protocol,
        ports: matched_ports.into_iter().collect(),
        notes,
    };
    selection.translated = Translated::of(inventory, pod, &selection);
    Ok(selection)
}

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

/// Where names of the target are looked up.
struct Around<'a> {
    inventory: &'a Inventory,
    /// Stated by the user.
    namespace: Option<&'a str>,
    /// Of the followed pod.
    of_pod: &'a str,
}

impl<'a> Around<'a> {
    /// The target's end, and the Service if it is one.
    fn resolve(
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
            Target::Pod { namespace, name } => {
                let namespace = namespace.as_deref().or(self.namespace);
                match find_pod(inventory, namespace, name, "--to") {
                    Ok(entry) => Ok((pod_end(entry)?, None)),
                    Err(error) => self.resolve_domain_name(name).unwrap_or(Err(error)),
                }
            }
        }
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
            find_pod(self.inventory, Some(namespace), name, "--to")
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

fn note_empty_service(inventory: &Inventory, service: &ServiceEntry, notes: &mut Vec<String>) {
    if service.headless {
        let count: usize = inventory.slices(&service.service).map(|slice| slice.addresses.len()).sum();
        notes.push(format!(
            "svc/{}/{} is headless: clients talk to its {count} endpoints directly",
            service.service.namespace, service.service.name
        ));
    }
}
