//! The agent: one task that has the machine, and everything else asks it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracer_manifest::Kind;

use super::api::{self, Call, Denial, wire::Description};
use super::describe::Describer;
use super::health::{self, Health};
use super::outbox::IN_FLIGHT;
use super::request::{TraceKey, Wanted};
use super::subscribers::{self, Identity, Subscribers};
use super::traces::{Traces, Verified};
use super::verify::{Unverified, verify};
use crate::agent::metrics::render::render;
use crate::agent::metrics::serve::{self, Scrape};
use crate::agent::metrics::source::AgentState;
use crate::agent::observer::ObserverOptions;
use crate::agent::preflight;
use crate::agent::programs::LoadOptions;
use crate::app::Failure;
use crate::cli::AgentArgs;
use crate::follow::run::{Ending, block_on, ticks, wait_for_end};
use crate::follow::signals::Interrupted;
use crate::host::kernel::{Feature, Kernel};
use crate::host::plan::Scope;
use crate::kubernetes::cluster::{Access, Attempt, Cluster};
use crate::kubernetes::packet_trace::{AgentStatus, PacketTrace};
use crate::kubernetes::watch::{self, Change, Told};
use crate::node::machine::{Machine, drop_reasons};
use crate::node::site::{Names, Site, boot_id, monotonic_ns};

/// How often streams get what waits.
const TICK: Duration = Duration::from_millis(20);
/// How often what has a time is looked at: ends of traces, what is to be verified again.
const SECOND: Duration = Duration::from_secs(1);
/// Seconds after which pods of other nodes are verified again: nobody tells of those, and their addresses may be others'.
const VERIFY_AGAIN: u32 = 5;
/// Changes of the API server that may wait.
const CHANGES: usize = 256;
/// How long an expired trace stays to be read, seconds.
const EXPIRED_STAYS_S: i64 = 60;

/// Runs until a signal ends it.
///
/// # Errors
/// [`Failure`]; nothing of ours is attached then.
pub fn run(args: &AgentArgs) -> Result<(), Failure> {
    let kernel = preflight::check().map_err(|error| Failure::Failed(error.to_string()))?;
    block_on(async {
        let interrupted = Interrupted::listen()?;
        let health = Arc::new(Health::default());
        health.turn();
        let access = Access { kubeconfig: args.kubeconfig.clone(), context: args.context.clone() };
        let cluster = Cluster::connect(&access).await?;
        let (api, calls) = api::listen(args.listen).await?;
        let probes = health::listen(args.probes, Arc::clone(&health)).await?;
        let scrapes = match args.metrics {
            Some(address) => {
                let listening = serve::listen(address).await;
                let (address, scrapes) = listening.map_err(|error| Failure::Failed(error.to_string()))?;
                tracing::info!(metrics = %address, sample = args.sample, "metrics are served");
                scrapes
            }
            // Nobody will ask.
            None => mpsc::channel(1).1,
        };
        tracing::info!(node = args.node_name, server = cluster.server, listen = %api.address, %probes, "the agent starts");
        let end = wait_for_end(interrupted, None);
        tokio::pin!(end);
        let starting = Agent::start(args, &kernel, cluster.client, (calls, scrapes), Arc::clone(&health));
        let mut agent = tokio::select! {
            biased;
            _ = &mut end => return Ok(()),
            agent = starting => agent?,
        };
        if agent.measures {
            agent.rearm();
        }
        give_back_memory();
        tracing::info!(node = args.node_name, kernel = kernel.release, "the agent is ready");
        health.set_ready(true);
        let result = loop {
            tokio::select! {
                biased;
                Ending::Done | Ending::Interrupted = &mut end => break Ok(()),
                turned = agent.turn() => if let Err(error) = turned { break Err(error) },
            }
        };
        health.set_ready(false);
        agent.stop();
        // With it go the streams' senders: callers see the end.
        drop(agent);
        api.end().await;
        tracing::info!("the agent has ended");
        result
    })
}

/// Detaches when dropped.
struct Agent {
    identity: Identity,
    client: Client,
    names: Names,
    machine: Machine,
    describer: Describer,
    knows_drops: bool,
    traces: Traces,
    subscribers: Subscribers,
    calls: mpsc::Receiver<Call>,
    scrapes: mpsc::Receiver<Scrape>,
    /// All devices of the node are observed all the time.
    measures: bool,
    /// Sampled packets that were evicted, as last served: that number must not fall.
    evicted: u64,
    /// Callers that were refused.
    denied: u64,
    changes: mpsc::Receiver<Told>,
    verifying: JoinSet<(TraceKey, Wanted, Result<Verified, Unverified>)>,
    /// To be verified at the next second, whatever is known: pods of this node have changed.
    verify_all: bool,
    /// Could not be verified.
    again: Vec<(TraceKey, Wanted)>,
    seconds: tokio::time::Interval,
    ticks: tokio::time::Interval,
    turn: u32,
    health: Arc<Health>,
}

impl Agent {
    /// Waits for what the API server has of this node, and loads the programs; attaches nothing.
    async fn start(
        args: &AgentArgs,
        kernel: &Kernel,
        client: Client,
        (calls, scrapes): (mpsc::Receiver<Call>, mpsc::Receiver<Scrape>),
        health: Arc<Health>,
    ) -> Result<Self, Failure> {
        let node = args.node_name.clone();
        let (sender, mut changes) = mpsc::channel(CHANGES);
        let own = format!("metadata.name={node}");
        watch::objects(&client, Kind::Node, Some(&own), sender.clone());
        watch::objects(&client, Kind::Pod, Some(&format!("spec.nodeName={node}")), sender.clone());
        let names = Names::none();
        wait_for_lists(&node, &names, &mut changes, &health).await?;
        watch::traces(&client, sender);
        let reasons = drop_reasons(kernel);
        let knows_drops = reasons.is_some();
        let has_tcx = kernel.has(Feature::Tcx);
        let options = ObserverOptions {
            attach: args.attach,
            load: LoadOptions {
                ring_bytes: args.ring_bytes,
                log_level: args.program_log as u8,
                // Somebody may have the right to it.
                captures: true,
                sample: args.sample,
                ..LoadOptions::default()
            },
            vxlan_port: args.vxlan_port,
            has_tcx,
            groups: args.legs.groups(),
        };
        let site = Site::told(names.clone())?;
        let machine = Machine::start(site, vec![node.clone()], options, reasons)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        let identity =
            Identity { node: node.clone(), kernel_release: kernel.release.clone(), boot_id: boot_id()? };
        Ok(Self {
            identity,
            client,
            names,
            machine,
            describer: Describer::new(kernel),
            knows_drops,
            traces: Traces::new(&node),
            subscribers: Subscribers::default(),
            calls,
            scrapes,
            measures: args.sample.is_some(),
            evicted: 0,
            denied: 0,
            changes,
            verifying: JoinSet::new(),
            verify_all: false,
            again: Vec::new(),
            seconds: ticks(SECOND),
            ticks: ticks(TICK),
            turn: 0,
            health,
        })
    }

    /// Waits for what happens next and does what is to be done then. May be dropped and called again at any time.
    async fn turn(&mut self) -> Result<(), Failure> {
        // In this order: what comes seldom before what may come without a pause.
        tokio::select! {
            biased;
            _ = self.seconds.tick() => self.look_at_times(),
            Some(call) = self.calls.recv() => self.answer(call),
            Some(scrape) = self.scrapes.recv() => self.tell_metrics(scrape),
            Some(change) = self.changes.recv() => self.take_change(change),
            Some(verified) = self.verifying.join_next(), if !self.verifying.is_empty() => {
                if let Ok((key, wanted, verified)) = verified {
                    self.settle(key, wanted, verified);
                }
            }
            _ = self.ticks.tick(), if !self.subscribers.is_empty() => self.tell(),
            happening = self.machine.next() => {
                let Self { machine, subscribers, traces, .. } = self;
                // The inventory has no file that could change.
                let _ = machine.take(happening?, &mut |event| subscribers.take(event, traces));
            }
        }
        Ok(())
    }

    fn tell_metrics(&mut self, scrape: Scrape) {
        let mut source = match self.machine.metrics() {
            Ok(source) => source,
            Err(error) => return tracing::warn!("a scrape is not answered: {error}"),
        };
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.evicted = self.evicted.max(source.measured.evicted);
        source.measured.evicted = self.evicted;
        let [armed, refused, expired] = self.traces.count().map(number);
        let (streams, denied) = (number(self.subscribers.len()), self.denied);
        let pods = number(self.own_pods());
        source.agent = Some(AgentState { armed, refused, expired, streams, denied, pods });
        // Whoever asked may have gone.
        let _ = scrape.send(render(&source));
    }

    /// Those with a network of their own.
    fn own_pods(&self) -> usize {
        self.names.with(|inventory| {
            inventory.pods().filter(|entry| !entry.host_network && !entry.is_finished()).count()
        })
    }

    /// All that was seen before the ring was last empty is told by the heartbeat that follows.
    fn tell(&mut self) {
        let Self { machine, subscribers, traces, .. } = self;
        let until_ns = machine.read_until_ns();
        machine.drain(&mut |event| subscribers.take(event, traces));
        subscribers.beat(machine, until_ns);
    }

    fn take_change(&mut self, told: Told) {
        match told {
            Told::Objects(kind, change) => {
                if let Some(trouble) = self.names.take(kind, change, monotonic_ns()) {
                    tracing::warn!("{trouble}");
                }
                self.machine.look_again(Duration::ZERO);
                self.verify_all = true;
            }
            Told::Traces(change) => self.take_traces(*change),
        }
    }

    fn take_traces(&mut self, change: Change<PacketTrace>) {
        let now_ns = monotonic_ns();
        match change {
            Change::All(traces) => {
                let listed = traces.iter().filter_map(TraceKey::of).collect();
                self.traces.retain(&listed, now_ns);
                traces.iter().for_each(|trace| self.put(trace));
            }
            Change::Put(trace) => self.put(&trace),
            Change::Gone(trace) => {
                if let Some(key) = TraceKey::of(&trace) {
                    self.traces.remove(&key, now_ns);
                }
            }
            Change::Trouble(trouble) => {
                tracing::warn!("cannot watch packettraces.tracer.dev in the whole cluster: {trouble}");
                return;
            }
        }
        self.rearm();
    }

    fn put(&mut self, trace: &PacketTrace) {
        if let Some((key, wanted)) = self.traces.put(trace, now_s(), monotonic_ns()) {
            tracing::info!(trace = %key, follows = trace.spec.follows, client = trace.spec.client, "a PacketTrace");
            self.verify(key, wanted);
        }
    }

    fn verify(&mut self, key: TraceKey, wanted: Wanted) {
        let (client, names, node) = (self.client.clone(), self.names.clone(), self.identity.node.clone());
        self.verifying.spawn(async move {
            let verified = verify(&client, &names, &node, &key, &wanted).await;
            (key, wanted, verified)
        });
    }

    fn settle(&mut self, key: TraceKey, wanted: Wanted, verified: Result<Verified, Unverified>) {
        let verified = match verified {
            Ok(verified) => Ok(verified),
            Err(Unverified::Refused(why)) => Err(why),
            Err(Unverified::Unknown(why)) => {
                tracing::warn!(trace = %key, "not verified, and tried again: {why}");
                self.again.push((key, wanted));
                return;
            }
        };
        self.traces.settle(&key, &wanted, verified, self.machine.read_until_ns(), monotonic_ns());
        self.rearm();
    }

    /// Brings machine, streams and statuses to what the traces are now.
    fn rearm(&mut self) {
        let filters = self.traces.filters();
        if filters.is_empty() && !self.measures {
            if let Err(error) = self.machine.ignore_drops() {
                tracing::warn!("the kernel goes on telling of drops: {error}");
            }
        } else if self.knows_drops
            && !self.machine.watches_drops()
            && let Err(error) = self.machine.watch_drops()
        {
            tracing::warn!("the kernel does not tell of drops: {error}");
            self.knows_drops = false;
        }
        let Self { machine, subscribers, traces, .. } = self;
        let scope = if self.measures { Scope::everything() } else { traces.scope() };
        if let Err(error) = machine.want(&filters, scope, &mut |event| subscribers.take(event, traces)) {
            tracing::error!("not all that is asked for is recorded: {error}");
        }
        subscribers.end_outdated(traces);
        subscribers.renew_points(traces);
        for (key, status) in traces.take_news() {
            tracing::info!(trace = %key, state = ?status.state, message = status.message, "a PacketTrace's state");
            tokio::spawn(tell_status(self.client.clone(), self.identity.node.clone(), key, status));
        }
    }

    fn look_at_times(&mut self) {
        self.health.turn();
        self.turn = self.turn.wrapping_add(1);
        let now_s = now_s();
        if self.traces.expire(now_s, monotonic_ns()) {
            self.rearm();
        }
        for key in self.traces.take_outlived(now_s - EXPIRED_STAYS_S) {
            tokio::spawn(delete(self.client.clone(), key));
        }
        if std::mem::take(&mut self.verify_all) || self.turn.is_multiple_of(VERIFY_AGAIN) {
            let armed: Vec<_> =
                self.traces.armed().map(|(key, wanted)| (key.clone(), wanted.clone())).collect();
            armed.into_iter().for_each(|(key, wanted)| self.verify(key, wanted));
        }
        std::mem::take(&mut self.again).into_iter().for_each(|(key, wanted)| self.verify(key, wanted));
    }

    fn answer(&mut self, call: Call) {
        match call {
            Call::Describe(answer) => self.describe(answer),
            Call::Look { question, answer } => self.describer.look(question, self.machine.site(), answer),
            Call::Observe { key, secret, answer } => self.observe(key, &secret, answer),
        }
    }

    fn observe(
        &mut self,
        key: TraceKey,
        secret: &[u8],
        answer: oneshot::Sender<Result<mpsc::Receiver<crate::stream::wire::Message>, Denial>>,
    ) {
        let admitted = match self.traces.admit(&key, secret) {
            Ok(_) if self.subscribers.len() >= subscribers::MOST => Err(Denial::TooMany),
            Ok(admission) => Ok(admission),
            Err(refusal) => Err(Denial::Refusal(refusal)),
        };
        let admission = match admitted {
            Ok(admission) => admission,
            Err(denial) => {
                tracing::warn!(trace = %key, denial = ?denial, "a caller is refused");
                self.denied += 1;
                let _ = answer.send(Err(denial));
                return;
            }
        };
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        tracing::info!(trace = %key, "a caller is served");
        self.subscribers.add(key, admission, sender, &self.identity, &self.machine, &self.traces);
        let _ = answer.send(Ok(receiver));
    }

    fn describe(&self, answer: oneshot::Sender<Description>) {
        let pods = self.own_pods();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let outline = Description {
            knows_drops: self.knows_drops,
            pods: number(pods),
            traces: number(self.traces.armed().count()),
            points: number(self.subscribers.points()),
            ..self.describer.outline(&self.identity)
        };
        self.describer.answer(outline, self.machine.site(), answer);
    }

    /// Detaches, tells the streams what was still seen, and ends them.
    fn stop(&mut self) {
        let Self { machine, subscribers, traces, .. } = self;
        let until_ns = monotonic_ns();
        machine.stop(&mut |event| subscribers.take(event, traces));
        subscribers.beat(machine, until_ns);
        subscribers.end_all("the agent is ending");
    }
}

/// Until this node and its pods are known.
async fn wait_for_lists(
    node: &str,
    names: &Names,
    changes: &mut mpsc::Receiver<Told>,
    health: &Health,
) -> Result<(), Failure> {
    let mut awaited = vec![Kind::Node, Kind::Pod];
    let mut seconds = ticks(SECOND);
    while !awaited.is_empty() {
        let told = tokio::select! {
            told = changes.recv() => told,
            _ = seconds.tick() => {
                health.turn();
                continue;
            }
        };
        let Some(Told::Objects(kind, change)) = told else {
            return Err(Failure::Failed("the watches of the API server have ended".to_owned()));
        };
        if matches!(change, Change::All(_)) {
            awaited.retain(|other| *other != kind);
        }
        if let Some(trouble) = names.take(kind, change, monotonic_ns()) {
            let resource = if kind == Kind::Node { "nodes" } else { "pods" };
            tracing::warn!("cannot list {resource}: {trouble}");
        }
    }
    if names.with(|inventory| inventory.node(node).is_none()) {
        return Err(Failure::Failed(format!(
            "the API server has no node {node}: --node-name (or NODE_NAME) must be the spec.nodeName of this pod"
        )));
    }
    Ok(())
}

async fn tell_status(client: Client, node: String, key: TraceKey, status: AgentStatus) {
    let traces: Api<PacketTrace> = Api::namespaced(client, &key.namespace);
    let patch = json!({ "status": { "agents": { node: status } } });
    let patched = traces.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
    match patched {
        Ok(_) => {}
        // It went meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => {
            let attempt = Attempt {
                verb: "patch",
                resource: "packettraces.tracer.dev/status",
                namespace: Some(&key.namespace),
            };
            tracing::warn!(trace = %key, "{}", attempt.explain(&error));
        }
    }
}

async fn delete(client: Client, key: TraceKey) {
    let traces: Api<PacketTrace> = Api::namespaced(client, &key.namespace);
    let preconditions = Preconditions { uid: Some(key.uid.clone()), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match traces.delete(&key.name, &parameters).await {
        Ok(_) => tracing::info!(trace = %key, "an expired PacketTrace is removed"),
        // Another agent was first.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => {
            let attempt = Attempt {
                verb: "delete",
                resource: "packettraces.tracer.dev",
                namespace: Some(&key.namespace),
            };
            tracing::warn!(trace = %key, "{}", attempt.explain(&error));
        }
    }
}

/// Reading the kernel's types and loading the programs took some 20 MiB that nobody needs again, and glibc keeps what was
/// freed.
#[cfg(target_env = "gnu")]
fn give_back_memory() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // SAFETY: glibc's own function; it takes any number and may be called at any time, from any thread.
    unsafe { malloc_trim(0) };
}

/// Other allocators do as they like.
#[cfg(not(target_env = "gnu"))]
fn give_back_memory() {}

/// By the wall clock, as ends of traces are told.
fn now_s() -> i64 {
    Timestamp::now().as_second()
}

/// Where it listens unless told otherwise.
pub const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4280);
