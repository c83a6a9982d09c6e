//! `/healthz` and `/readyz`: whether the agent works, for the kubelet. No packet data, and
//! so on any address.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::app::Failure;
use crate::node::site::monotonic_ns;

/// The agent's task has stopped if it has not turned for so long, nanoseconds.
const STUCK_NS: u64 = 15_000_000_000;
/// A client that has not sent its request by then is let go.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause behind an accept that failed, such as for want of file descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// What the agent's task says of itself; asked from other tasks.
#[derive(Debug, Default)]
pub struct Health {
    /// CLOCK_MONOTONIC, nanoseconds.
    turned_ns: AtomicU64,
    ready: AtomicBool,
}

impl Health {
    /// The task has turned once more.
    pub fn turn(&self) {
        self.turned_ns.store(monotonic_ns(), Ordering::Relaxed);
    }

    /// Whether it knows its pods and traces, and can arm.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    fn answer(&self, path: &str) -> (StatusCode, &'static str) {
        let is_alive = monotonic_ns().saturating_sub(self.turned_ns.load(Ordering::Relaxed)) < STUCK_NS;
        match path {
            "/healthz" if is_alive => (StatusCode::OK, "ok\n"),
            "/healthz" => (StatusCode::SERVICE_UNAVAILABLE, "the agent's task does not turn\n"),
            "/readyz" if is_alive && self.ready.load(Ordering::Relaxed) => (StatusCode::OK, "ok\n"),
            "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "waiting for the API server's first lists\n"),
            _ => (StatusCode::NOT_FOUND, "/healthz and /readyz are here\n"),
        }
    }
}

/// Listens; gives the address, with the port that was taken where 0 was asked for.
///
/// # Errors
/// It cannot be listened on.
pub async fn listen(address: SocketAddr, health: Arc<Health>) -> Result<SocketAddr, Failure> {
    let refused =
        |error| Failure::Failed(format!("cannot listen on {address} for the kubelet's probes: {error}"));
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    tokio::spawn(accept(listener, health));
    Ok(bound)
}

async fn accept(listener: TcpListener, health: Arc<Health>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot take a probe: {error}");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let health = Arc::clone(&health);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, Arc::clone(&health)));
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!("a probe ended early: {error}");
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    health: Arc<Health>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match *request.method() {
        Method::GET => health.answer(request.uri().path()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_ready_when_it_says_so_and_alive_while_its_task_turns() {
        let health = Health::default();
        assert_eq!(health.answer("/healthz").0, StatusCode::SERVICE_UNAVAILABLE);
        health.turn();
        assert_eq!(health.answer("/healthz").0, StatusCode::OK);
        assert_eq!(health.answer("/readyz").0, StatusCode::SERVICE_UNAVAILABLE);
        health.set_ready(true);
        assert_eq!(health.answer("/readyz").0, StatusCode::OK);
        assert_eq!(health.answer("/").0, StatusCode::NOT_FOUND);
    }
}
