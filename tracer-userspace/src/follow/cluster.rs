//! `tracer follow` by a cluster's agents.
//!
//! ```text
//! API server ─► names, kept up to date ─► selection ─► PacketTrace ─► agents arm
//!      └─ port-forward to the agent of each node involved ─► streams ─► merge ─► correlate ─► tell
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::api::{Api, DynamicObject, ListParams};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracer_manifest::Kind;

use super::agents::{Asking, Begun};
use super::expected::Ways;
use super::joining::Joining;
use super::merge;
use super::run::block_on;
use super::select::Selection;
use super::signals::Interrupted;
use super::teller::Telling;
use super::trace::Trace;
use super::wanted::resolve;
use crate::app::{Failure, notice};
use crate::cli::{RunArgs, SelectionArgs};
use crate::inventory::Inventory;
use crate::kubernetes::agents::Agents;
use crate::kubernetes::cluster::{Access, Attempt, Cluster, resource_of};
use crate::kubernetes::watch::{Change, Told, objects};
use crate::node::site::{Names, monotonic_ns};
use crate::trajectory::expect::topology::PlannedWay;
use crate::trajectory::model::PodRef;

/// The kinds that names are made of, as RBAC calls them.
const KINDS: [(Kind, &str); 4] = [
    (Kind::Node, "nodes"),
    (Kind::Pod, "pods"),
    (Kind::Service, "services"),
    (Kind::EndpointSlice, "endpointslices.discovery.k8s.io"),
];
/// Changes that may wait.
const CHANGES: usize = 1024;
const STREAMS: usize = 64;

/// Runs until the count, the time or a signal ends it.
///
/// # Errors
/// [`Failure`]; the PacketTrace is deleted then.
pub fn run(args: &RunArgs, telling: Telling<'_>) -> Result<(), Failure> {
    block_on(async {
        let mut interrupted = Interrupted::listen()?;
        let access =
            Access { kubeconfig: args.cluster.kubeconfig.clone(), context: args.cluster.context.clone() };
        let (cluster, mut feed) = tokio::select! {
            biased;
            () = interrupted.wait() => return Ok(()),
            opened = open(&access, &args.selection) => opened?,
        };
        let selection = feed.names.with(|inventory| resolve(inventory, &feed.asked))?;
        for note in &selection.notes {
            notice(&format!("note: {note}"));
        }
        feed.names.with(|inventory| refuse_host_network(inventory, &selection))?;
        let joining = Joining::new(args, telling, &selection, feed.names.clone(), monotonic_ns())?;
        let trace = Trace::make(&cluster, &selection, telling.capture_bytes()).await?;
        let kept = feed.follow(&cluster, &args.cluster.agents_namespace, trace, &selection).await?;
        let result = merge::run_with(args, selection, joining, feed, interrupted).await;
        // With the feed went the last who could change the trace: it is being deleted.
        let _ = kept.await;
        result
    })
}

/// Agents follow pods by their own addresses, and these have their node's: said before anything is asked for.
fn refuse_host_network(inventory: &Inventory, selection: &Selection) -> Result<(), Failure> {
    let is_hosts =
        |pod: &&Arc<PodRef>| inventory.pods().any(|entry| entry.pod == **pod && entry.host_network);
    match selection.a.pods.iter().find(is_hosts) {
        None => Ok(()),
        Some(pod) => Err(Failure::Failed(format!(
            "pod {}/{} uses its node's network: its packets have the node's addresses, as those of everybody there, so agents \
             do not follow it; name it by --to and the other end by --pod, or follow on the node itself (--local)",
            pod.namespace, pod.name
        ))),
    }
}

async fn open(access: &Access, asked: &SelectionArgs) -> Result<(Cluster, Feed), Failure> {
    let cluster = Cluster::connect(access).await?;
    notice(&format!("note: asking {} for pods, Services and nodes", cluster.server));
    let feed = Feed::open(&cluster, asked).await?;
    Ok((cluster, feed))
}

/// What comes from the cluster beside the streams' messages.
pub(super) enum News {
    Stream(Begun),
    /// What nodes say of the way between them.
    Ways(Vec<PlannedWay>),
    /// Pods came or went.
    Selection(Box<Selection>),
}

/// See the module.
pub(super) struct Feed {
    names: Names,
    asked: SelectionArgs,
    changes: mpsc::Receiver<Told>,
    begun: mpsc::Receiver<Begun>,
    asking: Option<Asking>,
    ways: Option<Ways>,
    found_ways: mpsc::Receiver<Vec<PlannedWay>>,
    /// What is followed, for the task that keeps the trace.
    selection: Option<watch::Sender<Selection>>,
    /// Nodes whose agents are asked, or that have none.
    nodes: BTreeSet<String>,
    streams: usize,
    /// Why nothing is selected any more, as was said.
    missing: Option<String>,
}

impl Feed {
    /// Reads all names.
    async fn open(cluster: &Cluster, asked: &SelectionArgs) -> Result<Self, Failure> {
        let (names, changes) = read_names(cluster).await?;
        let namespace = asked.namespace.clone().or_else(|| Some(cluster.namespace.clone()));
        let asked = SelectionArgs { namespace, ..asked.clone() };
        let ((_, begun), (_, found_ways)) = (mpsc::channel(1), mpsc::channel(1));
        Ok(Self {
            names,
            asked,
            changes,
            begun,
            asking: None,
            ways: None,
            found_ways,
            selection: None,
            nodes: BTreeSet::new(),
            streams: 0,
            missing: None,
        })
    }

    /// Asks the agents that a trace concerns; gives the task that keeps the trace, and deletes it when the feed goes.
    async fn follow(
        &mut self,
        cluster: &Cluster,
        namespace: &str,
        trace: Trace,
        selection: &Selection,
    ) -> Result<JoinHandle<()>, Failure> {
        let (streams, begun) = mpsc::channel(STREAMS);
        let asking = Asking {
            agents: Agents { cluster: cluster.clone(), namespace: namespace.to_owned() },
            key: trace.key.clone(),
            secret: trace.secret.clone(),
            begun: streams,
        };
        let (sender, receiver) = watch::channel(selection.clone());
        let kept = tokio::spawn(trace.keep(receiver));
        let agents = match asking.agents.find().await {
            Ok(agents) => agents,
            Err(failure) => {
                drop(sender);
                let _ = kept.await;
                return Err(failure);
            }
        };
        let (ways, found_ways) = Ways::new(asking.agents.clone());
        (self.ways, self.found_ways) = (Some(ways), found_ways);
        (self.begun, self.asking, self.selection) = (begun, Some(asking), Some(sender));
        self.ask_for_ways(selection);
        for node in self.nodes_of(selection) {
            if agents.contains_key(&node) {
                self.streams += 1;
            }
            self.ask(node);
        }
        Ok(kept)
    }

    /// How many streams are to come before all are there.
    pub(super) fn streams_at_first(&self) -> usize {
        self.streams
    }

    /// What comes next. May be dropped and asked again at any time.
    pub(super) async fn next(&mut self) -> News {
        loop {
            tokio::select! {
                Some(begun) = self.begun.recv() => return News::Stream(begun),
                Some(ways) = self.found_ways.recv() => return News::Ways(ways),
                Some(told) = self.changes.recv() => {
                    if let Some(selection) = self.take(told) {
                        return News::Selection(Box::new(selection));
                    }
                }
                else => return std::future::pending().await,
            }
        }
    }

    /// Asks the agents of nodes that were not concerned before.
    pub(super) fn ask_for(&mut self, selection: &Selection) {
        for node in self.nodes_of(selection) {
            self.ask(node);
        }
        self.ask_for_ways(selection);
    }

    fn ask_for_ways(&mut self, selection: &Selection) {
        if let Some(ways) = &mut self.ways {
            self.names.with(|inventory| ways.ask(inventory, selection));
        }
    }

    /// The selection, if the change makes another one of it.
    fn take(&mut self, told: Told) -> Option<Selection> {
        let Told::Objects(kind, change) = told else { return None };
        complain(self.names.take(kind, change, monotonic_ns()));
        let selection = match self.names.with(|inventory| resolve(inventory, &self.asked)) {
            Ok(selection) => {
                self.missing = None;
                selection
            }
            // The pod may come back under the same name; until then its last addresses are followed.
            Err(error) => {
                let text = error.to_string();
                if self.missing.as_ref() != Some(&text) {
                    notice(&format!(
                        "note: {text}; until that changes, what was followed last is followed on"
                    ));
                    self.missing = Some(text);
                }
                let mut last = self.selection.as_ref()?.borrow().clone();
                self.names.with(|inventory| last.release_taken(inventory));
                last
            }
        };
        let is_other = self.selection.as_ref()?.send_if_modified(|known| {
            let is_other = *known != selection;
            if is_other {
                known.clone_from(&selection);
            }
            is_other
        });
        is_other.then_some(selection)
    }

    fn nodes_of(&self, selection: &Selection) -> Vec<String> {
        match selection.scope().nodes {
            Some(nodes) => nodes.iter().map(ToString::to_string).collect(),
            None => {
                self.names.with(|inventory| inventory.nodes().map(|node| node.name.to_string()).collect())
            }
        }
    }

    fn ask(&mut self, node: String) {
        if let Some(asking) = &self.asking
            && self.nodes.insert(node.clone())
        {
            tokio::spawn(asking.clone().keep_asking(node));
        }
    }
}

/// Reads all names, and goes on watching them.
///
/// # Errors
/// They may not be listed.
pub(crate) async fn read_names(cluster: &Cluster) -> Result<(Names, mpsc::Receiver<Told>), Failure> {
    for (kind, resource) in KINDS {
        let attempt = Attempt { verb: "list", resource, namespace: None };
        let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &resource_of(kind));
        let listed = api.list(&ListParams::default().limit(1)).await;
        listed.map_err(|error| Failure::Failed(attempt.explain(&error)))?;
    }
    let (sender, mut changes) = mpsc::channel(CHANGES);
    for (kind, _) in KINDS {
        objects(&cluster.client, kind, None, sender.clone());
    }
    let names = Names::none();
    let mut awaited: Vec<Kind> = KINDS.iter().map(|(kind, _)| *kind).collect();
    while !awaited.is_empty() {
        let Some(Told::Objects(kind, change)) = changes.recv().await else {
            return Err(Failure::Failed("the watches of the API server have ended".to_owned()));
        };
        if matches!(change, Change::All(_)) {
            awaited.retain(|other| *other != kind);
        }
        complain(names.take(kind, change, 0));
    }
    Ok((names, changes))
}

fn complain(trouble: Option<String>) {
    if let Some(trouble) = trouble {
        notice(&format!("warning: {trouble}"));
    }
}
