//! The agents of a cluster: found by their label, reached by port-forward, asked again when they restart.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use tokio::sync::mpsc;

use super::merge::Heard;
use crate::app::{Failure, notice};
use crate::kubernetes::cluster::{Attempt, Cluster};
use crate::kubernetes::secret::Secret;
use crate::serve::client::{AgentConnection, AgentError, Observed};
use crate::serve::request::TraceKey;
use crate::serve::run::LISTEN;
use crate::stream::Told;

/// What the chart labels them with.
const LABEL: &str = "app.kubernetes.io/name=tracer-agent";
/// Messages of one stream that may wait.
const WAITING: usize = 64;
/// Pause before an agent is asked again, at first; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// So long an agent may not know of the trace yet, or not have armed it.
const ARMING: Duration = Duration::from_secs(15);

/// A stream that has begun.
pub(super) struct Begun {
    pub(super) node: String,
    pub(super) messages: mpsc::Receiver<Heard>,
}

/// Who asks the agents.
#[derive(Clone)]
pub(super) struct Asking {
    pub(super) cluster: Cluster,
    pub(super) namespace: String,
    pub(super) key: TraceKey,
    pub(super) secret: Secret,
    pub(super) begun: mpsc::Sender<Begun>,
}

impl Asking {
    /// The agents' pods, by node.
    ///
    /// # Errors
    /// They cannot be listed, or there are none.
    pub(super) async fn find(&self) -> Result<BTreeMap<String, String>, Failure> {
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

    /// Asks the agent of a node for as long as anybody listens; what goes wrong is said once until it goes right.
    pub(super) async fn keep_asking(self, node: String) {
        let (mut pause, mut said) = (FIRST_PAUSE, String::new());
        let since = tokio::time::Instant::now();
        while !self.begun.is_closed() {
            let why = match self.ask(&node).await {
                Ok(observed) => {
                    (pause, said) = (FIRST_PAUSE, String::new());
                    self.hand_over(&node, observed).await;
                    continue;
                }
                Err(why) => why,
            };
            let is_arming =
                matches!(why, AgentError::NotYet(_) | AgentError::Refused(_)) && since.elapsed() < ARMING;
            let text = why.to_string();
            if !is_arming && text != said {
                notice(&format!("warning: the agent on node {node} {text}: hops there are not visible"));
                said = text;
            }
            // sleep: the pause before the next attempt.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(if is_arming { FIRST_PAUSE } else { LONGEST_PAUSE });
        }
    }

    async fn ask(&self, node: &str) -> Result<Observed, AgentError> {
        let agents = self.find().await.map_err(|failure| AgentError::Lost(failure.to_string()))?;
        let pod = agents.get(node).ok_or_else(|| AgentError::Lost("is not there".to_owned()))?;
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let attempt =
            // By WebSocket it begins as a GET.
            Attempt { verb: "get", resource: "pods/portforward", namespace: Some(&self.namespace) };
        let forwarded = pods.portforward(pod, &[LISTEN.port()]).await;
        let mut forwarder = forwarded.map_err(|error| AgentError::Lost(attempt.explain(&error)))?;
        let stream = forwarder
            .take_stream(LISTEN.port())
            .ok_or_else(|| AgentError::Lost("cannot be reached by port-forward".to_owned()))?;
        AgentConnection::over(stream).await?.observe(&self.key, &self.secret).await
    }

    /// Until the stream or the follow ends.
    async fn hand_over(&self, node: &str, mut observed: Observed) {
        let (sender, messages) = mpsc::channel(WAITING);
        if self.begun.send(Begun { node: node.to_owned(), messages }).await.is_err() {
            return;
        }
        loop {
            let heard = match observed.next().await {
                Ok(Some(told)) => Heard::Told(told),
                Ok(None) => return,
                Err(AgentError::Stream(error)) => Heard::Failed(error),
                Err(error) => Heard::Told(Told::End { reason: error.to_string() }),
            };
            let is_last = !matches!(heard, Heard::Told(_));
            if sender.send(heard).await.is_err() || is_last {
                return;
            }
        }
    }
}
