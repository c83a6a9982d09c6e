//! What tracer keeps of a Kubernetes object, and what it refuses to believe.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use tracer_manifest::object::{EndpointSlice, Node, ObjectMeta, Pod, Service};

use crate::trajectory::model::{PodRef, ServiceRef};

/// Annotation on a Node or Pod: path of its network namespace on this machine. It overrules every search.
pub const NETNS_ANNOTATION: &str = "tracer.dev/netns";

/// Annotations in which CNIs publish addresses of a node that its status does not list: tunnel devices, to which
/// SNAT may change a pod's source address.
const NODE_ADDRESS_ANNOTATIONS: &[&str] = &[
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv6VXLANTunnelAddr",
    "projectcalico.org/IPv4WireguardInterfaceAddr",
    "projectcalico.org/IPv6WireguardInterfaceAddr",
    "network.cilium.io/ipv4-cilium-host",
    "network.cilium.io/ipv6-cilium-host",
    "io.cilium.network.ipv4-cilium-host",
    "io.cilium.network.ipv6-cilium-host",
];

/// Label that ties an EndpointSlice to its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Why an object cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {reason}")]
pub struct ObjectError {
    /// Path of the field within the object.
    pub field: String,
    /// What is wrong with it, and what it should be.
    pub reason: String,
    /// The offending value as it is written in the object; empty if the field is missing.
    pub value: String,
}

impl ObjectError {
    fn missing(field: &str, reason: &str) -> Self {
        Self { field: field.to_owned(), reason: format!("missing; {reason}"), value: String::new() }
    }

    fn wrong(field: String, value: &str, wanted: &str) -> Self {
        Self { field, reason: format!("`{value}` is not {wanted}"), value: value.to_owned() }
    }
}

/// What identifies an object over time: its UID, or its name where the inventory has no UIDs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(String);

pub(crate) fn key(metadata: &ObjectMeta) -> Key {
    match &metadata.uid {
        Some(uid) if !uid.is_empty() => Key(uid.clone()),
        _ => Key(format!("{}/{}", namespace(metadata), metadata.name.as_deref().unwrap_or_default())),
    }
}

/// A pod, as far as tracer needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEntry {
    pub pod: Arc<PodRef>,
    /// `spec.nodeName`; empty while the pod is not scheduled.
    pub node: Arc<str>,
    /// It uses its node's network namespace and has no interface of its own.
    pub host_network: bool,
    /// `status.phase`: Pending, Running, Succeeded, Failed or Unknown.
    pub phase: String,
    /// `status.podIPs`, both families.
    pub addresses: Vec<IpAddr>,
    /// From [`NETNS_ANNOTATION`].
    pub netns: Option<PathBuf>,
    pub labels: BTreeMap<String, String>,
    /// The controllers that have made it, the nearest first.
    pub workloads: Vec<Workload>,
}

/// A controller that makes pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    pub kind: WorkloadKind,
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkloadKind {
    Deployment,
    ReplicaSet,
    StatefulSet,
    DaemonSet,
    Job,
}

impl WorkloadKind {
    /// The kind in an object, and the names that kubectl knows, the one that is told first.
    const NAMES: [(Self, &str, [&str; 3]); 5] = [
        (Self::Deployment, "Deployment", ["deploy", "deployment", "deployments"]),
        (Self::ReplicaSet, "ReplicaSet", ["rs", "replicaset", "replicasets"]),
        (Self::StatefulSet, "StatefulSet", ["sts", "statefulset", "statefulsets"]),
        (Self::DaemonSet, "DaemonSet", ["ds", "daemonset", "daemonsets"]),
        (Self::Job, "Job", ["job", "jobs", "job.batch"]),
    ];

    /// As kubectl calls it.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(.., names)| names.contains(&name)).map(|(kind, ..)| *kind)
    }

    fn by_kind(kind: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known, _)| *known == kind).map(|(kind, ..)| *kind)
    }
}

/// "deploy/web"
impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.kind, self.name)
    }
}

/// "deploy"
impl fmt::Display for WorkloadKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::NAMES.iter().find(|(kind, ..)| kind == self);
        formatter.write_str(known.map_or("", |(.., names)| names[0]))
    }
}

/// From the owner references. Of a ReplicaSet that a Deployment has made, the pod has the end of the name in a label
/// (pkg/controller/deployment of Kubernetes): the rest is the Deployment's.
fn workloads(metadata: &ObjectMeta) -> Vec<Workload> {
    let hash = lookup(metadata.labels.as_ref(), "pod-template-hash");
    let mut workloads = Vec::new();
    for owner in metadata.owner_references.iter().flatten() {
        let Some(kind) = WorkloadKind::by_kind(&owner.kind) else { continue };
        workloads.push(Workload { kind, name: owner.name.clone() });
        let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
        if let Some(name) = deployment.filter(|_| kind == WorkloadKind::ReplicaSet) {
            workloads.push(Workload { kind: WorkloadKind::Deployment, name: name.to_owned() });
        }
    }
    workloads
}

impl PodEntry {
    /// The controller behind it, the farthest: a Deployment, not its ReplicaSet.
    #[must_use]
    pub fn workload(&self) -> Option<&Workload> {
        self.workloads.last()
    }

    /// Whether the pod's containers have ended for good, so that its addresses may belong to another pod already.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    pub(crate) fn read(object: &Pod) -> Result<Self, ObjectError> {
        let metadata = &object.metadata;
        let spec = object
            .spec
            .as_ref()
            .ok_or_else(|| ObjectError::missing("spec", "every Pod that the API server returns has one"))?;
        let status = object.status.as_ref().ok_or_else(|| {
            ObjectError::missing(
                "status",
                "this looks like a manifest; tracer needs the live object, with its status.podIP",
            )
        })?;
        let mut addresses = Vec::new();
        for (index, item) in status.pod_ips.iter().flatten().enumerate() {
            push_address(&mut addresses, || format!("status.podIPs[{index}].ip"), &item.ip)?;
        }
        if let Some(ip) = &status.pod_ip {
            push_address(&mut addresses, || "status.podIP".to_owned(), ip)?;
        }
        Ok(Self {
            pod: Arc::new(PodRef {
                namespace: namespace(metadata),
                name: name(metadata)?,
                uid: metadata.uid.clone().unwrap_or_default(),
            }),
            node: spec.node_name.as_deref().unwrap_or_default().into(),
            host_network: spec.host_network.unwrap_or(false),
            phase: status.phase.clone().unwrap_or_else(|| "Unknown".to_owned()),
            addresses,
            netns: annotation(metadata, NETNS_ANNOTATION).map(PathBuf::from),
            labels: metadata.labels.clone().unwrap_or_default(),
            workloads: workloads(metadata),
        })
    }
}

/// A node, as far as tracer needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    pub name: Arc<str>,
    /// `status.addresses` of type InternalIP.
    pub internal_addresses: Vec<IpAddr>,
    /// `status.addresses` of type ExternalIP, and tunnel addresses that the CNI published as annotations.
    pub other_addresses: Vec<IpAddr>,
    /// `status.addresses` of type Hostname.
    pub hostname: Option<String>,
    /// From [`NETNS_ANNOTATION`].
    pub netns: Option<PathBuf>,
}

impl NodeEntry {
    pub(crate) fn read(object: &Node) -> Result<Self, ObjectError> {
        let metadata = &object.metadata;
        let status = object.status.as_ref().ok_or_else(|| {
            ObjectError::missing("status", "tracer needs status.addresses with the node's InternalIP")
        })?;
        let (mut internal, mut other, mut hostname) = (Vec::new(), Vec::new(), None);
        for (index, item) in status.addresses.iter().flatten().enumerate() {
            let field = || format!("status.addresses[{index}].address");
            match item.kind.as_str() {
                "InternalIP" => push_address(&mut internal, field, &item.address)?,
                "ExternalIP" => push_address(&mut other, field, &item.address)?,
                "Hostname" => hostname = Some(item.address.clone()),
                // Names (InternalDNS, ExternalDNS) are no addresses.
                _ => {}
            }
        }
        for key in NODE_ADDRESS_ANNOTATIONS {
            if let Some(value) = annotation(metadata, key) {
                push_address(&mut other, || format!("metadata.annotations[{key}]"), value)?;
            }
        }
        Ok(Self {
            name: name(metadata)?.into(),
            internal_addresses: internal,
            other_addresses: other,
            hostname,
            netns: annotation(metadata, NETNS_ANNOTATION).map(PathBuf::from),
        })
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty for the only port of a Service.
    pub name: String,
    /// IANA number.
    pub protocol: u8,
    pub port: u16,
    pub node_port: Option<u16>,
}

/// A Service, as far as tracer needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    pub service: Arc<ServiceRef>,
    /// `spec.type`.
    pub kind: String,
    /// `spec.clusterIPs`; empty for a headless Service.
    pub cluster_addresses: Vec<IpAddr>,
    /// External IPs and IPs of load balancers.
    pub other_addresses: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    /// `spec.clusterIP` is "None": clients get the endpoints' addresses from DNS, nothing is translated.
    pub headless: bool,
    /// Without a selector, endpoints are made by hand or by another controller.
    pub has_selector: bool,
    /// `spec.externalName`: a DNS alias, no addresses at all.
    pub external_name: Option<String>,
}

impl ServiceEntry {
    /// All addresses under which the Service can be reached, except NodePorts.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.cluster_addresses.iter().chain(&self.other_addresses).copied()
    }

    pub(crate) fn read(object: &Service) -> Result<Self, ObjectError> {
        let metadata = &object.metadata;
        let spec = object.spec.as_ref().ok_or_else(|| {
            ObjectError::missing("spec", "every Service that the API server returns has one")
        })?;
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let (mut cluster, mut other) = (Vec::new(), Vec::new());
        for (index, ip) in spec.cluster_ips.iter().flatten().enumerate() {
            push_cluster_address(&mut cluster, || format!("spec.clusterIPs[{index}]"), ip)?;
        }
        if let Some(ip) = &spec.cluster_ip {
            push_cluster_address(&mut cluster, || "spec.clusterIP".to_owned(), ip)?;
        }
        for (index, ip) in spec.external_ips.iter().flatten().enumerate() {
            push_address(&mut other, || format!("spec.externalIPs[{index}]"), ip)?;
        }
        let ingress = object.status.iter().filter_map(|status| status.load_balancer.as_ref());
        for (index, item) in ingress.flat_map(|balancer| balancer.ingress.iter().flatten()).enumerate() {
            if let Some(ip) = &item.ip {
                push_address(&mut other, || format!("status.loadBalancer.ingress[{index}].ip"), ip)?;
            }
        }
        let mut ports = Vec::new();
        for (index, item) in spec.ports.iter().flatten().enumerate() {
            let at = |part: &str| format!("spec.ports[{index}].{part}");
            ports.push(ServicePort {
                name: item.name.clone().unwrap_or_default(),
                protocol: protocol(|| at("protocol"), item.protocol.as_deref())?,
                port: port(|| at("port"), item.port)?,
                // 0 is what a Service without node ports has in Go's JSON.
                node_port: match item.node_port {
                    None | Some(0) => None,
                    Some(number) => Some(port(|| at("nodePort"), number)?),
                },
            });
        }
        Ok(Self {
            service: Arc::new(ServiceRef { namespace: namespace(metadata), name: name(metadata)? }),
            kind: spec.kind.clone().unwrap_or_else(|| "ClusterIP".to_owned()),
            cluster_addresses: cluster,
            other_addresses: other,
            ports,
            headless,
            has_selector: spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()),
            external_name: spec.external_name.clone().filter(|external| !external.is_empty()),
        })
    }
}

/// One port of an EndpointSlice, with a named `targetPort` already resolved to its number by Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlicePort {
    /// The name of the Service's port; empty for the only one.
    pub name: String,
    /// IANA number.
    pub protocol: u8,
    pub port: u16,
}

/// Part of the endpoints of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEntry {
    pub service: ServiceRef,
    pub ports: Vec<SlicePort>,
    /// Ready or not: a connection may outlive its endpoint's readiness.
    pub addresses: Vec<IpAddr>,
    /// Those of them that get no new connections.
    pub not_ready: Vec<IpAddr>,
}

impl SliceEntry {
    /// `None` for a slice of no Service (a mirrored or custom one), or one of names instead of addresses.
    pub(crate) fn read(object: &EndpointSlice) -> Result<Option<Self>, ObjectError> {
        let metadata = &object.metadata;
        name(metadata)?;
        let Some(service) = label(metadata, SERVICE_NAME_LABEL) else { return Ok(None) };
        if object.address_type == "FQDN" {
            return Ok(None);
        }
        let mut ports = Vec::new();
        for (index, item) in object.ports.iter().flatten().enumerate() {
            // No number means "all ports", which only slices made by hand say, and which translates nothing.
            let Some(number) = item.port else { continue };
            ports.push(SlicePort {
                name: item.name.clone().unwrap_or_default(),
                protocol: protocol(|| format!("ports[{index}].protocol"), item.protocol.as_deref())?,
                port: port(|| format!("ports[{index}].port"), number)?,
            });
        }
        let (mut addresses, mut not_ready) = (Vec::new(), Vec::new());
        for (index, endpoint) in object.endpoints.iter().flatten().enumerate() {
            let is_ready =
                endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false);
            for (place, address) in endpoint.addresses.iter().flatten().enumerate() {
                let field = || format!("endpoints[{index}].addresses[{place}]");
                push_address(&mut addresses, field, address)?;
                if !is_ready {
                    push_address(&mut not_ready, field, address)?;
                }
            }
        }
        let service = ServiceRef { namespace: namespace(metadata), name: service.to_owned() };
        Ok(Some(Self { service, ports, addresses, not_ready }))
    }
}

/// `kubectl apply` puts an object without a namespace into "default"; so does the inventory.
fn namespace(metadata: &ObjectMeta) -> String {
    metadata
        .namespace
        .clone()
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or_else(|| "default".to_owned())
}

fn name(metadata: &ObjectMeta) -> Result<String, ObjectError> {
    metadata
        .name
        .clone()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| ObjectError::missing("metadata.name", "every object has one"))
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    lookup(metadata.annotations.as_ref(), key)
}

fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    lookup(metadata.labels.as_ref(), key)
}

fn lookup<'a>(map: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    map?.get(key).map(String::as_str).filter(|value| !value.is_empty())
}

fn push_address(into: &mut Vec<IpAddr>, field: impl Fn() -> String, text: &str) -> Result<(), ObjectError> {
    // Go writes an address that is not known yet as an empty string.
    if text.is_empty() {
        return Ok(());
    }
    let address = text.parse().map_err(|_| ObjectError::wrong(field(), text, "an IPv4 or IPv6 address"))?;
    if !into.contains(&address) {
        into.push(address);
    }
    Ok(())
}

fn push_cluster_address(
    into: &mut Vec<IpAddr>,
    field: impl Fn() -> String,
    text: &str,
) -> Result<(), ObjectError> {
    if text == "None" { Ok(()) } else { push_address(into, field, text) }
}

fn port(field: impl Fn() -> String, number: i32) -> Result<u16, ObjectError> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(ObjectError::wrong(field(), &number.to_string(), "a port from 1 to 65535")),
    }
}

fn protocol(field: impl Fn() -> String, name: Option<&str>) -> Result<u8, ObjectError> {
    match name {
        None | Some("" | "TCP") => Ok(6),
        Some("UDP") => Ok(17),
        Some("SCTP") => Ok(132),
        Some(other) => Err(ObjectError::wrong(field(), other, "TCP, UDP or SCTP")),
    }
}
