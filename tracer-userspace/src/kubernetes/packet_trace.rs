//! `packettraces.tracer.dev`: a client's request to the agents, in the namespace of the pods that it follows.
//!
//! Who may create one is for Kubernetes' RBAC in that namespace. The object names pods and Services of its own namespace,
//! never their addresses: those each agent finds out for itself, or anyone with one namespace could follow all others'
//! pods. The addresses of the other end are the client's word: packets between them and somebody else's pods are not
//! recorded.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most pods of one trace, and most Services.
pub const MOST_NAMES: usize = 256;
/// Most addresses of the other end.
pub const MOST_PEERS: usize = 4096;
/// Most ports, and most protocols.
pub const MOST_PORTS: usize = 64;
/// How far ahead a trace may end, seconds: a client moves the end on for as long as it lives.
pub const LONGEST_S: i64 = 15 * 60;

/// What is asked for.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tracer.dev",
    version = "v1alpha1",
    kind = "PacketTrace",
    plural = "packettraces",
    singular = "packettrace",
    shortname = "ptr",
    namespaced,
    status = "PacketTraceStatus",
    printcolumn = r#"{"name":"Follows","type":"string","jsonPath":".spec.follows"}"#,
    printcolumn = r#"{"name":"By","type":"string","jsonPath":".spec.client"}"#,
    printcolumn = r#"{"name":"Expires","type":"string","jsonPath":".spec.expires"}"#,
    printcolumn = r#"{"name":"Agents","type":"string","jsonPath":".status.agents","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct PacketTraceSpec {
    /// What is followed, for people: "default/curl <-> svc/default/httpbin".
    #[schemars(length(max = 512))]
    pub follows: String,
    /// Who asks, for people: the client's program and host.
    // Not written where it is empty, so that the schema has no default "": some API servers take that for null and refuse it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub client: String,
    /// The followed pods, all of this object's namespace.
    #[schemars(length(min = 1, max = 256))]
    pub pods: Vec<TracedPod>,
    /// Services of this object's namespace under whose addresses the pods are reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub services: Vec<String>,
    /// Addresses of the other end, with those that NAT may put in their place; any where this is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub peers: Option<Vec<String>>,
    /// Packets may leave the followed pods' nodes under the nodes' own addresses (SNAT). Only where `peers` says who the
    /// other end is: else it would be all packets of a node.
    #[serde(default, skip_serializing_if = "is_false")]
    pub masqueraded: bool,
    /// IANA numbers; any where this is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub protocols: Vec<u8>,
    /// On either end; any where this is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ports: Vec<u16>,
    /// Packets' first bytes are wanted besides their records; none where this is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<TracedBytes>,
    /// Nodes whose agents are asked; all where this is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096))]
    pub nodes: Vec<String>,
    /// When it ends by itself, RFC 3339. At most 15 minutes ahead; a client moves it on for as long as it lives.
    #[schemars(length(max = 64))]
    pub expires: String,
    /// SHA-256 of the secret that agents give records for, in lower-case hexadecimal.
    #[schemars(length(min = 64, max = 64))]
    pub secret_sha256: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// A pod, as it is: another one of the same name is not meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TracedPod {
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// metadata.uid
    #[schemars(length(min = 1, max = 128))]
    pub uid: String,
}

/// How much of packets is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TracedBytes {
    /// So many bytes, payload or not: that needs a [`PacketPayload`] of the trace's name. Headers alone where this is
    /// missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16384))]
    pub most: Option<u32>,
}

/// Says that whoever made the PacketTrace of the same name may see payload: to create one is a right of its own. Worth
/// nothing for any other trace, since it is of the secret.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tracer.dev",
    version = "v1alpha1",
    kind = "PacketPayload",
    plural = "packetpayloads",
    singular = "packetpayload",
    namespaced,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct PacketPayloadSpec {
    /// As the trace has it.
    #[schemars(length(min = 64, max = 64))]
    pub secret_sha256: String,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PacketTraceStatus {
    /// By node: what the agent there says.
    #[serde(default)]
    pub agents: BTreeMap<String, AgentStatus>,
}

/// What one agent says of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    pub state: TraceState,
    /// Why, in a sentence; empty where there is nothing to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The generation of the spec that this is about.
    #[serde(default)]
    pub observed_generation: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TraceState {
    /// The kernel records for it.
    Armed,
    /// It is not what may be asked for.
    Refused,
    /// Its time is over.
    Expired,
}
