//! The HTTP endpoint: `/metrics` and nothing else. It has no packet data and no addresses of pods.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE as CONTENT_TYPE_HEADER;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::render::CONTENT_TYPE;

/// A scrape that waits for its text.
pub type Scrape = oneshot::Sender<String>;

/// Scrapes that may wait; more are refused with 503.
const WAITING: usize = 16;
/// A client that has not sent its request by then is let go.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause behind an accept that failed, such as for want of file descriptors.
const RETRY: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {0} for scrapes: {1}; another port can be given with --listen")]
    Listen(SocketAddr, #[source] std::io::Error),
}

/// Listens. Gives the address, with the port that was taken where 0 was asked for, and the scrapes, which whoever has
/// the numbers must answer. Needs a tokio runtime.
///
/// # Errors
/// [`ServeError`].
pub async fn listen(address: SocketAddr) -> Result<(SocketAddr, mpsc::Receiver<Scrape>), ServeError> {
    let refused = |error| ServeError::Listen(address, error);
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    let (sender, scrapes) = mpsc::channel(WAITING);
    tokio::spawn(accept(listener, sender));
    Ok((bound, scrapes))
}

/// Until nobody answers scrapes any more.
async fn accept(listener: TcpListener, scrapes: mpsc::Sender<Scrape>) {
    while !scrapes.is_closed() {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot take a scrape: {error}");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let scrapes = scrapes.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, scrapes.clone()));
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!("a scrape ended early: {error}");
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    scrapes: mpsc::Sender<Scrape>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = "text/plain; charset=utf-8";
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match scrape(&scrapes).await {
            Some(text) => (StatusCode::OK, CONTENT_TYPE, text),
            None => (StatusCode::SERVICE_UNAVAILABLE, plain, "too many scrapes at once\n".to_owned()),
        },
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, plain, "only GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, plain, "only /metrics is here\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE_HEADER, hyper::header::HeaderValue::from_static(kind));
    Ok(response)
}

async fn scrape(scrapes: &mpsc::Sender<Scrape>) -> Option<String> {
    let (sender, text) = oneshot::channel();
    scrapes.try_send(sender).ok()?;
    text.await.ok()
}
