//! HTTP: requests to the store, and watches of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::path::{Named, parameter};
use crate::store::kind_of;
use crate::{Shared, forward};

/// How often a watch says how far it is.
const BOOKMARKS: Duration = Duration::from_secs(1);

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Listens; gives the address and the task that takes connections.
pub(crate) async fn listen(address: SocketAddr, shared: Arc<Shared>) -> Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let bound = listener.local_addr()?;
    let serving = tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let mut cut = shared.cut.subscribe();
                let service = service_fn(|request| answer(request, Arc::clone(&shared)));
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
                tokio::select! {
                    // However it ends, the client sees it.
                    _ = connection => {}
                    _ = cut.changed() => {}
                }
            });
        }
    });
    Ok((bound, serving))
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Answer, Infallible> {
    Ok(respond(request, &shared)
        .await
        .unwrap_or_else(|(code, reason, message)| failure(code, reason, &message)))
}

type Refused = (StatusCode, &'static str, String);

async fn respond(request: Request<Incoming>, shared: &Arc<Shared>) -> Result<Answer, Refused> {
    let nothing =
        || (StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource".to_owned());
    let named = Named::read(request.uri().path()).ok_or_else(nothing)?;
    if named.resource == "selfsubjectaccessreviews.authorization.k8s.io" {
        return review(request, shared).await;
    }
    let query = request.uri().query().map(str::to_owned);
    let is_watch = parameter(query.as_deref(), "watch").is_some_and(|value| value == "true" || value == "1");
    let verb = match (request.method(), &named.name) {
        (&Method::GET, Some(_)) => "get",
        (&Method::GET, None) if is_watch => "watch",
        (&Method::GET, None) => "list",
        (&Method::POST, _) => "create",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, _) => "delete",
        _ => return Err((StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not known here".to_owned())),
    };
    authorize(&request, shared, verb, &named)?;
    if kind_of(&named.resource).is_none() {
        return Err(nothing());
    }
    let of_status = named.subresource.as_deref() == Some("status");
    let (namespace, name) =
        (named.namespace.clone().unwrap_or_default(), named.name.clone().unwrap_or_default());
    let missing = || (StatusCode::NOT_FOUND, "NotFound", format!("{} \"{name}\" not found", named.resource));
    if named.subresource.as_deref() == Some("portforward") {
        return forward_port(request, shared, &namespace, &name, query.as_deref());
    }
    match verb {
        "get" => {
            let found = shared.state().store.get(&named.resource, &namespace, &name).cloned();
            found.map(|object| json_answer(StatusCode::OK, &object)).ok_or_else(missing)
        }
        "list" => Ok(list(shared, &named, query.as_deref())),
        "watch" => Ok(watch(Arc::clone(shared), named, query)),
        "create" => {
            let object = body(request).await?;
            let created = shared.state().store.create(&named.resource, &namespace, object);
            shared.changed.send_modify(|count| *count += 1);
            let refused = |reason| {
                let code =
                    if reason == "AlreadyExists" { StatusCode::CONFLICT } else { StatusCode::BAD_REQUEST };
                (code, reason, format!("{} cannot be created: {reason}", named.resource))
            };
            created.map(|object| json_answer(StatusCode::CREATED, &object)).map_err(refused)
        }
        "patch" => {
            let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            if kind != Some("application/merge-patch+json") {
                let said = format!("patches of type {kind:?} are not known here");
                return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", said));
            }
            let patch = body(request).await?;
            let key = (named.resource.as_str(), namespace.as_str(), name.as_str());
            let patched = shared.state().store.patch(key, of_status, &patch);
            shared.changed.send_modify(|count| *count += 1);
            patched.map(|object| json_answer(StatusCode::OK, &object)).ok_or_else(missing)
        }
        _ => {
            let options = body(request).await.unwrap_or_default();
            let mut state = shared.state();
            let known = state.store.get(&named.resource, &namespace, &name).ok_or_else(missing)?;
            let uid = &options["preconditions"]["uid"];
            if uid.is_string() && *uid != known["metadata"]["uid"] {
                return Err((
                    StatusCode::CONFLICT,
                    "Conflict",
                    "the UID in the precondition does not match".to_owned(),
                ));
            }
            let removed = state.store.remove(&named.resource, &namespace, &name).ok_or_else(missing)?;
            drop(state);
            shared.changed.send_modify(|count| *count += 1);
            Ok(json_answer(StatusCode::OK, &removed))
        }
    }
}

/// Says whether whoever asks may do something.
async fn review(request: Request<Incoming>, shared: &Arc<Shared>) -> Result<Answer, Refused> {
    let user = user_of(&request).ok_or_else(unknown_user)?.to_owned();
    let mut review = body(request).await?;
    let text =
        |field: &str| review["spec"]["resourceAttributes"][field].as_str().filter(|text| !text.is_empty());
    let group = text("group").map_or_else(String::new, |group| format!(".{group}"));
    let subresource = text("subresource").map_or_else(String::new, |name| format!("/{name}"));
    let resource = format!("{}{group}{subresource}", text("resource").unwrap_or_default());
    let may =
        shared.state().rights.may(&user, text("verb").unwrap_or_default(), &resource, text("namespace"));
    review["status"] = json!({ "allowed": may });
    Ok(json_answer(StatusCode::CREATED, &review))
}

/// A port-forward to one port of a pod.
fn forward_port(
    request: Request<Incoming>,
    shared: &Arc<Shared>,
    namespace: &str,
    pod: &str,
    query: Option<&str>,
) -> Result<Answer, Refused> {
    let bad = |what: String| (StatusCode::BAD_REQUEST, "BadRequest", what);
    let port = parameter(query, "ports").and_then(|text| text.parse().ok());
    let port: u16 = port.ok_or_else(|| bad("one port is wanted".to_owned()))?;
    let key = (namespace.to_owned(), pod.to_owned(), port);
    let to = shared.state().forwards.get(&key).copied();
    let to = to.ok_or_else(|| (StatusCode::NOT_FOUND, "NotFound", format!("pods \"{pod}\" not found")))?;
    let headers =
        forward::switch(&request).ok_or_else(|| bad("an upgrade to WebSocket is wanted".to_owned()))?;
    tokio::spawn(forward::carry(request, port, to, shared.cut.subscribe()));
    let mut response = Response::new(Full::new(Bytes::new()).boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    Ok(response)
}

fn authorize(request: &Request<Incoming>, shared: &Shared, verb: &str, named: &Named) -> Result<(), Refused> {
    let user = user_of(request).ok_or_else(unknown_user)?;
    let resource = match &named.subresource {
        Some(subresource) => format!("{}/{subresource}", named.resource),
        None => named.resource.clone(),
    };
    let mut state = shared.state();
    state.asked.push((verb.to_owned(), resource.clone()));
    let namespace = named.namespace.as_deref();
    if state.rights.may(user, verb, &resource, namespace) {
        return Ok(());
    }
    let place = namespace
        .map_or_else(|| "at the cluster scope".to_owned(), |name| format!("in the namespace \"{name}\""));
    let said =
        format!("{resource} is forbidden: User \"{user}\" cannot {verb} resource \"{resource}\" {place}");
    Err((StatusCode::FORBIDDEN, "Forbidden", said))
}

fn user_of(request: &Request<Incoming>) -> Option<&str> {
    request.headers().get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn unknown_user() -> Refused {
    (StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized".to_owned())
}

fn list(shared: &Shared, named: &Named, query: Option<&str>) -> Answer {
    let state = shared.state();
    let items = state.store.list(&named.resource, |object| is_selected(object, named, query));
    let (version, kind) = kind_of(&named.resource).unwrap_or_default();
    let list = json!({
        "apiVersion": version, "kind": format!("{kind}List"),
        "metadata": { "resourceVersion": state.store.version().to_string() }, "items": items,
    });
    json_answer(StatusCode::OK, &list)
}

fn is_selected(object: &Value, named: &Named, query: Option<&str>) -> bool {
    let in_namespace = named
        .namespace
        .as_ref()
        .is_none_or(|namespace| object["metadata"]["namespace"] == namespace.as_str());
    let selector = parameter(query, "fieldSelector").unwrap_or_default();
    let fields = selector.split(',').filter_map(|term| term.split_once('='));
    let labels = parameter(query, "labelSelector").unwrap_or_default();
    let mut labels = labels.split(',').filter_map(|term| term.split_once('='));
    in_namespace
        && labels.all(|(key, value)| object["metadata"]["labels"][key] == value)
        && fields.into_iter().all(|(field, value)| {
            let pointer = format!("/{}", field.trim().replace('.', "/"));
            object.pointer(&pointer).and_then(Value::as_str).unwrap_or_default()
                == value.trim_start_matches('=')
        })
}

/// A line for each change behind the version that was asked for, for as long as the client reads.
fn watch(shared: Arc<Shared>, named: Named, query: Option<String>) -> Answer {
    let (sender, lines) = mpsc::channel(64);
    tokio::spawn(async move {
        let asked = parameter(query.as_deref(), "resourceVersion").and_then(|text| text.parse().ok());
        let mut version: u64 = asked.unwrap_or_else(|| shared.state().store.version());
        let mut changed = shared.changed.subscribe();
        let every = shared.state().bookmarks_every.unwrap_or(BOOKMARKS);
        let (api_version, kind) = kind_of(&named.resource).unwrap_or_default();
        loop {
            changed.mark_unchanged();
            let (changes, now) = {
                let state = shared.state();
                (state.store.since(version, &named.resource), state.store.version())
            };
            let Some(changes) = changes else {
                let gone = status(410, "Expired", "too old resource version");
                let _ = sender.send(json!({ "type": "ERROR", "object": gone })).await;
                return;
            };
            for change in changes {
                if is_selected(&change.object, &named, query.as_deref()) {
                    let line = json!({ "type": change.kind, "object": change.object });
                    if sender.send(line).await.is_err() {
                        return;
                    }
                }
            }
            version = now;
            tokio::select! {
                _ = changed.changed() => {}
                // sleep: a watch says from time to time how far it is.
                () = tokio::time::sleep(every) => {
                    // A history that was forgotten is told of by the next change, as etcd's compaction is.
                    if shared.state().store.since(version, &named.resource).is_none() {
                        continue;
                    }
                    let bookmark = json!({ "apiVersion": api_version, "kind": kind,
                        "metadata": { "resourceVersion": version.to_string() } });
                    if sender.send(json!({ "type": "BOOKMARK", "object": bookmark })).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    let mut response = Response::new(Lines(lines).boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A body of one JSON line after another.
struct Lines(mpsc::Receiver<Value>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|line| line.map(|line| Ok(Frame::data(Bytes::from(format!("{line}\n"))))))
    }
}

async fn body(request: Request<Incoming>) -> Result<Value, Refused> {
    let bad = |what: String| (StatusCode::BAD_REQUEST, "BadRequest", what);
    let bytes = request.into_body().collect().await.map_err(|error| bad(error.to_string()))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code })
}

fn failure(code: StatusCode, reason: &str, message: &str) -> Answer {
    json_answer(code, &status(code.as_u16(), reason, message))
}

fn json_answer(code: StatusCode, value: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed());
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
