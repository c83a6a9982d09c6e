//! Hooks: who we are on them and how we get there.
//!
//! TCX at the head, in front of every other program; links are file descriptors, so that nothing stays attached
//! when this process ends, however it ends. What a pod sends through a netkit pair is met by a link of the same kind on
//! the pair itself, because the CNI's programs sit there. Where TCX is missing (before Linux 6.6), or on demand, legacy
//! clsact filters by the rules in [`clsact`].

pub mod clsact;
mod link;

use std::collections::HashMap;

use self::clsact::Filter;
use self::link::{Hook, Link};
use super::points::{PointKey, Registry};
use super::programs::{LoadError, Programs, program_name};
use crate::host::netns::{Netns, NetnsId};
use crate::host::programs::{self, TcxIds};
use crate::trajectory::model::{Direction, ObservationPoint, PointId};

/// What the user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum AttachMode {
    /// TCX where the kernel has it, else clsact.
    #[default]
    Auto,
    /// TCX, and the netkit hook for what pods send through a netkit pair.
    Tcx,
    Clsact,
}

/// How a hook is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Tcx,
    Clsact,
    /// Ingress of the primary of a netkit pair, held where its peer transmits.
    Netkit,
}

impl Mechanism {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Netkit => "netkit",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(
        "this kernel has no TCX (it came with Linux 6.6): use --attach clsact, or --attach auto, which picks it"
    )]
    NoTcx,
    #[error("the device is gone")]
    DeviceGone,
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the kernel refuses the {hook} link: {source}{}", link_hint(source))]
    Link { hook: &'static str, source: std::io::Error },
    #[error(transparent)]
    Clsact(clsact::ClsactError),
    #[error(transparent)]
    Netns(std::io::Error),
}

fn link_hint(error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ERANGE) => {
            " (64 programs are the most on one hook; who is there: bpftool net show, from version 7.3 on)"
        }
        Some(libc::EPERM) => " (needs CAP_NET_ADMIN and CAP_BPF)",
        _ => "",
    }
}

impl From<std::io::Error> for AttachError {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::NotFound { Self::DeviceGone } else { Self::Netns(error) }
    }
}

impl From<clsact::ClsactError> for AttachError {
    fn from(error: clsact::ClsactError) -> Self {
        if error.is_device_gone() { Self::DeviceGone } else { Self::Clsact(error) }
    }
}

/// A device to attach to.
#[derive(Clone, Debug)]
pub struct Target {
    pub netns: Netns,
    pub device: String,
    pub ifindex: u32,
    pub ethernet: bool,
    /// Whether the kernel has TCX.
    pub has_tcx: bool,
    /// Whether its ingress is held on its netkit pair.
    pub by_netkit: bool,
    /// Who is on its TCX hooks.
    pub tcx: TcxIds,
}

/// Both hooks of a device, while we hold them.
struct Held {
    netns: Netns,
    device: String,
    points: Vec<PointId>,
    hooks: Hooks,
    /// Who was on the TCX hooks when the points were described: before our filters, where those are legacy ones.
    tcx: TcxIds,
}

enum Hooks {
    Links(Vec<(Mechanism, Link)>),
    Clsact(Vec<Filter>),
}

impl Hooks {
    fn mechanism(&self, direction: Direction) -> Mechanism {
        match self {
            Self::Clsact(_) => Mechanism::Clsact,
            Self::Links(links) => links
                .iter()
                .zip(DIRECTIONS)
                .find(|(_, of)| *of == direction)
                .map_or(Mechanism::Tcx, |((mechanism, _), _)| *mechanism),
        }
    }
}

/// Attaches, keeps and detaches.
pub struct Attacher {
    mode: AttachMode,
    held: HashMap<(NetnsId, u32), Held>,
}

impl Attacher {
    #[must_use]
    pub fn new(mode: AttachMode) -> Self {
        Self { mode, held: HashMap::new() }
    }

    /// Whether both hooks of this device are ours already.
    #[must_use]
    pub fn holds(&self, netns: NetnsId, ifindex: u32) -> bool {
        self.held.contains_key(&(netns, ifindex))
    }

    /// Attaches both directions of a device and registers their points as born at `now_ns`; `make` describes a
    /// point.
    ///
    /// # Errors
    /// [`AttachError`]; nothing of ours is on the device then.
    pub fn attach(
        &mut self,
        programs: &mut Programs,
        registry: &mut Registry,
        target: &Target,
        now_ns: u64,
        mut make: impl FnMut(PointId, Direction, Mechanism) -> ObservationPoint,
    ) -> Result<(), AttachError> {
        let (hooks, space) = match self.mode {
            AttachMode::Clsact => attach_clsact(programs, target)?,
            AttachMode::Tcx if !target.has_tcx => return Err(AttachError::NoTcx),
            AttachMode::Auto if !target.has_tcx => attach_clsact(programs, target)?,
            AttachMode::Tcx | AttachMode::Auto => attach_links(programs, target)?,
        };
        let mut points = Vec::with_capacity(DIRECTIONS.len());
        for direction in DIRECTIONS {
            let key = PointKey { space, ifindex: target.ifindex, direction };
            let mechanism = hooks.mechanism(direction);
            points.push(registry.register(key, now_ns, |id| make(id, direction, mechanism)).id);
        }
        let held = Held {
            netns: target.netns.clone(),
            device: target.device.clone(),
            points,
            hooks,
            tcx: target.tcx.clone(),
        };
        self.held.insert((target.netns.id(), target.ifindex), held);
        Ok(())
    }

    /// The points of all hooks that are held.
    pub fn points(&self) -> impl Iterator<Item = PointId> {
        self.held.values().flat_map(|held| held.points.iter().copied())
    }

    /// The devices whose hooks are held.
    pub fn devices(&self) -> impl Iterator<Item = (NetnsId, u32)> {
        self.held.keys().copied()
    }

    /// Lets go of a device, which may be gone. Gives its points, and whether it was the last of its namespace.
    pub fn release(&mut self, netns: NetnsId, ifindex: u32) -> (Vec<PointId>, bool) {
        let Some(held) = self.held.remove(&(netns, ifindex)) else { return (Vec::new(), false) };
        for problem in held.detach() {
            tracing::warn!("{problem}");
        }
        let is_last = !self.held.keys().any(|(other, _)| *other == netns);
        (held.points, is_last)
    }

    /// Puts filters of ours that another tool got in front of back to the front; gives the devices where that was
    /// necessary. TCX links need nothing: a later one at the head that returns NEXT does no harm, and no one
    /// replaces ours.
    ///
    /// Second comes what went wrong, in plain sentences.
    pub fn reconcile(&mut self, programs: &mut Programs) -> (Vec<String>, Vec<String>) {
        let mut moved = Vec::new();
        let mut problems = Vec::new();
        for held in self.held.values_mut() {
            let Hooks::Clsact(filters) = &mut held.hooks else { continue };
            for filter in filters {
                match bring_to_front(programs, &held.netns, filter) {
                    Ok(true) => moved.push(held.device.clone()),
                    Ok(false) => {}
                    // The link watcher tells of devices that are gone.
                    Err(AttachError::DeviceGone) => {}
                    Err(error) => problems.push(format!("{}: {error}", held.device)),
                }
            }
        }
        (moved, problems)
    }

    /// Devices that we hold by legacy filters and on whose TCX hooks programs came or went since: what their points say
    /// about who hides them is no longer true.
    #[must_use]
    pub fn outdated(&self) -> Vec<(NetnsId, u32)> {
        let is_outdated = |((_, ifindex), held): &(&(NetnsId, u32), &Held)| {
            // The link watcher tells of devices that are gone, and the next look of what cannot be read.
            matches!(held.hooks, Hooks::Clsact(_))
                && programs::tcx_ids(&held.netns, *ifindex).is_ok_and(|ids| ids != held.tcx)
        };
        self.held.iter().filter(is_outdated).map(|(device, _)| *device).collect()
    }

    /// Detaches everything; gives what could not be detached, in plain sentences.
    pub fn detach_all(&mut self) -> Vec<String> {
        self.held.drain().flat_map(|(_, held)| held.detach()).collect()
    }
}

impl Held {
    /// Removes what does not go by itself; gives what could not be removed, in plain sentences.
    fn detach(&self) -> Vec<String> {
        let Hooks::Clsact(filters) = &self.hooks else { return Vec::new() };
        let problem = |error| format!("cannot remove our filter from {}: {error}", self.device);
        filters.iter().filter_map(|filter| clsact::remove(&self.netns, filter).err()).map(problem).collect()
    }
}

impl Drop for Attacher {
    fn drop(&mut self) {
        for problem in self.detach_all() {
            tracing::warn!("{problem}");
        }
    }
}

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Attaches links at the head; gives them and the number of the namespace.
fn attach_links(programs: &mut Programs, target: &Target) -> Result<(Hooks, u32), AttachError> {
    let space = programs.space(target.netns.id())?;
    let number = space.number;
    let mut links = Vec::with_capacity(DIRECTIONS.len());
    for direction in DIRECTIONS {
        let program = &*space.program(direction, target.ethernet)?;
        let create = |hook| link::create(&target.netns, target.ifindex, hook, program);
        if direction == Direction::Ingress && target.by_netkit {
            match create(Hook::NetkitPeer).map_err(|error| link_error("netkit", error)) {
                Ok(link) => {
                    links.push((Mechanism::Netkit, link));
                    continue;
                }
                Err(AttachError::DeviceGone) => return Err(AttachError::DeviceGone),
                // TCX sees what the pair's programs pass; `tracer points` says that it is behind them.
                Err(error) => tracing::warn!("{}: {error}; using TCX there", target.device),
            }
        }
        let hook = match direction {
            Direction::Ingress => Hook::TcxIngress,
            Direction::Egress => Hook::TcxEgress,
        };
        links.push((Mechanism::Tcx, create(hook).map_err(|error| link_error("TCX", error))?));
    }
    Ok((Hooks::Links(links), number))
}

/// What the kernel's refusal of a link means.
fn link_error(hook: &'static str, source: std::io::Error) -> AttachError {
    match source.raw_os_error() {
        Some(libc::ENODEV) => AttachError::DeviceGone,
        _ if source.kind() == std::io::ErrorKind::NotFound => AttachError::DeviceGone,
        _ => AttachError::Link { hook, source },
    }
}

/// Adds clsact filters in front of all others; gives them and the number of the namespace.
fn attach_clsact(programs: &mut Programs, target: &Target) -> Result<(Hooks, u32), AttachError> {
    let space = programs.space(target.netns.id())?;
    let number = space.number;
    clsact::ensure_qdisc(&target.netns, target.ifindex)?;
    let mut filters = Vec::with_capacity(DIRECTIONS.len());
    for direction in DIRECTIONS {
        let program = space.program(direction, target.ethernet)?;
        match clsact::add_in_front(&target.netns, target.ifindex, direction, target.ethernet, program) {
            Ok(filter) => filters.push(filter),
            Err(error) => {
                for filter in &filters {
                    let _ = clsact::remove(&target.netns, filter);
                }
                return Err(error.into());
            }
        }
    }
    Ok((Hooks::Clsact(filters), number))
}

/// True if the filter was not the first and is now.
fn bring_to_front(programs: &mut Programs, netns: &Netns, filter: &mut Filter) -> Result<bool, AttachError> {
    if clsact::is_first(netns, filter)? {
        return Ok(false);
    }
    let program = programs.space(netns.id())?.program(filter.direction, filter.ethernet)?;
    // Somebody may have deleted the qdisc with all that was on it.
    clsact::ensure_qdisc(netns, filter.ifindex)?;
    // Add before remove: packets may be seen twice for a moment (two records of one program at one point, which the
    // correlator takes for a duplicate), but none passes unseen.
    let in_front = clsact::add_in_front(netns, filter.ifindex, filter.direction, filter.ethernet, program)?;
    // The same place again, if ours had been removed.
    if in_front != *filter {
        clsact::remove(netns, filter)?;
    }
    *filter = in_front;
    Ok(true)
}
