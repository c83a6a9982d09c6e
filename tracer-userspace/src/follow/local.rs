//! `tracer follow --local`: observe, correlate and tell on one machine, in one process.
//!
//! ```text
//! ring thread ─► records ─► attribute ─► correlate ─► tell        one task; it waits for
//! link watches ─► look over the machine again ─► attach           records, links, clock, Ctrl-C
//! ```

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracer_common::record::HopRecord;

use super::select::{Request, Selection, select};
use super::silence;
use super::site::{Site, monotonic_ns};
use super::teller::Teller;
use crate::agent::attach::AttachError;
use crate::agent::filters::FollowFilter;
use crate::agent::observer::{Losses, Observer, ObserverOptions};
use crate::agent::preflight;
use crate::agent::programs::LoadOptions;
use crate::app::{Failure, notice};
use crate::cli::{FollowArgs, SelectionArgs};
use crate::host::links::{LinkEvent, LinkWatch, watch};
use crate::host::netns::NetnsId;
use crate::host::plan::{PlannedDevice, plan_points};
use crate::host::survey::{LocalPod, ProblemKind};
use crate::trajectory::correlate::{Correlator, CorrelatorConfig, FollowScope};
use crate::trajectory::model::Trajectory;

/// How often finished trajectories are collected and losses read: the most that it delays a line.
const TICK: Duration = Duration::from_millis(20);
/// How often the slow things are looked at: the inventory's file, who got before us on a hook.
const CHORES: Duration = Duration::from_secs(1);
/// Nothing told for this long: say what we wait for.
const SILENCE: Duration = Duration::from_secs(5);
/// How long links may go on changing before the machine is looked over again: a pod's start changes several.
const SETTLE: Duration = Duration::from_millis(30);
/// Link events that may wait; more are a resync.
const LINK_EVENTS: usize = 1024;

/// Runs until the count, the time or Ctrl-C ends it.
///
/// # Errors
/// [`Failure`]; nothing of ours is attached then.
pub fn run(args: &FollowArgs) -> Result<(), Failure> {
    for shortcoming in check_preflight()? {
        notice(&format!("note: {shortcoming}"));
    }
    let site = Site::open(args.source.inventory.clone())?;
    let selection = site.names().with(|inventory| resolve(inventory, &args.selection))?;
    for note in &selection.notes {
        notice(&format!("note: {note}"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let mut follow = Follow::start(args, site, selection)?;
        let result = follow.until_the_end(args).await;
        follow.finish(result)
    })
}

pub(super) fn check_preflight() -> Result<preflight::Shortcomings, Failure> {
    preflight::check().map_err(|error| Failure::Failed(error.to_string()))
}

/// What the user asked for, in the inventory's terms.
pub(super) fn resolve(
    inventory: &crate::inventory::Inventory,
    args: &SelectionArgs,
) -> Result<Selection, Failure> {
    let request = Request {
        namespace: args.namespace.clone(),
        pod: args.pod.clone(),
        to: args.to.clone(),
        ports: args.ports.clone(),
        protocol: args.protocol.clone(),
    };
    select(inventory, &request).map_err(|error| {
        if error.is_usage() { Failure::Usage(error.to_string()) } else { Failure::Failed(error.to_string()) }
    })
}

/// Why the loop ended.
enum End {
    /// Enough was told, or the time is over.
    Done,
    /// Ctrl-C, or SIGTERM.
    Interrupted,
}

struct Follow<'a> {
    args: &'a FollowArgs,
    site: Site,
    selection: Selection,
    observer: Observer,
    records: mpsc::Receiver<Vec<HopRecord>>,
    links: mpsc::Receiver<LinkEvent>,
    link_sender: mpsc::Sender<LinkEvent>,
    watches: Vec<LinkWatch>,
    watched: HashSet<NetnsId>,
    correlator: Correlator<super::site::Names>,
    known_points: usize,
    losses: Losses,
    teller: Teller,
    last_told: Instant,
    program_log: Box<dyn FnMut()>,
    /// Devices that could not be attached to: complained about once.
    refused: HashSet<(NetnsId, u32)>,
}

impl<'a> Follow<'a> {
    /// Loads, attaches, and says so.
    fn start(args: &'a FollowArgs, site: Site, selection: Selection) -> Result<Self, Failure> {
        let options = ObserverOptions {
            attach: args.attach,
            load: LoadOptions { ring_bytes: args.ring_bytes, log_level: args.program_log as u8 },
            vxlan_port: args.vxlan_port,
        };
        let (mut observer, records) =
            Observer::start(options).map_err(|error| Failure::Failed(error.to_string()))?;
        let program_log: Box<dyn FnMut()> =
            if options.load.log_level > 0 { program_log(&mut observer)? } else { Box::new(|| ()) };
        observer.arm(&[filter_of(&selection)]).map_err(|error| Failure::Failed(error.to_string()))?;
        let config = CorrelatorConfig { scopes: vec![scope_of(&selection)], ..CorrelatorConfig::default() };
        let correlator = Correlator::new(config, site.names().clone());
        let teller = Teller::new(args, site.names().clone());
        let (link_sender, links) = mpsc::channel(LINK_EVENTS);
        let mut follow = Self {
            args,
            site,
            selection,
            observer,
            records,
            links,
            link_sender,
            watches: Vec::new(),
            watched: HashSet::new(),
            correlator,
            known_points: 0,
            losses: Losses::default(),
            teller,
            last_told: Instant::now(),
            program_log,
            refused: HashSet::new(),
        };
        // Before the first look: what changes between the two is an event, not a gap.
        follow.watch_nodes();
        follow.attach_all();
        follow.announce()?;
        Ok(follow)
    }

    fn announce(&self) -> Result<(), Failure> {
        let points = self.observer.points();
        for pod in self.selection.a.pods.iter().chain(self.selection.b.iter().flat_map(|end| &end.pods)) {
            for problem in self.site.survey().problems_of(pod) {
                notice(&format!("note: {}", problem.sentence));
            }
        }
        if points.is_empty() {
            return Err(Failure::Failed(self.nothing_to_observe()));
        }
        let nodes: HashSet<_> = points.iter().map(|point| &point.node).collect();
        notice(&format!(
            "following {} at {} points on {}; Ctrl-C ends with a summary",
            silence::what(&self.selection),
            points.len(),
            if nodes.len() == 1 { "1 node".to_owned() } else { format!("{} nodes", nodes.len()) },
        ));
        Ok(())
    }

    /// Why there is no point. The inventory may have thousands of pods on other machines: only what concerns this
    /// machine and the nodes of the follow is said; its pods have been spoken of.
    fn nothing_to_observe(&self) -> String {
        let ends = [Some(&self.selection.a), self.selection.b.as_ref()];
        let nodes: HashSet<_> = ends.into_iter().flatten().flat_map(|end| &end.nodes).collect();
        let mut lines = vec!["there is nothing to observe on this machine:".to_owned()];
        let problems = self.site.survey().problems.iter().filter(|problem| {
            problem.pod.is_none() && problem.node.as_ref().is_none_or(|node| nodes.contains(node))
        });
        lines.extend(problems.map(|problem| format!("  - {}", problem.sentence)));
        if lines.len() == 1 {
            lines.push("  - no device of the nodes involved is up".to_owned());
        }
        lines.join("\n")
    }

    async fn until_the_end(&mut self, args: &FollowArgs) -> Result<End, Failure> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut chores = interval(CHORES);
        chores.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = tokio::time::sleep(args.duration.unwrap_or(Duration::from_secs(u32::MAX.into())));
        tokio::pin!(end);
        let mut interrupted = Interrupted::listen()?;
        loop {
            tokio::select! {
                biased;
                () = interrupted.wait() => return Ok(End::Interrupted),
                () = &mut end => return Ok(End::Done),
                _ = tick.tick() => self.tell_finished()?,
                _ = chores.tick() => self.do_chores(),
                Some(event) = self.links.recv() => self.links_changed(event).await,
                Some(batch) = self.records.recv() => self.take_in(&batch),
            }
            if self.teller.is_enough() {
                return Ok(End::Done);
            }
        }
    }

    fn take_in(&mut self, batch: &[HopRecord]) {
        for record in batch {
            if let Some(sighting) = self.observer.attribute(record) {
                self.correlator.push(sighting);
            }
        }
    }

    fn tell_finished(&mut self) -> Result<(), Failure> {
        (self.program_log)();
        self.account_losses();
        let mut finished = Vec::new();
        self.correlator.advance(monotonic_ns(), &mut |trajectory| finished.push(trajectory));
        self.tell(finished)?;
        if self.last_told.elapsed() >= SILENCE {
            self.last_told = Instant::now();
            if self.teller.told() == 0 {
                self.explain_silence();
            }
        }
        Ok(())
    }

    fn tell(&mut self, finished: Vec<Trajectory>) -> Result<(), Failure> {
        for trajectory in finished {
            if self.teller.is_enough() {
                break;
            }
            self.teller.tell(&trajectory)?;
            self.last_told = Instant::now();
        }
        self.teller.flush()
    }

    /// Tells the correlator of new losses: a hop may be missing because its record is. The ring is one for the
    /// machine, so any of its nodes may have lost them.
    fn account_losses(&mut self) {
        let Ok(losses) = self.observer.losses() else { return };
        let new = losses.total() - self.losses.total();
        if new == 0 {
            return;
        }
        self.losses = losses;
        let now_ns = monotonic_ns();
        let nodes: HashSet<_> = self.observer.points().iter().map(|point| Arc::clone(&point.node)).collect();
        for node in nodes {
            self.correlator.report_loss(&node, new, now_ns);
        }
    }

    fn explain_silence(&self) {
        if let Ok(outcomes) = self.observer.outcomes() {
            notice(&silence::explain(&self.selection, &outcomes, self.observer.points()));
        }
    }

    fn do_chores(&mut self) {
        let (moved, problems) = self.observer.reconcile();
        for device in moved {
            notice(&format!(
                "note: another tool got in front of us on {device}, or removed us; we are first again"
            ));
        }
        for problem in problems {
            notice(&format!("warning: {problem}"));
        }
        match self.site.reload_if_changed() {
            Ok(true) => self.inventory_changed(),
            // A pod gets its address after its link, and nobody tells of addresses.
            Ok(false) if self.is_waiting_for_a_pod() => self.look_again(),
            Ok(false) => {}
            Err(error) => notice(&format!("warning: the changed inventory is not used: {error}")),
        }
    }

    /// Whether a pod of the follow should be here and its interface is not observed.
    fn is_waiting_for_a_pod(&self) -> bool {
        let ends = [Some(&self.selection.a), self.selection.b.as_ref()];
        let mut pods = ends.into_iter().flatten().flat_map(|end| &end.pods);
        pods.any(|pod| {
            self.site.survey().problems_of(pod).any(|problem| problem.kind == ProblemKind::NotFound)
        })
    }

    fn inventory_changed(&mut self) {
        match self.site.names().with(|inventory| resolve(inventory, &self.args.selection)) {
            Ok(selection) => self.selection = selection,
            // The pod may come back under the same name; until then its last addresses are followed.
            Err(error) => notice(&format!("warning: {error}")),
        }
        if let Err(error) = self.observer.arm(&[filter_of(&self.selection)]) {
            notice(&format!("warning: {error}"));
        }
        self.correlator.set_scopes(vec![scope_of(&self.selection)]);
        self.look_again();
    }

    /// A pod's start or end changes several links at once: waits until they have settled, then looks once.
    async fn links_changed(&mut self, first: LinkEvent) {
        let mut event = Some(first);
        let settled = tokio::time::sleep(SETTLE);
        tokio::pin!(settled);
        loop {
            if let Some(LinkEvent::Gone { netns, link }) = event {
                self.forget(netns, link.ifindex);
            }
            tokio::select! {
                () = &mut settled => break,
                next = self.links.recv() => event = next,
            }
        }
        self.look_again();
    }

    /// Forgets a device of a node that is gone, and its other end in a pod: they go together, and the namespaces of
    /// pods are not watched.
    fn forget(&mut self, netns: NetnsId, ifindex: u32) {
        let survey = self.site.survey();
        let is_here = |pod: &&LocalPod| {
            pod.peer == Some(ifindex) && survey.node(&pod.node).is_some_and(|node| node.netns.id() == netns)
        };
        let other_ends = survey.pods.iter().filter(is_here);
        let mut gone: Vec<(NetnsId, u32)> =
            other_ends.filter_map(|pod| Some((pod.netns.id(), pod.interface.as_ref()?.ifindex))).collect();
        gone.push((netns, ifindex));
        for device in gone {
            for point in self.observer.forget(device.0, device.1) {
                self.correlator.remove_point(point);
            }
            self.refused.remove(&device);
        }
    }

    fn look_again(&mut self) {
        if let Err(error) = self.site.look_again() {
            notice(&format!("warning: {error}"));
            return;
        }
        self.watch_nodes();
        self.attach_all();
    }

    /// Watches the links of nodes that are not watched yet.
    fn watch_nodes(&mut self) {
        for node in &self.site.survey().nodes {
            if !self.watched.insert(node.netns.id()) {
                continue;
            }
            match watch(&node.netns, self.link_sender.clone()) {
                Ok(watch) => self.watches.push(watch),
                Err(error) => notice(&format!(
                    "warning: pods that start on node {} will not be seen: {error}",
                    node.name
                )),
            }
        }
    }

    /// Attaches to all devices of the plan that are not held yet.
    fn attach_all(&mut self) {
        for device in plan_points(self.site.survey(), &self.selection.scope()) {
            if self.observer.observes(&device) {
                continue;
            }
            match self.observer.observe(&device, monotonic_ns()) {
                Ok(_) => {}
                // It went between the look and the attach; the link watch tells the rest.
                Err(AttachError::DeviceGone) => {}
                Err(error) => self.complain(&device, &error),
            }
        }
        for point in &self.observer.points()[self.known_points..] {
            self.correlator.add_point(Arc::clone(point), monotonic_ns());
        }
        self.known_points = self.observer.points().len();
    }

    fn complain(&mut self, device: &PlannedDevice, error: &AttachError) {
        if self.refused.insert(device.key()) {
            notice(&format!(
                "warning: {} on node {} is not observed: {error}",
                device.link.name, device.node
            ));
        }
    }

    /// Detaches, tells what is still under way and the summary.
    fn finish(&mut self, result: Result<End, Failure>) -> Result<(), Failure> {
        self.watches.clear();
        for problem in self.observer.stop() {
            notice(&format!("warning: {problem}"));
        }
        let end = result?;
        while let Ok(batch) = self.records.try_recv() {
            self.take_in(&batch);
        }
        self.account_losses();
        let mut rest = Vec::new();
        self.correlator.finish(&mut |trajectory| rest.push(trajectory));
        self.tell(rest)?;
        if matches!(end, End::Interrupted) && self.teller.told() == 0 {
            self.explain_silence();
        }
        let outcomes = self.observer.outcomes().unwrap_or_default();
        let losses = self.observer.losses().unwrap_or(self.losses);
        self.teller.summarize(&outcomes, &losses, &self.correlator.counters())
    }
}

/// The kernel's filter for a selection.
fn filter_of(selection: &Selection) -> FollowFilter {
    FollowFilter {
        a: selection.a.addresses.iter().chain(&selection.aliases).copied().collect(),
        b: selection.b.as_ref().map(|end| end.addresses.clone()),
        protocols: selection.protocol.into_iter().collect(),
        ports: selection.ports.clone(),
    }
}

/// What the correlator reports of what the kernel records: the kernel also takes what NAT may have rewritten.
fn scope_of(selection: &Selection) -> FollowScope {
    FollowScope {
        a: selection.a.addresses.iter().copied().collect(),
        b: selection.b.as_ref().map(|end| end.addresses.iter().copied().collect()),
    }
}

/// Reads what the programs logged, when called.
fn program_log(observer: &mut Observer) -> Result<Box<dyn FnMut()>, Failure> {
    let mut logger = aya_log::EbpfLogger::init(observer.object_mut())
        .map_err(|error| Failure::Failed(format!("no log of the programs: {error}")))?;
    Ok(Box::new(move || logger.flush()))
}

/// Ctrl-C and SIGTERM.
struct Interrupted {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Interrupted {
    fn listen() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::Failed(format!("cannot listen for signals: {error}")))
        };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
