//! From the names on the command line to addresses and ports: what a follow is about.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::host::plan::Scope;
use crate::inventory::{Inventory, ServiceEntry};
use crate::trajectory::model::PodRef;

mod error;
mod labels;
mod parse;
mod ports;
mod resolve;
#[cfg(test)]
mod tests;
mod translated;

pub use self::error::SelectError;
use self::labels::parse_labels;
use self::parse::{parse_port, parse_protocol, parse_target};
use self::ports::{node_port_targets, numbers, service_ports};
use self::resolve::Around;
pub use self::translated::Translated;

/// The namespace of kubectl when none is configured.
const DEFAULT_NAMESPACE: &str = "default";

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;

/// What the user asked for, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `-n`.
    pub namespace: Option<String>,
    pub followed: Followed,
    /// `--to`: a target.
    pub to: Option<String>,
    /// `--port`: numbers, or names of ports of the Service.
    pub ports: Vec<String>,
    /// `--protocol`: tcp, udp, icmp, icmp6, sctp or a number.
    pub protocol: Option<String>,
}

/// Who is followed, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// `--pod`: a target, which is `POD | NS/POD | deploy/NAME | svc/NAME | svc/NS/NAME | node/NAME | IP |
    /// NAME.NAMESPACE`.
    Named(String),
    /// `--selector`: labels, as kubectl takes them.
    Labelled(String),
}

/// What a follow is about: packets between one of A's addresses and one of B's, in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The end that is followed.
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
    /// "default/curl", "deploy/default/web", "svc/default/httpbin", "192.0.2.1".
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
    /// One, or all of a workload or with some labels.
    Pod,
    Service,
    Node,
    Address,
}

impl Selection {
    /// Gives up addresses that are another pod's by now: the pods that were followed are gone, and there are no others
    /// yet.
    pub fn release_taken(&mut self, inventory: &Inventory) {
        for End { addresses, pods, .. } in [Some(&mut self.a), self.b.as_mut()].into_iter().flatten() {
            let is_others = |address: &IpAddr| {
                !pods.is_empty()
                    && inventory.pod_at(*address).is_some_and(|holder| !pods.contains(&holder.pod))
            };
            addresses.retain(|address| !is_others(address));
        }
    }

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
    let protocol = request.protocol.as_deref().map(parse_protocol).transpose()?;
    let ports = request.ports.iter().map(|text| parse_port(text)).collect::<Result<Vec<_>, _>>()?;
    if let (Some(protocol @ (PROTOCOL_ICMP | PROTOCOL_ICMPV6)), false) = (protocol, ports.is_empty()) {
        return Err(SelectError::PortlessProtocol { protocol });
    }
    let target = request.to.as_deref().map(|text| parse_target("--to", text)).transpose()?;

    let asked = request.namespace.as_deref();
    let around = Around { inventory, option: "--pod", namespace: asked, of_pod: DEFAULT_NAMESPACE };
    let (a, stated) = match &request.followed {
        Followed::Named(text) => {
            let target = parse_target("--pod", text)?;
            (around.followed(&target)?, target.namespace().map(ToOwned::to_owned))
        }
        Followed::Labelled(text) => (around.labelled(text, &parse_labels(text)?)?, None),
    };
    let mut notes = Vec::new();
    for entry in a
        .pods
        .iter()
        .filter_map(|pod| inventory.pod(&pod.namespace, &pod.name))
        .filter(|pod| pod.host_network)
    {
        notes.push(format!(
            "{}/{} uses the host's network: packets of every process of node {} that uses it match",
            entry.pod.namespace, entry.pod.name, entry.node
        ));
    }
    let mut matched_ports = BTreeSet::new();
    let b = match target {
        None => {
            matched_ports.extend(numbers(&ports, None)?);
            None
        }
        Some(target) => {
            // What is called without a namespace is meant to be the followed pod's neighbour, if that was said.
            let namespace = stated.as_deref().or(asked);
            let of_pod = a.pods.first().map_or(DEFAULT_NAMESPACE, |pod| &pod.namespace);
            let around = Around { inventory, option: "--to", namespace, of_pod };
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
        a,
        translated: Translated::default(),
        b,
        protocol,
        ports: matched_ports.into_iter().collect(),
        notes,
    };
    selection.translated = Translated::of(inventory, &selection);
    Ok(selection)
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
