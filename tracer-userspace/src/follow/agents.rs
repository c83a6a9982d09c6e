//! Asking a cluster's agents for records, again when they restart.

use std::time::Duration;

use tokio::sync::mpsc;

use super::merge::Heard;
use crate::app::notice;
use crate::kubernetes::agents::Agents;
use crate::kubernetes::secret::Secret;
use crate::serve::client::{AgentError, Observed};
use crate::serve::request::TraceKey;
use crate::stream::Told;

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
    pub(super) agents: Agents,
    pub(super) key: TraceKey,
    pub(super) secret: Secret,
    pub(super) begun: mpsc::Sender<Begun>,
}

impl Asking {
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
        let found = self.agents.find().await.map_err(|failure| AgentError::Lost(failure.to_string()))?;
        let pod = found.get(node).ok_or_else(|| AgentError::Lost("is not there".to_owned()))?;
        self.agents.connect(pod).await?.observe(&self.key, &self.secret).await
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
