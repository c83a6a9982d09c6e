//! The agents of a cluster: found by their label, reached by port-forward.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};

use super::cluster::{Attempt, Cluster};
use crate::app::Failure;
use crate::serve::client::{AgentConnection, AgentError};
use crate::serve::run::LISTEN;

/// What the chart labels them with.
pub const LABEL: &str = "app.kubernetes.io/name=tracer-agent";

/// Where they are.
#[derive(Clone)]
pub struct Agents {
    pub cluster: Cluster,
    pub namespace: String,
}

impl Agents {
    /// The agents' pods, by node.
    ///
    /// # Errors
    /// They cannot be listed, or there are none.
    pub async fn find(&self) -> Result<BTreeMap<String, String>, Failure> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let attempt = Attempt { verb: "list", resource: "pods", namespace: Some(&self.namespace) };
        let listed = pods.list(&ListParams::default().labels(LABEL)).await;
        let listed = listed.map_err(|error| Failure::Failed(attempt.explain(&error)))?;
        let place = |pod: Pod| Some((pod.spec?.node_name?, pod.metadata.name?));
        let agents: BTreeMap<_, _> = listed.items.into_iter().filter_map(place).collect();
        if agents.is_empty() {
            return Err(Failure::Failed(format!(
                "there is no agent in namespace {} (kubectl get pods -n {0} -l {LABEL}): is tracer installed there, or in \
                 another namespace (--agents-namespace)?",
                self.namespace
            )));
        }
        Ok(agents)
    }

    /// A connection to the agent in a pod.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn connect(&self, pod: &str) -> Result<AgentConnection, AgentError> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let attempt = Attempt { verb: "get", resource: "pods/portforward", namespace: Some(&self.namespace) };
        let forwarded = pods.portforward(pod, &[LISTEN.port()]).await;
        let mut forwarder = forwarded.map_err(|error| AgentError::Lost(attempt.explain(&error)))?;
        let stream = forwarder
            .take_stream(LISTEN.port())
            .ok_or_else(|| AgentError::Lost("cannot be reached by port-forward".to_owned()))?;
        AgentConnection::over(stream).await
    }
}
