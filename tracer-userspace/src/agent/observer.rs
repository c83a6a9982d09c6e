//! A node's pipeline in one hand: programs, hooks, filter, ring reader and attribution, with all its losses. The
//! local follow and the agent both drive it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tracer_common::outcome::Outcome;
use tracer_common::record::{DropRecord, HopRecord};

use super::attach::{AttachError, AttachMode, Attacher, Mechanism, Target};
use super::decode;
use super::drops::Drops;
use super::filters::{self, FilterError, FollowFilter};
use super::metrics::drops::Tally;
use super::metrics::groups::{By, Groups};
use super::metrics::source::{Measured, PointState, Source};
use super::points::{PointKey, Registry};
use super::programs::{LoadError, LoadOptions, Outcomes, Programs, WatchError};
use super::ring::{Batch, CHANNEL_CAPACITY, RingReader};
use super::slots::Slot;
use crate::host::drop_reasons::DropReasons;
use crate::host::memory;
use crate::host::netns::NetnsId;
use crate::host::plan::PlannedDevice;
use crate::host::programs::{self, DevicePrograms, HookProgram};
use crate::host::survey::Survey;
use crate::trajectory::model::{
    ClockId, DeviceRole, Direction, DropPlace, DropSighting, Frame, ObservationPoint, PointId, Sighting,
};

/// How to observe.
#[derive(Clone, Copy, Debug)]
pub struct ObserverOptions {
    pub attach: AttachMode,
    pub load: LoadOptions,
    /// A UDP port to look for VXLAN on besides the usual ones.
    pub vxlan_port: Option<u16>,
    /// Whether the kernel has TCX.
    pub has_tcx: bool,
    /// Whose legs are measured apart, and of how many; only with [`LoadOptions::sample`].
    pub groups: Option<(By, u16)>,
}

#[derive(Debug, thiserror::Error)]
pub enum ObserverError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("no log of the programs: {0}")]
    Log(String),
}

/// How often the programs' log is emptied.
const LOG_INTERVAL: Duration = Duration::from_millis(10);

/// Records that never became sightings, by stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The kernel's ring buffer was full.
    pub ring_full: u64,
    /// The channel behind the ring's reader was full.
    pub channel_full: u64,
    /// The sample was no record.
    pub undecodable: u64,
    /// The record's device is none that we attached to.
    pub unattributed: u64,
    /// Drops that the kernel had no room to tell, or that were met while another one was looked at. Not all of them were
    /// packets of the follow.
    pub drop_records: u64,
    /// Drops of followed packets in network namespaces of this machine that are no node's and no pod's of the inventory.
    /// They are no loss: what is observed is whole without them.
    pub drops_elsewhere: u64,
}

impl Losses {
    /// Records that are missing.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.ring_full
            .saturating_add(self.channel_full)
            .saturating_add(self.undecodable)
            .saturating_add(self.unattributed)
            .saturating_add(self.drop_records)
    }

    /// What was lost after `before`, an earlier reading of the same counts.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            ring_full: self.ring_full.saturating_sub(before.ring_full),
            channel_full: self.channel_full.saturating_sub(before.channel_full),
            undecodable: self.undecodable.saturating_sub(before.undecodable),
            unattributed: self.unattributed.saturating_sub(before.unattributed),
            drop_records: self.drop_records.saturating_sub(before.drop_records),
            drops_elsewhere: self.drops_elsewhere.saturating_sub(before.drops_elsewhere),
        }
    }

    /// Adds what was lost elsewhere.
    pub const fn add(&mut self, other: Self) {
        self.ring_full = self.ring_full.saturating_add(other.ring_full);
        self.channel_full = self.channel_full.saturating_add(other.channel_full);
        self.undecodable = self.undecodable.saturating_add(other.undecodable);
        self.unattributed = self.unattributed.saturating_add(other.unattributed);
        self.drop_records = self.drop_records.saturating_add(other.drop_records);
        self.drops_elsewhere = self.drops_elsewhere.saturating_add(other.drops_elsewhere);
    }
}

/// The running pipeline. Detaches when dropped.
pub struct Observer {
    options: ObserverOptions,
    programs: Programs,
    attacher: Attacher,
    registry: Registry,
    ring: RingReader,
    /// `None` where the kernel does not tell of drops.
    drops: Option<Drops>,
    /// For metrics.
    dropped: Tally,
    /// Whose legs are measured apart, if anybody's.
    groups: Option<Groups>,
    unattributed: u64,
    undecodable: u64,
}

impl Observer {
    /// Creates maps and starts reading; nothing is attached yet. Batches of records come out of the receiver.
    ///
    /// # Errors
    /// [`ObserverError`].
    pub fn start(
        options: ObserverOptions,
        reasons: Option<DropReasons>,
    ) -> Result<(Self, mpsc::Receiver<Batch>), ObserverError> {
        let layout = reasons.as_ref().map(|reasons| reasons.layout);
        let mut programs = Programs::new(LoadOptions {
            layout,
            groups: options.groups.map_or(0, |(_, most)| most),
            ..options.load
        })?;
        let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        let ring = RingReader::spawn(programs.take_ring()?, sender)?;
        let observer = Self {
            options,
            programs,
            attacher: Attacher::new(options.attach),
            registry: Registry::default(),
            ring,
            drops: reasons.map(Drops::new),
            dropped: Tally::default(),
            groups: options.groups.map(|(by, most)| Groups::new(by, most)),
            unattributed: 0,
            undecodable: 0,
        };
        memory::give_back();
        Ok((observer, receiver))
    }

    /// Lets the kernel tell of drops; false if it was not asked to, in [`Observer::start`].
    ///
    /// # Errors
    /// [`WatchError`]: it refuses, and all else goes on without.
    pub fn watch_drops(&mut self) -> Result<bool, WatchError> {
        if self.drops.is_none() {
            return Ok(false);
        }
        let watched = self.programs.watch_drops().map(|()| true).inspect_err(|_| self.drops = None);
        memory::give_back();
        watched
    }

    /// The kernel tells of drops no more.
    ///
    /// # Errors
    /// [`WatchError`]: it goes on.
    pub fn ignore_drops(&mut self) -> Result<(), WatchError> {
        self.programs.ignore_drops()
    }

    /// Whose the namespaces of this machine are, for [`Observer::attribute_drop`]; gives the drops that have waited for
    /// it. `own` is the machine's own; `now_ns` is CLOCK_MONOTONIC.
    pub fn learn_spaces(&mut self, survey: &Survey, own: Option<NetnsId>, now_ns: u64) -> Vec<DropSighting> {
        self.drops.as_mut().map_or_else(Vec::new, |drops| drops.learn(survey, own, now_ns))
    }

    /// Whose legs are measured apart, if anybody's.
    pub fn groups_mut(&mut self) -> Option<&mut Groups> {
        self.groups.as_mut()
    }

    /// Sets what the kernel side records.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn arm(&mut self, follows: &[(Slot, FollowFilter)]) -> Result<(), FilterError> {
        filters::arm(&mut self.programs, follows, self.options.vxlan_port)?;
        self.ring.rest(follows.is_empty());
        Ok(())
    }

    /// Whether both hooks of this device are held.
    #[must_use]
    pub fn observes(&self, device: &PlannedDevice) -> bool {
        self.attacher.holds(device.netns.id(), device.link.ifindex)
    }

    /// Attaches to a device. Its points exist from `now_ns` (CLOCK_MONOTONIC) on.
    ///
    /// # Errors
    /// [`AttachError`]; nothing of ours is on the device then.
    pub fn observe(&mut self, device: &PlannedDevice, now_ns: u64) -> Result<(), AttachError> {
        // Read before we attach: only others' programs. Not to know them only costs an explanation later.
        let others = programs::of_device(&device.netns, device.link.ifindex).unwrap_or_else(|error| {
            tracing::warn!("{}: {error}", device.link.name);
            DevicePrograms::default()
        });
        let target = Target {
            netns: device.netns.clone(),
            device: device.link.name.to_string(),
            ifindex: device.link.ifindex,
            ethernet: device.link.has_ethernet_header,
            has_tcx: self.options.has_tcx,
            by_netkit: is_held_by_netkit(device, &others),
            tcx: others.tcx_ids(),
        };
        // Before the first packet can come.
        if self.programs.measures() {
            self.name_points(device);
        }
        let make = |id, direction, mechanism| describe(device, &others, id, direction, mechanism);
        let attached = self.attacher.attach(&mut self.programs, &mut self.registry, &target, now_ns, make);
        if attached.is_err() {
            self.forget_points(device.netns.id(), device.link.ifindex);
        }
        attached
    }

    fn name_points(&mut self, device: &PlannedDevice) {
        let group = match (&mut self.groups, &device.pod) {
            (Some(groups), Some(pod)) => groups.of(&pod.uid),
            _ => 0,
        };
        let named =
            self.programs.space(device.netns.id()).map(|space| space.number).and_then(|space| {
                self.programs.name_points((space, device.link.ifindex), device.role, group)
            });
        if let Err(error) = named {
            tracing::warn!("legs at {} are not measured: {error}", device.link.name);
        }
    }

    fn forget_points(&mut self, netns: NetnsId, ifindex: u32) {
        if self.programs.measures()
            && let Some(space) = self.programs.space_number(netns)
        {
            // Without the map nothing is measured, which is said where points are named.
            let _ = self.programs.forget_points(space, ifindex);
        }
    }

    /// The devices whose hooks are held.
    #[must_use]
    pub fn devices(&self) -> Vec<(NetnsId, u32)> {
        self.attacher.devices().collect()
    }

    /// Lets go of a device that is gone or no longer wanted; gives its points.
    pub fn release(&mut self, netns: NetnsId, ifindex: u32) -> Vec<PointId> {
        let (points, is_last) = self.attacher.release(netns, ifindex);
        self.forget_points(netns, ifindex);
        if is_last {
            self.programs.drop_space(netns);
        }
        points
    }

    /// Puts our legacy filters back to the front where another tool got before them; gives the devices where that
    /// was necessary, and what went wrong.
    pub fn reconcile(&mut self) -> (Vec<String>, Vec<String>) {
        self.attacher.reconcile(&mut self.programs)
    }

    /// Devices whose points must be made anew, by letting go and attaching again: TCX programs came or went before our
    /// legacy filters.
    #[must_use]
    pub fn outdated(&self) -> Vec<(NetnsId, u32)> {
        if self.options.has_tcx { self.attacher.outdated() } else { Vec::new() }
    }

    /// All points there ever were in this run, by id.
    #[must_use]
    pub fn points(&self) -> &[Arc<ObservationPoint>] {
        self.registry.all()
    }

    /// Who saw what; a record of a device that is not ours is counted and dropped.
    pub fn attribute(&mut self, record: &HopRecord, frame: Option<Frame>) -> Option<Sighting> {
        let Some(point) = self.registry.find(PointKey::of(record), record.time_ns) else {
            self.unattributed += 1;
            return None;
        };
        Some(decode::sighting(record, frame, Arc::clone(point)))
    }

    /// Where the kernel threw a packet away; `None` if it was in a namespace that is nobody's yet.
    pub fn attribute_drop(&mut self, record: &DropRecord) -> Option<DropSighting> {
        self.drops.as_mut()?.attribute(record)
    }

    /// What the kernel measured and what was lost, for one scrape; `devices_planned` is left at 0.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn metrics(&mut self) -> Result<Source, LoadError> {
        self.tally_drops()?;
        Ok(Source {
            sample_rate: self.options.load.sample.unwrap_or(0),
            outcomes: self.outcomes()?,
            measured: match self.options.load.sample {
                Some(_) => self.programs.measured()?,
                None => Measured::default(),
            },
            losses: self.losses()?,
            devices_planned: 0,
            points: self.point_states(),
            runs: self.programs.runs(),
            groups: self.groups.clone(),
            drops: self.drops.is_some().then(|| self.dropped.states()),
            agent: None,
        })
    }

    fn tally_drops(&mut self) -> Result<(), LoadError> {
        let Some(drops) = self.drops.as_ref().filter(|_| self.programs.measures()) else { return Ok(()) };
        let counts = self.programs.dropped()?;
        let role = |place: &DropPlace| {
            let is_there = |point: &&Arc<ObservationPoint>| {
                point.node == place.node
                    && Some(&point.device) == place.device.as_ref()
                    && (point.role == DeviceRole::PodInterface) == place.pod.is_some()
            };
            self.registry.all().iter().find(is_there).map(|point| point.role)
        };
        let gone = self.dropped.take(&counts, |at| drops.place_of(at, role));
        self.programs.forget_dropped(&gone)
    }

    /// The points that are held; those of pods as one for each node, role and direction.
    fn point_states(&self) -> Vec<PointState> {
        let mut counts = BTreeMap::new();
        for id in self.attacher.points() {
            let Some(point) = self.registry.all().get(id.0 as usize) else { continue };
            let is_pods = matches!(point.role, DeviceRole::PodInterface | DeviceRole::PodPeer);
            let device = if is_pods { String::new() } else { point.device.to_string() };
            *counts.entry((point.node.to_string(), device, point.role, point.direction)).or_insert(0) += 1;
        }
        let state =
            |((node, device, role, direction), count)| PointState { node, device, role, direction, count };
        counts.into_iter().map(state).collect()
    }

    /// Packets at our hooks by outcome.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn outcomes(&self) -> Result<Outcomes, LoadError> {
        self.programs.outcomes()
    }

    /// Counts a sample that is no record.
    pub const fn note_undecodable(&mut self) {
        self.undecodable += 1;
    }

    /// All records from before this time, CLOCK_MONOTONIC in nanoseconds, are in the channel or counted as lost; 0
    /// until the ring was read for the first time.
    #[must_use]
    pub fn read_until_ns(&self) -> u64 {
        self.ring.counters().read_until_ns.load(Ordering::Acquire)
    }

    /// All records lost so far.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn losses(&self) -> Result<Losses, LoadError> {
        let counters = self.ring.counters();
        Ok(Losses {
            ring_full: self.outcomes()?.get(Outcome::RingFull),
            channel_full: counters.channel_full.load(Ordering::Relaxed),
            undecodable: self.undecodable,
            unattributed: self.unattributed,
            drop_records: self
                .drops
                .as_ref()
                .map_or(Ok(0), |_| self.programs.drop_outcomes().map(|drops| drops.lost()))?,
            drops_elsewhere: self.drops.as_ref().map_or(0, Drops::elsewhere),
        })
    }

    /// Records lost by point, as far as that is known: in [`Observer::losses`] are all.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn lost_at_points(&self) -> Result<BTreeMap<PointId, u64>, LoadError> {
        let mut lost = BTreeMap::new();
        for (key, count) in
            self.programs.lost_at_points()?.into_iter().chain(self.ring.counters().lost_at_points())
        {
            // The one that the key stands for now: a device that is gone may have had its share.
            if let Some(point) = self.registry.find(key, u64::MAX) {
                *lost.entry(point.id).or_default() += count;
            }
        }
        Ok(lost)
    }

    /// Logs what the programs say, on a thread of its own that ends with the process: under load they say much.
    ///
    /// # Errors
    /// The log's map cannot be read, or no thread can be started.
    pub fn log_programs(&mut self) -> Result<(), ObserverError> {
        let mut logger = aya_log::EbpfLogger::init(self.programs.object_mut())
            .map_err(|error| ObserverError::Log(error.to_string()))?;
        std::thread::Builder::new().name("program-log".into()).spawn(move || {
            loop {
                logger.flush();
                std::thread::sleep(LOG_INTERVAL);
            }
        })?;
        Ok(())
    }

    /// Detaches, then reads what is still in the ring: the receiver ends behind the last record. Gives what could
    /// not be detached.
    pub fn stop(&mut self) -> Vec<String> {
        let problems = self.attacher.detach_all();
        self.ring.stop();
        problems
    }
}

/// Whether a device's ingress is held on its netkit pair. Only where what the pod sends passes without a program, too: where
/// the kernel would drop it, a program of ours alone would let it pass.
#[must_use]
pub fn is_held_by_netkit(device: &PlannedDevice, on_device: &DevicePrograms) -> bool {
    on_device.is_netkit && device.link.passes_from_peer
}

/// The point of one direction of a device.
fn describe(
    device: &PlannedDevice,
    others: &DevicePrograms,
    id: PointId,
    direction: Direction,
    mechanism: Mechanism,
) -> ObservationPoint {
    // What runs where a pod transmits into its netkit pair runs before this ingress.
    let on_pair: &[HookProgram] = if direction == Direction::Ingress { &others.netkit_peer } else { &[] };
    let foreign: Vec<_> =
        on_pair.iter().chain(others.on(direction)).filter(|program| !program.is_ours()).collect();
    let runs_before = |program: &&&HookProgram| match mechanism {
        Mechanism::Netkit => false,
        Mechanism::Tcx => program.mechanism == programs::Mechanism::NetkitPeer,
        Mechanism::Clsact => {
            matches!(program.mechanism, programs::Mechanism::NetkitPeer | programs::Mechanism::Tcx)
        }
    };
    let name = |program: &HookProgram| Arc::from(program.name.as_str());
    ObservationPoint {
        id,
        node: Arc::clone(&device.node),
        // One machine, one clock.
        clock: ClockId(0),
        pod: device.pod.clone(),
        device: Arc::clone(&device.link.name),
        kind: Arc::clone(&device.link.kind),
        ifindex: device.link.ifindex,
        has_ethernet_header: device.link.has_ethernet_header,
        direction,
        role: device.role,
        bridge: device.link.master,
        foreign_programs: foreign.iter().map(|program| name(program)).collect(),
        hidden_by: foreign.iter().find(runs_before).map(|program| name(program)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_that_was_not_told_is_a_loss_and_one_that_is_nobodys_is_none() {
        let losses = Losses { drop_records: 2, drops_elsewhere: 5, unattributed: 1, ..Losses::default() };
        assert_eq!(losses.total(), 3);
        let mut sum = losses;
        sum.add(losses);
        assert_eq!((sum.total(), sum.drops_elsewhere), (6, 10));
    }
}
