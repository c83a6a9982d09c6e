//! The part of the Kubernetes API that tracer uses, spoken truly: lists and watches with resource versions, bookmarks and
//! 410 Gone, selectors by field, creation, merge patches, status as a subresource, deletion with preconditions, and RBAC.
//!
//! A test has it in its own process and can do what a cluster's operator can: change objects as the controllers would,
//! let the history of changes be forgotten, cut all connections, and take rights away.
//!
//! | module | holds |
//! |---|---|
//! | `store` | pure: objects, their versions and the history of changes |
//! | `path` | what a URL names |
//! | `rights` | who may do what |
//! | `serve` | HTTP |
//! | `forward` | port-forward by WebSocket |

mod forward;
mod path;
mod rights;
mod serve;
mod store;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::rights::Rights;
pub use self::rights::Rule;
use self::store::Store;

/// What all connections share.
struct Shared {
    state: Mutex<State>,
    /// Counts changes, and cuts of all connections.
    changed: watch::Sender<u64>,
    cut: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    store: Store,
    rights: Rights,
    /// What pods' ports lead to.
    forwards: BTreeMap<(String, String, u16), SocketAddr>,
    /// Requests by verb and resource, as RBAC has them.
    asked: Vec<(String, String)>,
    /// Of watches that begin from now on.
    bookmarks_every: Option<Duration>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module. Ends with it.
pub struct ApiDouble {
    shared: Arc<Shared>,
    runtime: Runtime,
    serving: Mutex<JoinHandle<()>>,
    address: SocketAddr,
}

impl ApiDouble {
    /// Listens on loopback, with nothing in it.
    ///
    /// # Errors
    /// No thread, or no port.
    pub fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            cut: watch::Sender::new(0),
        });
        let (address, serving) =
            runtime.block_on(serve::listen("127.0.0.1:0".parse()?, Arc::clone(&shared)))?;
        Ok(Self { shared, runtime, serving: Mutex::new(serving), address })
    }

    /// A kubeconfig for a user, whose name is the token. Everything is allowed until [`ApiDouble::allow_only`].
    #[must_use]
    pub fn kubeconfig(&self, user: &str) -> String {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "double",
            "clusters": [{ "name": "double", "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": user, "user": { "token": user } }],
            "contexts": [{ "name": "double", "context": { "cluster": "double", "user": user } }],
        });
        config.to_string()
    }

    /// Writes it to a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_kubeconfig(&self, user: &str, path: &Path) -> Result<()> {
        std::fs::write(path, self.kubeconfig(user))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Watches that begin from now on say how far they are each time after this, instead of every second.
    pub fn bookmarks_every(&self, interval: Duration) {
        self.shared.state().bookmarks_every = Some(interval);
    }

    /// Adds an object, or puts a newer one in its place, as a controller would. Its kind and apiVersion say what it is.
    ///
    /// # Errors
    /// It does not say what it is, or its kind is none that there is.
    pub fn put(&self, object: Value) -> Result<()> {
        self.shared.state().store.put(object)?;
        self.changed();
        Ok(())
    }

    /// Removes an object. Returns whether there was one.
    pub fn remove(&self, resource: &str, namespace: &str, name: &str) -> bool {
        let removed = self.shared.state().store.remove(resource, namespace, name).is_some();
        self.changed();
        removed
    }

    /// Namespace and name of all objects of a resource.
    #[must_use]
    pub fn names(&self, resource: &str) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = self.shared.state().store.list(resource, |_| true);
        all.iter()
            .map(|object| (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"])))
            .collect()
    }

    /// An object as it is now.
    #[must_use]
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.shared.state().store.get(resource, namespace, name).cloned()
    }

    /// Forgets the history of changes: a watch that goes on from before gets 410 Gone.
    pub fn forget_history(&self) {
        self.shared.state().store.forget_history();
    }

    /// From now on this user may do only this.
    pub fn allow_only(&self, user: &str, rules: &[Rule]) {
        self.shared.state().rights.allow_only(user, rules);
    }

    /// Cuts all connections; new ones are taken.
    pub fn cut_connections(&self) {
        self.shared.cut.send_modify(|count| *count += 1);
    }

    /// A port-forward to this port of a pod leads to an address of this machine.
    pub fn forward(&self, namespace: &str, pod: &str, port: u16, to: SocketAddr) {
        self.shared.state().forwards.insert((namespace.to_owned(), pod.to_owned(), port), to);
    }

    /// Ends, and begins again on the same port with the same objects.
    ///
    /// # Errors
    /// The port is taken.
    pub fn restart(&self) -> Result<()> {
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        serving.abort();
        self.cut_connections();
        let ended = self.runtime.block_on(&mut *serving);
        anyhow::ensure!(ended.is_err_and(|ended| ended.is_cancelled()), "the double had ended by itself");
        let (_, again) = self.runtime.block_on(serve::listen(self.address, Arc::clone(&self.shared)))?;
        *serving = again;
        Ok(())
    }

    /// How often a verb was asked of a resource, as RBAC has them.
    #[must_use]
    pub fn asked(&self, verb: &str, resource: &str) -> usize {
        let is_it = |(asked, of): &&(String, String)| asked == verb && of == resource;
        self.shared.state().asked.iter().filter(is_it).count()
    }

    fn changed(&self) {
        self.shared.changed.send_modify(|count| *count += 1);
    }
}
