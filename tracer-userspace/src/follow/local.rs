//! `tracer follow --local`: observe, correlate and tell on one machine, in one process.
//!
//! ```text
//! ring thread ─► records ─► attribute ─► correlate ─► tell            one task, which waits for all of these;
//! link watches ─► look over the machine (worker thread) ─► attach     also for the clock and for signals
//! ```

use std::collections::HashSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracer_common::record::HopRecord;

use super::devices::{Devices, sweep};
use super::select::{End, Request, Selection, select};
use super::signals::Interrupted;
use super::silence;
use super::site::{Names, Site, monotonic_ns};
use super::teller::Teller;
use crate::agent::attach::{AttachError, AttachMode};
use crate::agent::filters::FollowFilter;
use crate::agent::observer::{Losses, Observer, ObserverOptions};
use crate::agent::preflight;
use crate::agent::programs::LoadOptions;
use crate::app::{Failure, notice};
use crate::cli::{FollowArgs, SelectionArgs};
use crate::host::kernel::{Feature, Kernel};
use crate::host::links::LinkEvent;
use crate::host::plan::plan_points;
use crate::host::survey::{ProblemKind, Survey};
use crate::inventory::Inventory;
use crate::trajectory::correlate::{Correlator, CorrelatorConfig, FollowScope};
use crate::trajectory::model::{PodRef, Trajectory};

/// How often finished trajectories are collected and losses read: the most that it delays a line.
const TICK: Duration = Duration::from_millis(20);
/// How often the slow things are looked at: the inventory's file, who got before us on a hook.
const CHORES: Duration = Duration::from_secs(1);
/// Nothing told for this long: say what we wait for.
const SILENCE: Duration = Duration::from_secs(5);
/// How long after a change of links the machine is looked over: a pod's start changes several.
const SETTLE: Duration = Duration::from_millis(30);
/// Least time between two looks over the machine.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Most time between two looks for a pod that should be here and is not.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Runs until the count, the time or a signal ends it.
///
/// # Errors
/// [`Failure`]; nothing of ours is attached then.
pub fn run(args: &FollowArgs) -> Result<(), Failure> {
    let kernel = check_preflight()?;
    if args.attach == AttachMode::Tcx && !kernel.has(Feature::Tcx) {
        return Err(Failure::Failed(AttachError::NoTcx.to_string()));
    }
    if !kernel.has(Feature::KernelBtf) {
        notice(&format!("note: kernel {} has {}", kernel.release, Feature::KernelBtf.absence()));
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
        // Before anything is attached: from here on a signal ends the run in good order.
        let interrupted = Interrupted::listen()?;
        let mut follow = Follow::start(args, &kernel, site, selection)?;
        let result = follow.until_the_end(interrupted).await;
        follow.finish(result)
    })
}

pub(super) fn check_preflight() -> Result<Kernel, Failure> {
    preflight::check().map_err(|error| Failure::Failed(error.to_string()))
}

/// What the user asked for, in the inventory's terms.
pub(super) fn resolve(inventory: &Inventory, args: &SelectionArgs) -> Result<Selection, Failure> {
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
enum Ending {
    /// Enough was told, or the time is over.
    Done,
    Interrupted,
}

struct Follow<'a> {
    args: &'a FollowArgs,
    site: Site,
    selection: Selection,
    observer: Observer,
    records: mpsc::Receiver<Vec<HopRecord>>,
    devices: Devices,
    links: mpsc::Receiver<LinkEvent>,
    looks: Looks,
    correlator: Correlator<Names>,
    losses: Losses,
    teller: Teller,
    last_told: Instant,
}

impl<'a> Follow<'a> {
    /// Loads, attaches, and says so.
    fn start(
        args: &'a FollowArgs,
        kernel: &Kernel,
        site: Site,
        selection: Selection,
    ) -> Result<Self, Failure> {
        let options = ObserverOptions {
            attach: args.attach,
            load: LoadOptions { ring_bytes: args.ring_bytes, log_level: args.program_log as u8 },
            vxlan_port: args.vxlan_port,
            has_tcx: kernel.has(Feature::Tcx),
        };
        let (mut observer, records) =
            Observer::start(options).map_err(|error| Failure::Failed(error.to_string()))?;
        if options.load.log_level > 0 {
            observer.log_programs().map_err(|error| Failure::Failed(error.to_string()))?;
        }
        observer.arm(&[filter_of(&selection)]).map_err(|error| Failure::Failed(error.to_string()))?;
        let config = CorrelatorConfig { scopes: vec![scope_of(&selection)], ..CorrelatorConfig::default() };
        let correlator = Correlator::new(config, site.names().clone());
        let teller = Teller::new(args, site.names().clone());
        let (devices, links) = Devices::new();
        let mut follow = Self {
            args,
            site,
            selection,
            observer,
            records,
            devices,
            links,
            looks: Looks::new(),
            correlator,
            losses: Losses::default(),
            teller,
            last_told: Instant::now(),
        };
        sweep(follow.site.survey());
        follow.follow_plan();
        // What changed since the first look is seen by a second one.
        follow.looks.want(SETTLE);
        follow.announce()?;
        Ok(follow)
    }

    fn announce(&self) -> Result<(), Failure> {
        let points = self.observer.points();
        for pod in pods_of(&self.selection) {
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
        let nodes: HashSet<_> = ends_of(&self.selection).flat_map(|end| &end.nodes).collect();
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

    async fn until_the_end(&mut self, mut interrupted: Interrupted) -> Result<Ending, Failure> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut chores = interval(CHORES);
        chores.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = sleep(self.args.duration.unwrap_or(Duration::from_secs(u32::MAX.into())));
        tokio::pin!(end);
        loop {
            // In this order: what comes seldom before what may come without a pause.
            tokio::select! {
                biased;
                () = interrupted.wait() => return Ok(Ending::Interrupted),
                () = &mut end => return Ok(Ending::Done),
                _ = tick.tick() => self.tell_finished()?,
                _ = chores.tick() => self.do_chores(),
                survey = self.looks.next(&self.site) => self.machine_looked_over(survey),
                Some(event) = self.links.recv() => self.link_changed(event),
                batch = self.records.recv() => match batch {
                    Some(batch) => self.take_in(&batch),
                    None => return Err(Failure::Failed("the thread that reads records has ended".to_owned())),
                },
            }
            if self.teller.is_enough() {
                return Ok(Ending::Done);
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

    /// Tells the packets that were finished at the time of the call. Its records come first: who reads our output may
    /// have held us up for long, and a packet whose other records wait in the channel is not overdue.
    fn tell_finished(&mut self) -> Result<(), Failure> {
        let now_ns = monotonic_ns();
        // No more than wait now: under load there is always another one.
        for _ in 0..self.records.len() {
            let Ok(batch) = self.records.try_recv() else { break };
            self.take_in(&batch);
        }
        self.account_losses();
        let mut finished = Vec::new();
        self.correlator.advance(now_ns, &mut |trajectory| finished.push(trajectory));
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
        for node in &self.site.survey().nodes {
            self.correlator.report_loss(&node.name, new, now_ns);
        }
    }

    fn explain_silence(&self) {
        if let Ok(outcomes) = self.observer.outcomes() {
            let counters = self.correlator.counters();
            notice(&silence::explain(&self.selection, &outcomes, &counters, self.observer.points()));
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
        let outdated = self.observer.outdated();
        if !outdated.is_empty() {
            for device in outdated {
                self.devices.release(device, &mut self.observer, &mut self.correlator);
            }
            self.follow_plan();
            notice(
                "note: TCX programs came or went before our legacy filters; tracer points shows who is in front",
            );
        }
        match self.site.reload_if_changed() {
            Ok(true) => self.inventory_changed(),
            // A pod gets its address after its link, and nobody tells of addresses.
            Ok(false) if is_waited_for(&self.selection, self.site.survey()) => self.looks.want_later(),
            Ok(false) => {}
            Err(error) => notice(&format!("warning: the changed inventory is not used: {error}")),
        }
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
        self.looks.want(Duration::ZERO);
    }

    fn link_changed(&mut self, event: LinkEvent) {
        if let LinkEvent::Gone { netns, link } = event {
            self.devices.gone((netns, link.ifindex), &mut self.observer, &mut self.correlator);
        }
        self.looks.want(SETTLE);
    }

    fn machine_looked_over(&mut self, survey: Result<Survey, Failure>) {
        match survey {
            Ok(survey) => {
                self.site.take(survey);
                self.follow_plan();
            }
            Err(error) => notice(&format!("warning: {error}")),
        }
    }

    fn follow_plan(&mut self) {
        let survey = self.site.survey();
        self.devices.watch_nodes(survey);
        let plan = plan_points(survey, &self.selection.scope());
        self.devices.follow_plan(&plan, survey, &mut self.observer, &mut self.correlator);
    }

    /// Detaches, tells what is still under way and the summary.
    fn finish(&mut self, result: Result<Ending, Failure>) -> Result<(), Failure> {
        self.devices.stop();
        for problem in self.observer.stop() {
            notice(&format!("warning: {problem}"));
        }
        let ending = result?;
        while let Ok(batch) = self.records.try_recv() {
            self.take_in(&batch);
        }
        self.account_losses();
        let mut rest = Vec::new();
        self.correlator.finish(&mut |trajectory| rest.push(trajectory));
        self.tell(rest)?;
        if matches!(ending, Ending::Interrupted) && self.teller.told() == 0 {
            self.explain_silence();
        }
        let outcomes = self.observer.outcomes().unwrap_or_default();
        let losses = self.observer.losses().unwrap_or(self.losses);
        self.teller.summarize(&outcomes, &losses, &self.correlator.counters())
    }
}

/// Looks over the machine: one at a time, on a worker thread, and not too often.
struct Looks {
    running: Option<JoinHandle<Result<Survey, Failure>>>,
    wanted: Option<Instant>,
    last: Instant,
    wait: Duration,
}

impl Looks {
    fn new() -> Self {
        Self { running: None, wanted: None, last: Instant::now(), wait: CHORES }
    }

    /// Asks for a look in `delay`, or as soon as it may be.
    fn want(&mut self, delay: Duration) {
        self.wait = CHORES;
        self.want_at((Instant::now() + delay).max(self.last + LOOK_INTERVAL));
    }

    /// Asks for one after a time that doubles from one to the next.
    fn want_later(&mut self) {
        if self.wanted.is_none() && self.running.is_none() {
            self.want_at(self.last + self.wait);
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
        }
    }

    fn want_at(&mut self, at: Instant) {
        self.wanted = Some(self.wanted.map_or(at, |wanted| wanted.min(at)));
    }

    /// The next finished look. May be dropped and asked again at any time.
    async fn next(&mut self, site: &Site) -> Result<Survey, Failure> {
        loop {
            if let Some(running) = &mut self.running {
                let survey = running.await;
                self.running = None;
                self.last = Instant::now();
                return survey.unwrap_or_else(|error| {
                    Err(Failure::Failed(format!("the look over this machine has failed: {error}")))
                });
            }
            match self.wanted {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
            self.wanted = None;
            self.running = Some(spawn_blocking(site.look_again()));
        }
    }
}

fn ends_of(selection: &Selection) -> impl Iterator<Item = &End> {
    [Some(&selection.a), selection.b.as_ref()].into_iter().flatten()
}

fn pods_of(selection: &Selection) -> impl Iterator<Item = &Arc<PodRef>> {
    ends_of(selection).flat_map(|end| &end.pods)
}

/// Whether a pod of the follow should be here and was not found.
fn is_waited_for(selection: &Selection, survey: &Survey) -> bool {
    pods_of(selection).any(|pod| survey.problems_of(pod).any(|problem| problem.kind == ProblemKind::NotFound))
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
