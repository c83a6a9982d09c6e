//! The other end of the agent's API: what it answers is checked as a stream from anywhere is.

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tower::service_fn;

use super::api::wire::agent_client::AgentClient;
use super::api::wire::{DescribeRequest, Description, LookRequest, ObserveRequest};
use super::request::TraceKey;
use crate::kubernetes::secret::Secret;
use crate::path::facts::{Half, Question};
use crate::stream::Told;
use crate::stream::read::{StreamError, check};
use crate::stream::wire::Message;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("cannot be reached: {0}")]
    Unreachable(#[from] tonic::transport::Error),
    /// Ask again later.
    #[error("{0}")]
    NotYet(String),
    #[error("refuses: {0}")]
    Refused(String),
    #[error("was lost: {0}")]
    Lost(String),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl From<Status> for AgentError {
    fn from(status: Status) -> Self {
        let said = status.message().to_owned();
        match status.code() {
            Code::Unavailable => Self::NotYet(said),
            Code::NotFound | Code::FailedPrecondition | Code::OutOfRange | Code::ResourceExhausted => {
                Self::Refused(said)
            }
            code => Self::Lost(format!("{code:?}: {said}")),
        }
    }
}

/// A connection to one agent.
#[derive(Clone, Debug)]
pub struct AgentConnection {
    client: AgentClient<Channel>,
}

impl AgentConnection {
    /// To an agent that listens on an address of this machine.
    ///
    /// # Errors
    /// [`AgentError::Unreachable`].
    pub async fn to(address: SocketAddr) -> Result<Self, AgentError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(CONNECT_TIMEOUT);
        Ok(Self { client: AgentClient::new(endpoint.connect().await?) })
    }

    /// Over a connection that somebody else has made, such as a port-forward.
    ///
    /// # Errors
    /// [`AgentError::Unreachable`].
    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Self, AgentError> {
        let mut stream = Some(TokioIo::new(stream));
        let connector = service_fn(move |_: Uri| {
            let taken = stream.take().ok_or_else(|| io::Error::other("the connection has ended"));
            ready(taken)
        });
        let endpoint = Endpoint::from_static("http://agent").connect_timeout(CONNECT_TIMEOUT);
        Ok(Self { client: AgentClient::new(endpoint.connect_with_connector(connector).await?) })
    }

    /// Who it is.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn describe(&mut self) -> Result<Description, AgentError> {
        Ok(self.client.describe(DescribeRequest {}).await?.into_inner())
    }

    /// Its node's half of the way of a pod's packets.
    ///
    /// # Errors
    /// [`AgentError`]; [`AgentError::Lost`] also where it is of another version and answers otherwise.
    pub async fn look(&mut self, question: &Question) -> Result<Half, AgentError> {
        let wrong = |error: serde_json::Error| AgentError::Lost(format!("is of another version: {error}"));
        let question = serde_json::to_string(question).map_err(wrong)?;
        let answer = self.client.look(LookRequest { question }).await?.into_inner();
        serde_json::from_str(&answer.half).map_err(wrong)
    }

    /// The records of a trace.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn observe(&mut self, key: &TraceKey, secret: &Secret) -> Result<Observed, AgentError> {
        let TraceKey { namespace, name, uid } = key.clone();
        let request = ObserveRequest { namespace, name, uid, secret: secret.bytes().to_vec() };
        let messages = self.client.observe(request).await?.into_inner();
        Ok(Observed { messages, count: 0, ended: false })
    }
}

/// A stream of records.
#[derive(Debug)]
pub struct Observed {
    messages: Streaming<Message>,
    /// Messages read.
    count: u64,
    ended: bool,
}

impl Observed {
    /// The next message that means something to this version; `None` behind the end.
    ///
    /// # Errors
    /// [`AgentError`]; nothing more comes then.
    pub async fn next(&mut self) -> Result<Option<Told>, AgentError> {
        while !self.ended {
            let Some(message) = self.messages.message().await? else {
                self.ended = true;
                return Err(StreamError::CutOff { after: self.count }.into());
            };
            self.count += 1;
            if let Some(told) = check(message, self.count)? {
                self.ended = matches!(told, Told::End { .. });
                return Ok(Some(told));
            }
        }
        Ok(None)
    }
}
