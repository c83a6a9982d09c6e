//! gRPC, as `proto/agent.proto` has it, on loopback. Whatever is asked goes to the one task that has the machine.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use self::wire::agent_server::{Agent, AgentServer};
use self::wire::{DescribeRequest, Description, LookAnswer, LookRequest, ObserveRequest};
use super::request::TraceKey;
use super::traces::Refusal;
use crate::app::Failure;
use crate::path::facts::{Half, Question};
use crate::path::look::LookError;
use crate::stream::wire::Message;

#[allow(
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    clippy::doc_markdown,
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    clippy::too_many_lines,
    clippy::default_trait_access,
    reason = "generated from proto/agent.proto"
)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/tracer.agent.v1.rs"));
}

/// Calls that may wait for an answer.
const WAITING: usize = 64;
/// How often a connection is asked whether it is still there, and how long it may take to say so.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// What was asked, and where the answer goes.
#[derive(Debug)]
pub enum Call {
    Describe(oneshot::Sender<Description>),
    Look {
        question: Question,
        answer: oneshot::Sender<Result<Half, LookError>>,
    },
    Observe {
        key: TraceKey,
        secret: Vec<u8>,
        answer: oneshot::Sender<Result<mpsc::Receiver<Message>, Denial>>,
    },
}

/// Why there is no stream.
#[derive(Debug)]
pub enum Denial {
    Refusal(Refusal),
    TooMany,
}

/// How long callers get to take what they were told last, when the agent ends.
const DRAIN: Duration = Duration::from_secs(3);

/// The API, listening.
pub struct Serving {
    /// With the port that was taken where 0 was asked for.
    pub address: SocketAddr,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Serving {
    /// Takes no more calls, and waits a while for streams to reach their callers to the end.
    pub async fn end(self) {
        // If it is not there any more, it has ended.
        let _ = self.shutdown.send(());
        if tokio::time::timeout(DRAIN, self.task).await.is_err() {
            tracing::warn!("callers did not take the ends of their streams within {} s", DRAIN.as_secs());
        }
    }
}

/// Listens. Gives the calls, too, which whoever has the machine must answer.
///
/// # Errors
/// It is not loopback, or cannot be listened on.
pub async fn listen(address: SocketAddr) -> Result<(Serving, mpsc::Receiver<Call>), Failure> {
    if !address.ip().is_loopback() {
        return Err(Failure::Usage(format!(
            "--listen {address} is not loopback: packets are told through the API server's port-forward only, so use \
             127.0.0.1 or [::1]"
        )));
    }
    let refused = |error| {
        Failure::Failed(format!(
            "cannot listen on {address} for the agent's API: {error}; is another agent on this node?"
        ))
    };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    let (calls, receiver) = mpsc::channel(WAITING);
    let (shutdown, told) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let served = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(AgentServer::new(Api { calls }))
            .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async {
                let _ = told.await;
            })
            .await;
        if let Err(error) = served {
            tracing::error!("the agent's API has ended: {error}");
        }
    });
    Ok((Serving { address: bound, shutdown, task }, receiver))
}

struct Api {
    calls: mpsc::Sender<Call>,
}

type Messages = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

#[tonic::async_trait]
impl Agent for Api {
    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<Description>, Status> {
        let (answer, description) = oneshot::channel();
        self.call(Call::Describe(answer)).await?;
        description.await.map(Response::new).map_err(|_| Status::unavailable("the agent is busy or ending"))
    }

    async fn look(&self, request: Request<LookRequest>) -> Result<Response<LookAnswer>, Status> {
        let wrong = |error: serde_json::Error| Status::invalid_argument(format!("the question: {error}"));
        let question = serde_json::from_str(&request.into_inner().question).map_err(wrong)?;
        let (answer, half) = oneshot::channel();
        self.call(Call::Look { question, answer }).await?;
        let half = half.await.map_err(|_| Status::resource_exhausted("the agent is busy: ask again"))?;
        let half = half.map_err(|error| match error {
            LookError::NotHere(_) => Status::not_found(error.to_string()),
            LookError::Io(_) => Status::internal(error.to_string()),
        })?;
        let half = serde_json::to_string(&half).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(LookAnswer { half }))
    }

    type ObserveStream = Messages;

    async fn observe(&self, request: Request<ObserveRequest>) -> Result<Response<Messages>, Status> {
        let ObserveRequest { namespace, name, uid, secret } = request.into_inner();
        let (answer, stream) = oneshot::channel();
        self.call(Call::Observe { key: TraceKey { namespace, name, uid }, secret, answer }).await?;
        let messages = stream.await.map_err(|_| ending())?.map_err(status)?;
        let messages = stream::unfold(messages, |mut messages| async {
            let message = messages.recv().await?;
            Some((Ok(message), messages))
        });
        Ok(Response::new(messages.boxed()))
    }
}

impl Api {
    async fn call(&self, call: Call) -> Result<(), Status> {
        self.calls.send(call).await.map_err(|_| ending())
    }
}

fn ending() -> Status {
    Status::unavailable("the agent is ending")
}

fn status(denial: Denial) -> Status {
    let Denial::Refusal(refusal) = denial else {
        return Status::resource_exhausted("more callers than this agent serves at a time");
    };
    let said = refusal.to_string();
    match refusal {
        Refusal::Unknown => Status::not_found(said),
        Refusal::Refused(_) => Status::failed_precondition(said),
        Refusal::Expired => Status::out_of_range(said),
        Refusal::NotYet => Status::unavailable(said),
    }
}
