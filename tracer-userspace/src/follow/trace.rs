//! The PacketTrace of a follow: made from a selection, kept as that changes, moved on while we live, deleted at the end.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::watch;

use super::run::ticks;
use super::select::Selection;
use super::silence;
use crate::agent::bytes::CaptureBytes;
use crate::app::{Failure, notice};
use crate::kubernetes::cluster::{Attempt, Cluster};
use crate::kubernetes::packet_trace::{
    PacketPayload, PacketPayloadSpec, PacketTrace, PacketTraceSpec, TracedBytes, TracedPod,
};
use crate::kubernetes::secret::Secret;
use crate::serve::request::TraceKey;

const RESOURCE: &str = "packettraces.tracer.dev";
const PAYLOAD: &str = "packetpayloads.tracer.dev";
/// How long a trace outlives its client, seconds.
const LIFE_S: i64 = 120;
/// How often its end is moved on.
const RENEW: Duration = Duration::from_secs(40);

/// See the module.
pub(super) struct Trace {
    api: Api<PacketTrace>,
    pub(super) key: TraceKey,
    pub(super) secret: Secret,
    bytes: Option<CaptureBytes>,
    spec: PacketTraceSpec,
}

impl Trace {
    /// Asks for a selection.
    ///
    /// # Errors
    /// The API server refuses; with the right that is missing.
    pub(super) async fn make(
        cluster: &Cluster,
        selection: &Selection,
        bytes: Option<CaptureBytes>,
    ) -> Result<Self, Failure> {
        let Some(pod) = selection.a.pods.first() else {
            return Err(Failure::Failed(format!(
                "{} is no pod: agents record for pods only; on the node itself --local follows whatever is there",
                selection.a.name
            )));
        };
        let namespace = pod.namespace.clone();
        let secret = Secret::new().map_err(|error| Failure::Failed(error.to_owned()))?;
        let spec = spec_of(selection, bytes, &secret);
        let api: Api<PacketTrace> = Api::namespaced(cluster.client.clone(), &namespace);
        let mut trace = PacketTrace::new("", spec.clone());
        trace.metadata.name = None;
        trace.metadata.generate_name = Some(format!("{}-", short(&pod.name)));
        let attempt = Attempt { verb: "create", resource: RESOURCE, namespace: Some(&namespace) };
        let made = api.create(&PostParams::default(), &trace).await.map_err(|error| match &error {
            kube::Error::Api(status) if status.code == 404 => Failure::Failed(format!(
                "the cluster {} does not know PacketTraces: is tracer installed there? (tracer crd | kubectl apply -f -)",
                cluster.server
            )),
            error => Failure::Failed(attempt.explain(error)),
        })?;
        let key = TraceKey::of(&made).ok_or_else(|| {
            Failure::Failed("the API server gave the PacketTrace no name or uid".to_owned())
        })?;
        let made = Self { api, key, secret, bytes, spec };
        if matches!(bytes, Some(CaptureBytes::Most(_)))
            && let Err(failure) = made.ask_for_payload(cluster).await
        {
            made.delete().await;
            return Err(failure);
        }
        Ok(made)
    }

    /// Makes what shows that we may see payload. It goes when the trace goes.
    async fn ask_for_payload(&self, cluster: &Cluster) -> Result<(), Failure> {
        let TraceKey { namespace, name, uid } = &self.key;
        let spec = PacketPayloadSpec { secret_sha256: self.secret.hash().to_string() };
        let mut payload = PacketPayload::new(name, spec);
        payload.metadata.owner_references = Some(vec![OwnerReference {
            api_version: PacketTrace::api_version(&()).into_owned(),
            kind: PacketTrace::kind(&()).into_owned(),
            name: name.clone(),
            uid: uid.clone(),
            ..OwnerReference::default()
        }]);
        let api: Api<PacketPayload> = Api::namespaced(cluster.client.clone(), namespace);
        let attempt = Attempt { verb: "create", resource: PAYLOAD, namespace: Some(namespace) };
        match api.create(&PostParams::default(), &payload).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::Failed(format!(
                "payload needs a right of its own, and without it headers can be captured (--snaplen headers): {}",
                attempt.explain(&error)
            ))),
        }
    }

    /// Keeps it while selections come, and deletes it when none can come any more.
    pub(super) async fn keep(mut self, mut selections: watch::Receiver<Selection>) {
        let mut renewal = ticks(RENEW);
        // The first tick comes at once.
        renewal.tick().await;
        loop {
            tokio::select! {
                changed = selections.changed() => {
                    if changed.is_err() {
                        return self.delete().await;
                    }
                    let selection = selections.borrow_and_update().clone();
                    self.update(&selection).await;
                }
                _ = renewal.tick() => self.renew().await,
            }
        }
    }

    /// Asks for what the selection has become, where that is something else.
    async fn update(&mut self, selection: &Selection) {
        let now = spec_of(selection, self.bytes, &self.secret);
        let spec = PacketTraceSpec { expires: self.spec.expires.clone(), ..now };
        // Where nobody is left at the other end the agents go on as before: it is for us not to tell it.
        if spec == self.spec || spec.peers.as_ref().is_some_and(Vec::is_empty) {
            return;
        }
        // A field that is empty now has to be taken away, which a merge patch does with null.
        let patch = json!({ "spec": {
            "follows": spec.follows, "pods": spec.pods, "services": spec.services, "peers": spec.peers,
            "masqueraded": spec.masqueraded, "protocols": spec.protocols, "ports": spec.ports, "nodes": spec.nodes,
        } });
        if self.patch(&patch).await {
            self.spec = spec;
        }
    }

    /// Moves its end on.
    async fn renew(&mut self) {
        let expires = expiry();
        if self.patch(&json!({ "spec": { "expires": expires } })).await {
            self.spec.expires = expires;
        }
    }

    /// Ends it.
    async fn delete(&self) {
        match self.api.delete(&self.key.name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                let attempt =
                    Attempt { verb: "delete", resource: RESOURCE, namespace: Some(&self.key.namespace) };
                notice(&format!(
                    "note: PacketTrace {} ends by itself within {LIFE_S} s: {}",
                    self.key,
                    attempt.explain(&error)
                ));
            }
        }
    }

    async fn patch(&self, patch: &serde_json::Value) -> bool {
        let patched = self.api.patch(&self.key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        if let Err(error) = &patched {
            let attempt = Attempt { verb: "patch", resource: RESOURCE, namespace: Some(&self.key.namespace) };
            notice(&format!("warning: PacketTrace {}: {}", self.key, attempt.explain(error)));
        }
        patched.is_ok()
    }
}

fn spec_of(selection: &Selection, bytes: Option<CaptureBytes>, secret: &Secret) -> PacketTraceSpec {
    let Selection { a, b, translated, protocol, ports, .. } = selection;
    let peers = b.as_ref().map(|end| {
        let all = end.addresses.iter().chain(&translated.b);
        all.map(ToString::to_string).collect::<Vec<_>>()
    });
    let nodes = selection.scope().nodes.into_iter().flatten().map(|name| name.to_string());
    PacketTraceSpec {
        follows: silence::what(selection),
        client: format!("tracer {}", env!("CARGO_PKG_VERSION")),
        pods: a.pods.iter().map(|pod| TracedPod { name: pod.name.clone(), uid: pod.uid.clone() }).collect(),
        services: translated.services_of_a.iter().map(|service| service.name.clone()).collect(),
        masqueraded: translated.masqueraded,
        peers,
        protocols: protocol.iter().copied().collect(),
        ports: ports.iter().chain(&translated.ports).copied().collect(),
        bytes: bytes.map(|bytes| match bytes {
            CaptureBytes::Headers => TracedBytes { most: None },
            CaptureBytes::Most(most) => TracedBytes { most: Some(most) },
        }),
        nodes: nodes.collect(),
        expires: expiry(),
        secret_sha256: secret.hash().to_string(),
    }
}

fn expiry() -> String {
    let at_s = Timestamp::now().as_second() + LIFE_S;
    Timestamp::from_second(at_s).unwrap_or(Timestamp::MAX).to_string()
}

/// So that a generated name is none that is too long.
fn short(name: &str) -> &str {
    name.get(..40).unwrap_or(name).trim_end_matches(['-', '.'])
}
