//! Whose addresses a request's names stand for. Pods of this node are known from the watch of them; of others, of
//! Services and of their nodes the API server is asked for each by its name, never for a list.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::Api;
use tracer_manifest::{Kind, Object};

use super::request::{TraceKey, Wanted};
use super::traces::Verified;
use crate::agent::bytes::CaptureBytes;
use crate::inventory::{Inventory, NodeEntry, PodEntry, ServiceEntry};
use crate::kubernetes::cluster::{Attempt, get};
use crate::kubernetes::packet_trace::PacketPayload;
use crate::kubernetes::secret::SecretHash;
use crate::node::site::Names;

/// How often, and after which pauses, a PacketPayload is looked for: a client makes it behind its trace.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Why nothing is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unverified {
    /// It is not what may be asked for, and will not be.
    Refused(String),
    /// The API server could not be asked.
    Unknown(String),
}

/// Asks whose addresses they are.
///
/// # Errors
/// [`Unverified`].
pub async fn verify(
    client: &Client,
    names: &Names,
    node: &str,
    key: &TraceKey,
    wanted: &Wanted,
) -> Result<Verified, Unverified> {
    let mut verified = Verified::default();
    if matches!(wanted.bytes, Some(CaptureBytes::Most(_))) {
        check_payload_right(client, key, wanted.secret).await?;
    }
    for claim in &wanted.pods {
        let own = names.with(|inventory| inventory.pods().find(|entry| entry.pod.uid == claim.uid).cloned());
        let entry = match own {
            Some(entry) => Some(entry),
            None => remote_pod(client, key, &claim.name).await?,
        };
        // One that is gone, or another of the same name, is nobody's.
        let is_it = |entry: &PodEntry| {
            entry.pod.namespace == key.namespace && entry.pod.name == claim.name && entry.pod.uid == claim.uid
        };
        let Some(entry) = entry.filter(is_it) else { continue };
        if entry.host_network {
            return Err(Unverified::Refused(format!(
                "pod {} uses its node's network: its addresses are the node's, and what has them may be anybody's",
                claim.name
            )));
        }
        if entry.is_finished() {
            continue;
        }
        // The API server may say late what this node knows already: an address is another pod's by now.
        let is_still_its = |address: &&IpAddr| {
            names.with(|inventory| {
                inventory.pod_at(**address).is_none_or(|holder| holder.pod.uid == entry.pod.uid)
            })
        };
        verified.addresses.extend(entry.addresses.iter().filter(is_still_its));
        if wanted.masqueraded {
            verified.masqueraded.extend(node_addresses(client, names, node, &entry.node).await?);
        }
        verified.pods.insert((*entry.pod).clone());
    }
    for name in &wanted.services {
        if let Some(entry) = service(client, key, name).await? {
            verified.addresses.extend(entry.addresses());
        }
    }
    names.with(|inventory| add_own_peers(inventory, node, key, wanted, &mut verified));
    Ok(verified)
}

/// Whether whoever made the trace may see payload: it could make a PacketPayload of this secret.
async fn check_payload_right(client: &Client, key: &TraceKey, secret: SecretHash) -> Result<(), Unverified> {
    let payloads: Api<PacketPayload> = Api::namespaced(client.clone(), &key.namespace);
    let attempt =
        Attempt { verb: "get", resource: "packetpayloads.tracer.dev", namespace: Some(&key.namespace) };
    for _ in 0..LOOKS {
        let found = payloads.get_opt(&key.name).await;
        let found = found.map_err(|error| Unverified::Unknown(attempt.explain(&error)))?;
        let is_of_it =
            |payload: &PacketPayload| SecretHash::parse(&payload.spec.secret_sha256) == Some(secret);
        if found.as_ref().is_some_and(is_of_it) {
            return Ok(());
        }
        // sleep: the pause before the next look.
        tokio::time::sleep(PAUSE).await;
    }
    Err(Unverified::Refused(format!(
        "spec.bytes.most: there is no PacketPayload of this trace's name and secret: payload is given to those who may \
         create one (kubectl auth can-i create packetpayloads.tracer.dev -n {})",
        key.namespace
    )))
}

/// Pods of this node at the other end. What the node's own address sends to a pod of another namespace is not the
/// followed pod's word against it: here it is left out.
fn add_own_peers(
    inventory: &Inventory,
    node: &str,
    key: &TraceKey,
    wanted: &Wanted,
    verified: &mut Verified,
) {
    for address in wanted.peers.iter().flatten() {
        let Some(peer) = inventory.pod_at(*address).filter(|entry| &*entry.node == node) else { continue };
        verified.peers.insert((*peer.pod).clone());
        if peer.pod.namespace != key.namespace {
            verified.masqueraded.clear();
        }
    }
}

async fn remote_pod(client: &Client, key: &TraceKey, name: &str) -> Result<Option<PodEntry>, Unverified> {
    let attempt = Attempt { verb: "get", resource: "pods", namespace: Some(&key.namespace) };
    match ask(client, Kind::Pod, attempt, name).await? {
        Some(Object::Pod(pod)) => Ok(PodEntry::read(&pod).ok()),
        _ => Ok(None),
    }
}

async fn service(client: &Client, key: &TraceKey, name: &str) -> Result<Option<ServiceEntry>, Unverified> {
    let attempt = Attempt { verb: "get", resource: "services", namespace: Some(&key.namespace) };
    match ask(client, Kind::Service, attempt, name).await? {
        Some(Object::Service(service)) => Ok(ServiceEntry::read(&service).ok()),
        _ => Ok(None),
    }
}

async fn node_addresses(
    client: &Client,
    names: &Names,
    own: &str,
    node: &Arc<str>,
) -> Result<Vec<IpAddr>, Unverified> {
    if **node == *own {
        return Ok(names.with(|inventory| inventory.node_addresses(node)));
    }
    let attempt = Attempt { verb: "get", resource: "nodes", namespace: None };
    match ask(client, Kind::Node, attempt, node).await? {
        Some(Object::Node(object)) => Ok(NodeEntry::read(&object).map_or_else(
            |_| Vec::new(),
            |entry| entry.internal_addresses.into_iter().chain(entry.other_addresses).collect(),
        )),
        _ => Ok(Vec::new()),
    }
}

async fn ask(
    client: &Client,
    kind: Kind,
    attempt: Attempt<'_>,
    name: &str,
) -> Result<Option<Object>, Unverified> {
    let asked = get(client, kind, attempt.namespace, name).await;
    asked.map_err(|error| Unverified::Unknown(attempt.explain(&error)))
}

/// Why a trace whose pods are all gone, or never were, is not armed.
#[must_use]
pub fn nobody(key: &TraceKey, wanted: &Wanted) -> String {
    let named: Vec<_> = wanted.pods.iter().take(5).map(|pod| format!("{} ({})", pod.name, pod.uid)).collect();
    format!("there is no such pod in namespace {}: {}", key.namespace, named.join(", "))
}
