//! Observing one machine: programs, hooks and filters, kept as the machine and the inventory are and as those who ask
//! want it. What is seen goes out as events; who takes them, and where, is not known here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::devices::{Devices, sweep};
use super::event::Event;
use super::looks::{Looks, SETTLE};
use super::site::{Site, monotonic_ns};
use crate::agent::filters::FollowFilter;
use crate::agent::metrics::groups::{By, GroupName};
use crate::agent::metrics::source::Source;
use crate::agent::observer::{Losses, Observer, ObserverError, ObserverOptions};
use crate::agent::programs::{LoadError, Outcomes, WatchError};
use crate::agent::ring::{Batch, Sample};
use crate::agent::slots::Slot;
use crate::app::{Failure, notice};
use crate::host::drop_reasons::DropReasons;
use crate::host::kernel::{Feature, Kernel};
use crate::host::links::LinkEvent;
use crate::host::netns::{Netns, NetnsId};
use crate::host::plan::{Scope, plan_points};
use crate::host::survey::{ProblemKind, Survey};
use crate::inventory::{Inventory, PodEntry};
use crate::trajectory::model::{DropSighting, ObservationPoint, PointId};

/// How often the slow things are looked at: the inventory's file, who got before us on a hook.
const CHORES: Duration = Duration::from_secs(1);

/// See the module. Detaches when dropped.
pub struct Machine {
    /// Only these; all that are here if empty.
    nodes: Vec<String>,
    site: Site,
    scope: Scope,
    /// The machine has changed and was not looked over: nobody asks for anything.
    stale: bool,
    observer: Observer,
    records: mpsc::Receiver<Batch>,
    devices: Devices,
    links: mpsc::Receiver<LinkEvent>,
    looks: Looks,
    chores: Interval,
    planned: usize,
    /// As last told.
    losses: Losses,
    watches_drops: bool,
    /// Nodes of which was told that their drops are watched.
    told_of_drops: HashSet<Arc<str>>,
    /// The namespace of the machine itself.
    own: Option<NetnsId>,
}

/// What has happened on the machine; [`Machine::take`] does what is to be done then.
pub enum Happening {
    Chores,
    LookedOver(Result<Survey, Failure>),
    Link(LinkEvent),
    Records(Batch),
}

/// What those who ask must look at after [`Machine::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    Nothing,
    /// The same names may stand for other addresses and devices: ask again with [`Machine::want`].
    Inventory,
}

impl Machine {
    /// Loads the programs and removes what a killed tracer has left; nothing is attached yet. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ObserverError`].
    pub fn start(
        site: Site,
        nodes: Vec<String>,
        options: ObserverOptions,
        reasons: Option<DropReasons>,
    ) -> Result<Self, ObserverError> {
        let (mut observer, records) = Observer::start(options, reasons)?;
        if options.load.log_level > 0 {
            observer.log_programs()?;
        }
        let (devices, links) = Devices::new();
        let mut chores = interval(CHORES);
        chores.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sweep(site.survey());
        Ok(Self {
            nodes,
            site,
            scope: Scope::nothing(),
            stale: false,
            observer,
            records,
            devices,
            links,
            looks: Looks::new(),
            chores,
            planned: 0,
            losses: Losses::default(),
            watches_drops: false,
            told_of_drops: HashSet::new(),
            own: Netns::own().ok().map(|netns| netns.id()),
        })
    }

    /// From here on the kernel records for these follows, at the devices of this scope; what nobody wants any more is let
    /// go of. Where the filter cannot be written, the devices are observed all the same.
    ///
    /// # Errors
    /// [`crate::agent::filters::FilterError`], in words.
    pub fn want(
        &mut self,
        follows: &[(Slot, FollowFilter)],
        scope: Scope,
        emit: &mut impl FnMut(Event),
    ) -> Result<(), Failure> {
        let armed = self.observer.arm(follows).map_err(|error| Failure::Failed(error.to_string()));
        self.scope = scope;
        self.follow_plan(emit);
        if !self.scope.is_nothing() {
            // What changed since the last look is seen by another one.
            self.looks.want(if std::mem::take(&mut self.stale) { Duration::ZERO } else { SETTLE });
        }
        armed
    }

    /// Looks over the machine again: the inventory has changed, or a device. Where nobody asks for anything, when
    /// somebody does.
    pub fn look_again(&mut self, delay: Duration) {
        if self.scope.is_nothing() {
            self.stale = true;
        } else {
            self.looks.want(delay);
        }
    }

    /// Lets the kernel tell of drops, where it can; false where it cannot.
    ///
    /// # Errors
    /// [`WatchError`]: it refuses, and all else goes on.
    pub fn watch_drops(&mut self) -> Result<bool, WatchError> {
        self.watches_drops = self.observer.watch_drops()?;
        Ok(self.watches_drops)
    }

    /// Nobody asks for drops any more.
    ///
    /// # Errors
    /// [`WatchError`]: the kernel goes on telling, and nobody listens.
    pub fn ignore_drops(&mut self) -> Result<(), WatchError> {
        self.watches_drops = false;
        self.told_of_drops.clear();
        self.observer.ignore_drops()
    }

    /// Whether the kernel tells of drops.
    #[must_use]
    pub fn watches_drops(&self) -> bool {
        self.watches_drops
    }

    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The pipeline, for what it has counted.
    #[must_use]
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// All numbers of one scrape.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn metrics(&mut self) -> Result<Source, LoadError> {
        let mut source = self.observer.metrics()?;
        source.devices_planned = self.planned as u64;
        Ok(source)
    }

    /// All points there ever were in this run.
    #[must_use]
    pub fn points(&self) -> &[Arc<ObservationPoint>] {
        self.observer.points()
    }

    /// Devices that are wanted, whether or not they could be attached to.
    #[must_use]
    pub fn planned(&self) -> usize {
        self.planned
    }

    /// The nodes asked for that are on this machine.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<str>> {
        let here = self.site.survey().nodes.iter().map(|node| Arc::clone(&node.name));
        here.filter(|name| self.is_asked_for(name)).collect()
    }

    /// Whether a node is one that is to be observed.
    #[must_use]
    pub fn is_asked_for(&self, node: &str) -> bool {
        self.nodes.is_empty() || self.nodes.iter().any(|name| name == node)
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

    /// What was seen before this time, CLOCK_MONOTONIC in nanoseconds, comes out of the next [`Machine::drain`] at the
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
    pub fn take(&mut self, happening: Happening, emit: &mut impl FnMut(Event)) -> Changed {
        match happening {
            Happening::Chores => return self.do_chores(emit),
            Happening::LookedOver(Ok(survey)) => {
                self.site.take(survey);
                self.follow_plan(emit);
            }
            Happening::LookedOver(Err(error)) => notice(&format!("warning: {error}")),
            Happening::Link(event) => {
                if let LinkEvent::Gone { netns, link } = event {
                    self.devices.gone((netns, link.ifindex), &mut self.observer, emit);
                }
                self.look_again(SETTLE);
            }
            Happening::Records(batch) => self.take_in(&batch, emit),
        }
        Changed::Nothing
    }

    /// Gives the records that wait, and what was lost until now.
    pub fn drain(&mut self, emit: &mut impl FnMut(Event)) {
        // No more than wait now: under load there is always another one.
        for _ in 0..self.records.len() {
            let Ok(batch) = self.records.try_recv() else { break };
            self.take_in(&batch, emit);
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
            self.take_in(&batch, emit);
        }
        self.account_losses(emit);
    }

    fn take_in(&mut self, batch: &Batch, emit: &mut impl FnMut(Event)) {
        for sample in batch.samples() {
            match sample {
                None => self.observer.note_undecodable(),
                Some(Sample::Hop(record, frame)) => {
                    if let Some(sighting) = self.observer.attribute(&record, frame) {
                        emit(Event::Sighting(sighting));
                    }
                }
                Some(Sample::Drop(record)) => {
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

    fn do_chores(&mut self, emit: &mut impl FnMut(Event)) -> Changed {
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
            Ok(true) => {
                self.look_again(Duration::ZERO);
                return Changed::Inventory;
            }
            // A pod gets its address after its link, and nobody tells of addresses.
            Ok(false) if self.waits_for_a_pod() => self.looks.want_later(),
            Ok(false) => {}
            Err(error) => notice(&format!("warning: the changed inventory is not used: {error}")),
        }
        Changed::Nothing
    }

    /// Whether a pod that is asked for by name should be here and was not found.
    fn waits_for_a_pod(&self) -> bool {
        let survey = self.site.survey();
        let not_found = |pod| survey.problems_of(pod).any(|problem| problem.kind == ProblemKind::NotFound);
        self.scope.pods.iter().flatten().any(not_found)
    }

    fn follow_plan(&mut self, emit: &mut impl FnMut(Event)) {
        self.tell_of_drops(emit);
        for drop in self.observer.learn_spaces(self.site.survey(), self.own, monotonic_ns()) {
            self.tell_drop(drop, emit);
        }
        let survey = self.site.survey();
        self.devices.watch_nodes(survey);
        let mut plan = plan_points(survey, &self.scope);
        plan.retain(|device| self.is_asked_for(&device.node));
        self.planned = plan.len();
        if let Some(groups) = self.observer.groups_mut() {
            let by = groups.by;
            groups.learn(self.site.names().with(|inventory| group_names(inventory, by)));
        }
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
}

/// The group of each pod, by UID.
fn group_names(inventory: &Inventory, by: By) -> HashMap<String, GroupName> {
    let group = |entry: &PodEntry| {
        let name = match by {
            By::Pod => entry.pod.name.clone(),
            By::Workload => {
                entry.workload().map_or_else(|| format!("pod/{}", entry.pod.name), ToString::to_string)
            }
        };
        (entry.pod.uid.clone(), GroupName { namespace: entry.pod.namespace.clone(), name })
    };
    inventory.pods().map(group).collect()
}

/// What must be known to watch drops; `None` where the kernel has no reasons, or they cannot be had.
#[must_use]
pub fn drop_reasons(kernel: &Kernel) -> Option<DropReasons> {
    if !kernel.has(Feature::DropReasons) {
        return None;
    }
    DropReasons::of_this_kernel()
        .inspect_err(|error| {
            notice(&format!("note: kernel {} does not tell of drops: {error}", kernel.release))
        })
        .ok()
}
