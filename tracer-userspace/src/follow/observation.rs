//! Observing one machine for a selection: programs, hooks and filter, kept as the machine and the inventory are. What
//! is seen goes out as events; who takes them, and where, is not known here.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::devices::{Devices, sweep};
use super::event::Event;
use super::looks::{Looks, SETTLE};
use super::select::Selection;
use super::site::{Site, boot_id, monotonic_ns};
use super::wanted::{ends_of, filter_of, pods_of, resolve, scope_of};
use crate::agent::attach::{AttachError, AttachMode};
use crate::agent::observer::{Losses, Observer, ObserverOptions};
use crate::agent::preflight;
use crate::agent::programs::{CaptureBytes, LoadOptions, Outcomes};
use crate::agent::ring::Sample;
use crate::app::{Failure, notice};
use crate::cli::{HookArgs, InventoryArgs, SelectionArgs};
use crate::host::drop_reasons::DropReasons;
use crate::host::kernel::{Feature, Kernel};
use crate::host::links::LinkEvent;
use crate::host::netns::{Netns, NetnsId};
use crate::host::plan::plan_points;
use crate::host::survey::{ProblemKind, Survey};
use crate::inventory::Inventory;
use crate::trajectory::model::{ClockId, DropSighting, ObservationPoint, PodRef, PointId};

/// How often the slow things are looked at: the inventory's file, who got before us on a hook.
const CHORES: Duration = Duration::from_secs(1);

/// See the module. Detaches when dropped.
pub struct Observation<'a> {
    asked: &'a SelectionArgs,
    /// Only these; all that are here if empty.
    nodes: &'a [String],
    site: Site,
    selection: Selection,
    observer: Observer,
    records: mpsc::Receiver<Vec<Sample>>,
    devices: Devices,
    links: mpsc::Receiver<LinkEvent>,
    looks: Looks,
    chores: Interval,
    /// As last told.
    losses: Losses,
    watches_drops: bool,
    /// Nodes of which was told that their drops are watched.
    told_of_drops: HashSet<Arc<str>>,
    /// The namespace of the machine itself.
    own: Option<NetnsId>,
}

/// What has happened on the machine; [`Observation::take`] does what is to be done then.
pub enum Happening {
    Chores,
    LookedOver(Result<Survey, Failure>),
    Link(LinkEvent),
    Records(Vec<Sample>),
}

pub(super) fn check_preflight() -> Result<Kernel, Failure> {
    preflight::check().map_err(|error| Failure::Failed(error.to_string()))
}

/// All that observing starts from.
pub(super) struct Prepared {
    kernel: Kernel,
    pub(super) site: Site,
    pub(super) selection: Selection,
}

/// Checks what this kernel has, reads the inventory, and says what the selection means.
pub(super) fn prepare(
    inventory: &InventoryArgs,
    asked: &SelectionArgs,
    hooks: &HookArgs,
) -> Result<Prepared, Failure> {
    let kernel = check_preflight()?;
    if hooks.attach == AttachMode::Tcx && !kernel.has(Feature::Tcx) {
        return Err(Failure::Failed(AttachError::NoTcx.to_string()));
    }
    if !kernel.has(Feature::KernelBtf) {
        notice(&format!("note: kernel {} has {}", kernel.release, Feature::KernelBtf.absence()));
    }
    let site = Site::open(inventory.inventory.clone())?;
    let selection = site.names().with(|inventory| {
        check_nodes(inventory, &hooks.nodes)?;
        resolve(inventory, asked)
    })?;
    for note in &selection.notes {
        notice(&format!("note: {note}"));
    }
    Ok(Prepared { kernel, site, selection })
}

fn check_nodes(inventory: &Inventory, nodes: &[String]) -> Result<(), Failure> {
    match nodes.iter().find(|name| inventory.node(name).is_none()) {
        Some(unknown) => {
            let known: Vec<_> = inventory.nodes().take(10).map(|node| &*node.name).collect();
            Err(Failure::Failed(format!(
                "--node {unknown}: the inventory has no such node (it has {})",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            )))
        }
        None => Ok(()),
    }
}

/// What must be known to watch drops; `None` where the kernel has no reasons, or they cannot be had.
fn drop_reasons(kernel: &Kernel) -> Option<DropReasons> {
    if !kernel.has(Feature::DropReasons) {
        return None;
    }
    DropReasons::of_this_kernel()
        .inspect_err(|error| {
            notice(&format!("note: kernel {} does not tell of drops: {error}", kernel.release))
        })
        .ok()
}

impl<'a> Observation<'a> {
    /// Loads and attaches. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`Failure`]; nothing of ours is attached then.
    pub(super) fn start(
        Prepared { kernel, site, selection }: Prepared,
        asked: &'a SelectionArgs,
        hooks: &'a HookArgs,
        capture: Option<CaptureBytes>,
        emit: &mut impl FnMut(Event),
    ) -> Result<Self, Failure> {
        let options = ObserverOptions {
            attach: hooks.attach,
            load: LoadOptions {
                ring_bytes: hooks.ring_bytes,
                log_level: hooks.program_log as u8,
                capture,
                ..LoadOptions::default()
            },
            vxlan_port: hooks.vxlan_port,
            has_tcx: kernel.has(Feature::Tcx),
        };
        let (mut observer, records) = Observer::start(options, drop_reasons(&kernel))
            .map_err(|error| Failure::Failed(error.to_string()))?;
        if options.load.log_level > 0 {
            observer.log_programs().map_err(|error| Failure::Failed(error.to_string()))?;
        }
        observer.arm(&[filter_of(&selection)]).map_err(|error| Failure::Failed(error.to_string()))?;
        let watches_drops = observer.watch_drops().unwrap_or_else(|error| {
            notice(&format!("note: kernel {} does not tell of drops: {error}", kernel.release));
            false
        });
        let (devices, links) = Devices::new();
        let mut chores = interval(CHORES);
        chores.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut observation = Self {
            asked,
            nodes: &hooks.nodes,
            site,
            selection,
            observer,
            records,
            devices,
            links,
            looks: Looks::new(),
            chores,
            losses: Losses::default(),
            watches_drops,
            told_of_drops: HashSet::new(),
            own: Netns::own().ok().map(|netns| netns.id()),
        };
        emit(Event::Clock { clock: ClockId(0), boot_id: boot_id()? });
        sweep(observation.site.survey());
        observation.follow_plan(emit);
        // What changed since the first look is seen by a second one.
        observation.looks.want(SETTLE);
        observation.tell_problems()?;
        Ok(observation)
    }

    #[must_use]
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// All points there ever were in this run.
    #[must_use]
    pub fn points(&self) -> &[Arc<ObservationPoint>] {
        self.observer.points()
    }

    /// Whether the kernel tells of drops.
    #[must_use]
    pub fn watches_drops(&self) -> bool {
        self.watches_drops
    }

    /// The nodes of the selection that are on this machine.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<str>> {
        let here = self.site.survey().nodes.iter().map(|node| Arc::clone(&node.name));
        here.filter(|name| self.is_asked_for(name)).collect()
    }

    /// Packets at the hooks by outcome.
    #[must_use]
    pub fn outcomes(&self) -> Option<Outcomes> {
        self.observer.outcomes().ok()
    }

    /// All records lost so far.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.observer.losses().unwrap_or(self.losses)
    }

    /// Those of which it is known at which point.
    #[must_use]
    pub fn lost_at_points(&self) -> BTreeMap<PointId, u64> {
        self.observer.lost_at_points().unwrap_or_default()
    }

    /// What was seen before this time, CLOCK_MONOTONIC in nanoseconds, comes out of the next [`Observation::drain`] at the
    /// latest; 0 until the ring was read for the first time.
    #[must_use]
    pub fn read_until_ns(&self) -> u64 {
        self.observer.read_until_ns()
    }

    /// Waits for what happens next. May be dropped and asked again at any time.
    ///
    /// # Errors
    /// No record can come any more.
    pub async fn next(&mut self) -> Result<Happening, Failure> {
        // In this order: what comes seldom before what may come without a pause.
        tokio::select! {
            biased;
            _ = self.chores.tick() => Ok(Happening::Chores),
            survey = self.looks.next(&self.site) => Ok(Happening::LookedOver(survey)),
            Some(event) = self.links.recv() => Ok(Happening::Link(event)),
            batch = self.records.recv() => match batch {
                Some(batch) => Ok(Happening::Records(batch)),
                None => Err(Failure::Failed("the thread that reads records has ended".to_owned())),
            },
        }
    }

    /// Does what is to be done when something has happened.
    pub fn take(&mut self, happening: Happening, emit: &mut impl FnMut(Event)) {
        match happening {
            Happening::Chores => self.do_chores(emit),
            Happening::LookedOver(Ok(survey)) => {
                self.site.take(survey);
                self.follow_plan(emit);
            }
            Happening::LookedOver(Err(error)) => notice(&format!("warning: {error}")),
            Happening::Link(event) => {
                if let LinkEvent::Gone { netns, link } = event {
                    self.devices.gone((netns, link.ifindex), &mut self.observer, emit);
                }
                self.looks.want(SETTLE);
            }
            Happening::Records(batch) => self.take_in(batch, emit),
        }
    }

    /// Gives the records that wait, and what was lost until now.
    pub fn drain(&mut self, emit: &mut impl FnMut(Event)) {
        // No more than wait now: under load there is always another one.
        for _ in 0..self.records.len() {
            let Ok(batch) = self.records.try_recv() else { break };
            self.take_in(batch, emit);
        }
        self.account_losses(emit);
    }

    /// Detaches, and gives the records that are left.
    pub fn stop(&mut self, emit: &mut impl FnMut(Event)) {
        self.devices.stop();
        for problem in self.observer.stop() {
            notice(&format!("warning: {problem}"));
        }
        while let Ok(batch) = self.records.try_recv() {
            self.take_in(batch, emit);
        }
        self.account_losses(emit);
    }

    fn take_in(&mut self, batch: Vec<Sample>, emit: &mut impl FnMut(Event)) {
        for sample in batch {
            match sample {
                Sample::Hop(record, frame) => {
                    if let Some(sighting) = self.observer.attribute(&record, frame) {
                        emit(Event::Sighting(sighting));
                    }
                }
                Sample::Drop(record) => {
                    if let Some(drop) = self.observer.attribute_drop(&record) {
                        self.tell_drop(drop, emit);
                    }
                }
            }
        }
    }

    /// A hop may be missing because its record is. The ring is one for the machine, so any of its nodes may have lost
    /// them.
    fn account_losses(&mut self, emit: &mut impl FnMut(Event)) {
        let Ok(losses) = self.observer.losses() else { return };
        let records = losses.total().saturating_sub(self.losses.total());
        if records == 0 {
            return;
        }
        self.losses = losses;
        for node in &self.site.survey().nodes {
            emit(Event::Lost { node: Arc::clone(&node.name), records });
        }
    }

    fn do_chores(&mut self, emit: &mut impl FnMut(Event)) {
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
                self.devices.release(device, &mut self.observer, emit);
            }
            self.follow_plan(emit);
            notice(
                "note: TCX programs came or went before our legacy filters; tracer points shows who is in front",
            );
        }
        match self.site.reload_if_changed() {
            Ok(true) => self.inventory_changed(emit),
            // A pod gets its address after its link, and nobody tells of addresses.
            Ok(false) if self.waits_for_a_pod() => self.looks.want_later(),
            Ok(false) => {}
            Err(error) => notice(&format!("warning: the changed inventory is not used: {error}")),
        }
    }

    fn inventory_changed(&mut self, emit: &mut impl FnMut(Event)) {
        match self.site.names().with(|inventory| resolve(inventory, self.asked)) {
            Ok(selection) => self.selection = selection,
            // The pod may come back under the same name; until then its last addresses are followed.
            Err(error) => notice(&format!("warning: {error}")),
        }
        if let Err(error) = self.observer.arm(&[filter_of(&self.selection)]) {
            notice(&format!("warning: {error}"));
        }
        emit(Event::Scope(scope_of(&self.selection)));
        self.looks.want(Duration::ZERO);
    }

    /// Whether a pod of the follow should be here and was not found.
    fn waits_for_a_pod(&self) -> bool {
        let not_found = |pod: &Arc<PodRef>| {
            self.site.survey().problems_of(pod).any(|problem| problem.kind == ProblemKind::NotFound)
        };
        pods_of(&self.selection).any(not_found)
    }

    fn follow_plan(&mut self, emit: &mut impl FnMut(Event)) {
        self.tell_of_drops(emit);
        for drop in self.observer.learn_spaces(self.site.survey(), self.own, monotonic_ns()) {
            self.tell_drop(drop, emit);
        }
        let survey = self.site.survey();
        self.devices.watch_nodes(survey);
        let mut plan = plan_points(survey, &self.selection.scope());
        plan.retain(|device| self.is_asked_for(&device.node));
        self.devices.follow_plan(&plan, survey, &mut self.observer, emit);
    }

    fn tell_drop(&self, drop: DropSighting, emit: &mut impl FnMut(Event)) {
        if self.is_asked_for(&drop.place.node) {
            emit(Event::Drop(drop));
        }
    }

    fn tell_of_drops(&mut self, emit: &mut impl FnMut(Event)) {
        if !self.watches_drops {
            return;
        }
        for node in self.nodes() {
            if self.told_of_drops.insert(Arc::clone(&node)) {
                emit(Event::WatchesDrops { node });
            }
        }
    }

    fn is_asked_for(&self, node: &str) -> bool {
        self.nodes.is_empty() || self.nodes.iter().any(|name| name == node)
    }

    fn tell_problems(&self) -> Result<(), Failure> {
        for pod in pods_of(&self.selection) {
            for problem in self.site.survey().problems_of(pod) {
                notice(&format!("note: {}", problem.sentence));
            }
        }
        if self.points().is_empty() {
            return Err(Failure::Failed(self.nothing_to_observe()));
        }
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
        if !self.nodes.is_empty() && !nodes.iter().any(|node| self.is_asked_for(node)) {
            lines.push(format!("  - --node {}: no end of the follow is there", self.nodes.join(", --node ")));
        }
        if lines.len() == 1 {
            lines.push("  - no device of the nodes involved is up".to_owned());
        }
        lines.join("\n")
    }
}

/// "12 points on 2 nodes".
#[must_use]
pub fn extent(points: &[Arc<ObservationPoint>]) -> String {
    let nodes: HashSet<_> = points.iter().map(|point| &point.node).collect();
    let nodes = if nodes.len() == 1 { "1 node".to_owned() } else { format!("{} nodes", nodes.len()) };
    format!("{} points on {nodes}", points.len())
}
