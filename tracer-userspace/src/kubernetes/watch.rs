//! Objects as they come and go. Lists come in pages, watches go on where they were, and begin anew with a list when the
//! API server has forgotten that place; what fails is tried again, ever less often.

use std::fmt::Debug;

use futures_util::StreamExt as _;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_stream};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracer_manifest::{Kind, Object};

use super::cluster::{chain, read, resource_of};
use super::packet_trace::PacketTrace;

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum Change<T> {
    /// All there are: what was known and is not in it is gone.
    All(Vec<T>),
    /// New, or changed.
    Put(T),
    Gone(T),
    /// It does not get through, and goes on trying.
    Trouble(String),
}

/// Of which watch.
#[derive(Clone, Debug)]
pub enum Told {
    Objects(Kind, Change<Object>),
    Traces(Box<Change<PacketTrace>>),
}

/// Watches the objects of one kind in all namespaces, those that the field selector chooses. Ends with the receiver.
pub fn objects(
    client: &Client,
    kind: Kind,
    fields: Option<&str>,
    sender: mpsc::Sender<Told>,
) -> JoinHandle<()> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource_of(kind));
    let convert = move |object: DynamicObject| {
        read(kind, &object).map_err(|error| {
            let name = object.metadata.name.unwrap_or_default();
            format!("{} {name} cannot be read: {error}", kind.name())
        })
    };
    run(api, fields, convert, move |change| Told::Objects(kind, change), sender)
}

/// Watches all PacketTraces. Ends with the receiver.
pub fn traces(client: &Client, sender: mpsc::Sender<Told>) -> JoinHandle<()> {
    let tell = |change| Told::Traces(Box::new(change));
    run(Api::all(client.clone()), None, Ok, tell, sender)
}

fn run<K, T>(
    api: Api<K>,
    fields: Option<&str>,
    convert: impl Fn(K) -> Result<T, String> + Send + 'static,
    tell: impl Fn(Change<T>) -> Told + Send + 'static,
    sender: mpsc::Sender<Told>,
) -> JoinHandle<()>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    T: Send + 'static,
{
    let mut config = watcher::Config::default();
    if let Some(fields) = fields {
        config = config.fields(fields);
    }
    tokio::spawn(async move {
        let mut events = std::pin::pin!(watch_stream(api, config).default_backoff());
        let mut listed = Vec::new();
        while let Some(event) = events.next().await {
            let change = match event {
                Ok(Event::Init) => {
                    listed.clear();
                    continue;
                }
                Ok(Event::InitApply(object)) => match convert(object) {
                    Ok(object) => {
                        listed.push(object);
                        continue;
                    }
                    Err(trouble) => Change::Trouble(trouble),
                },
                Ok(Event::InitDone) => Change::All(std::mem::take(&mut listed)),
                Ok(Event::Apply(object)) => convert(object).map_or_else(Change::Trouble, Change::Put),
                Ok(Event::Delete(object)) => convert(object).map_or_else(Change::Trouble, Change::Gone),
                Err(error) => Change::Trouble(chain(&error)),
            };
            if sender.send(tell(change)).await.is_err() {
                return;
            }
        }
    })
}
