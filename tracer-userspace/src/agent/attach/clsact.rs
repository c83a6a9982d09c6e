//! Legacy tc filters, next to Cilium's and others' (facts in docs/attach.md).
//!
//! - Priority 1, in front: within one priority the filter that was added last runs first.
//! - Never handle 1: that is Cilium's, who would replace ours, and whose filter we must never replace.
//! - A filter is removed only after a look at its program: (priority, handle) alone may be someone else's by now.
//! - The clsact qdisc is created where it is missing and never deleted: others may have begun to use it.
//! - Filters outlive their process. Their name says which process made them, so that the next start can remove
//!   what a killed one left behind, and only that.

use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd};

use aya::programs::SchedClassifier;

use crate::host::filters::{
    self, Filter as Listed, TCA_BPF_FLAG_ACT_DIRECT, TCA_BPF_FLAGS, TCA_BPF_NAME, TCA_KIND, TCA_OPTIONS,
    header,
};
use crate::host::netlink::{Connection, attributes, read_text, read_u32};
use crate::host::netns::Netns;
use crate::host::programs::{OWN_PREFIX, TC_H_EGRESS, TC_H_INGRESS};
use crate::trajectory::model::Direction;

const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const TCA_BPF_FD: u16 = 6;
const TC_H_CLSACT: u32 = 0xffff_fff1;
const TC_H_CLSACT_MAJOR: u32 = 0xffff_0000;
const ETH_P_ALL: u16 = 3;

/// The first priority there is.
const PRIORITY: u16 = 1;

/// Handles that we take: far from 1 and from what the kernel gives by itself.
const HANDLES: RangeInclusive<u32> = 0x7ace_0001..=0x7ace_0040;

#[derive(Debug, thiserror::Error)]
pub enum ClsactError {
    #[error("cannot add the clsact qdisc to the device: {0}")]
    Qdisc(#[source] std::io::Error),
    #[error(
        "the device has an ingress qdisc (a bandwidth plugin?), beside which there can be no clsact: its egress cannot \
         be observed with legacy filters; use TCX (--attach tcx, Linux 6.6), or remove that qdisc"
    )]
    IngressQdisc,
    #[error(
        "cannot add our {direction:?} filter at priority 1: {source} (is there a filter of another kind at that priority? \
         see: tc filter show dev DEVICE ingress; tc filter show dev DEVICE egress)"
    )]
    Add {
        direction: Direction,
        #[source]
        source: std::io::Error,
    },
    #[error("all handles that tracer uses are taken on this hook ({:#x} to {:#x})", HANDLES.start(), HANDLES.end())]
    NoHandle,
    #[error("cannot list the filters of the device: {0}")]
    List(#[source] std::io::Error),
    #[error("cannot remove a filter: {0}")]
    Remove(#[source] std::io::Error),
    #[error("cannot read our own program's id: {0}")]
    OwnProgram(String),
}

impl ClsactError {
    /// Whether the device has gone meanwhile.
    #[must_use]
    pub fn is_device_gone(&self) -> bool {
        match self {
            Self::Qdisc(error)
            | Self::Add { source: error, .. }
            | Self::List(error)
            | Self::Remove(error) => {
                error.raw_os_error() == Some(libc::ENODEV) || error.kind() == std::io::ErrorKind::NotFound
            }
            Self::NoHandle | Self::IngressQdisc | Self::OwnProgram(_) => false,
        }
    }
}

/// One filter of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub ifindex: u32,
    pub direction: Direction,
    pub ethernet: bool,
    handle: u32,
    program_id: u32,
}

/// Adds the clsact qdisc if the device has none.
///
/// # Errors
/// [`ClsactError::Qdisc`].
pub fn ensure_qdisc(netns: &Netns, ifindex: u32) -> Result<(), ClsactError> {
    let mut request = header(ifindex, TC_H_CLSACT_MAJOR, TC_H_CLSACT, 0);
    push_attribute(&mut request, TCA_KIND, b"clsact\0");
    let mut connection = Connection::open(netns, 0).map_err(ClsactError::Qdisc)?;
    match connection.change(libc::RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &request) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(ClsactError::Qdisc(error)),
        Err(_) if has_ingress_qdisc(&mut connection, ifindex)? => Err(ClsactError::IngressQdisc),
        _ => Ok(()),
    }
}

/// Whether the older qdisc of ingress alone sits where clsact would.
fn has_ingress_qdisc(connection: &mut Connection, ifindex: u32) -> Result<bool, ClsactError> {
    let listed =
        connection.dump(libc::RTM_GETQDISC, &header(ifindex, 0, 0, 0)).map_err(ClsactError::Qdisc)?;
    Ok(listed.iter().any(|message| {
        let device = message.payload.get(4..).and_then(read_u32);
        let kind = attributes(message.payload.get(20..).unwrap_or_default())
            .find(|(attribute, _)| *attribute == TCA_KIND)
            .map(|(_, value)| read_text(value));
        device == Some(ifindex) && kind.as_deref() == Some("ingress")
    }))
}

/// Adds a filter that runs before all that are there.
///
/// # Errors
/// [`ClsactError`].
pub fn add_in_front(
    netns: &Netns,
    ifindex: u32,
    direction: Direction,
    ethernet: bool,
    program: &SchedClassifier,
) -> Result<Filter, ClsactError> {
    let own = |error: &dyn std::error::Error| ClsactError::OwnProgram(error.to_string());
    let program_id = program.info().map_err(|error| own(&error))?.id();
    let fd = program.fd().map_err(|error| own(&error))?.as_fd().as_raw_fd();
    let name = owned_name(super::program_name(direction, ethernet))?;
    let mut options = Vec::new();
    push_attribute(&mut options, TCA_BPF_FD, &fd.to_ne_bytes());
    push_attribute(&mut options, TCA_BPF_NAME, name.as_bytes());
    push_attribute(&mut options, TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());

    let mut connection = Connection::open(netns, 0).map_err(ClsactError::List)?;
    for handle in HANDLES {
        let mut request = header(ifindex, handle, parent(direction), info());
        push_attribute(&mut request, TCA_KIND, b"bpf\0");
        push_attribute(&mut request, TCA_OPTIONS, &options);
        match connection.change(libc::RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, &request) {
            Ok(()) => return Ok(Filter { ifindex, direction, ethernet, handle, program_id }),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(source) => return Err(ClsactError::Add { direction, source }),
        }
    }
    Err(ClsactError::NoHandle)
}

/// Whether no other tool's filter runs before ours. Another tracer's may: it lets every packet pass, and two that
/// overtook each other would never come to rest.
///
/// # Errors
/// [`ClsactError::List`].
pub fn is_first(netns: &Netns, filter: &Filter) -> Result<bool, ClsactError> {
    let listed = list(netns, filter.ifindex, filter.direction)?;
    let first = listed.iter().find(|listed| is(listed, filter) || owner(&listed.name).is_none());
    Ok(first.is_some_and(|first| is(first, filter)))
}

/// Removes a filter if its place still holds our program. A device or filter that is gone is no error.
///
/// # Errors
/// [`ClsactError`].
pub fn remove(netns: &Netns, filter: &Filter) -> Result<(), ClsactError> {
    let listed = match list(netns, filter.ifindex, filter.direction) {
        Err(ClsactError::List(error)) if is_gone(&error) => return Ok(()),
        result => result?,
    };
    match listed.iter().find(|listed| is(listed, filter)) {
        Some(found) => remove_listed(netns, filter.ifindex, filter.direction, found),
        None => Ok(()),
    }
}

/// Removes filters that a tracer which is no longer running left on devices; gives how many. A device that goes
/// meanwhile is no error.
///
/// # Errors
/// [`ClsactError`].
pub fn sweep(netns: &Netns, ifindexes: &[u32]) -> Result<usize, ClsactError> {
    let mut connection = Connection::open(netns, 0).map_err(ClsactError::List)?;
    let mut removed = 0;
    for ifindex in ifindexes {
        for direction in [Direction::Ingress, Direction::Egress] {
            let listed = match list_on(&mut connection, *ifindex, direction) {
                Err(error) if error.is_device_gone() => continue,
                result => result?,
            };
            let leftovers = listed.iter().filter(|filter| {
                filter.priority == PRIORITY && HANDLES.contains(&filter.handle) && is_orphan(&filter.name)
            });
            for filter in leftovers {
                remove_listed(netns, *ifindex, direction, filter)?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

fn remove_listed(
    netns: &Netns,
    ifindex: u32,
    direction: Direction,
    filter: &Listed,
) -> Result<(), ClsactError> {
    let mut request = header(ifindex, filter.handle, parent(direction), filter.info);
    push_attribute(&mut request, TCA_KIND, b"bpf\0");
    let mut connection = Connection::open(netns, 0).map_err(ClsactError::Remove)?;
    match connection.change(libc::RTM_DELTFILTER, 0, &request) {
        Err(error) if !is_gone(&error) => Err(ClsactError::Remove(error)),
        _ => Ok(()),
    }
}

/// The filters of a hook that packets meet, in running order.
fn list(netns: &Netns, ifindex: u32, direction: Direction) -> Result<Vec<Listed>, ClsactError> {
    let mut connection = Connection::open(netns, 0).map_err(ClsactError::List)?;
    list_on(&mut connection, ifindex, direction)
}

fn list_on(
    connection: &mut Connection,
    ifindex: u32,
    direction: Direction,
) -> Result<Vec<Listed>, ClsactError> {
    match filters::list(connection, ifindex, parent(direction)) {
        // No qdisc, no filters.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Vec::new()),
        Err(error) => Err(ClsactError::List(error)),
        Ok(mut listed) => {
            listed.retain(|filter| filter.chain == 0);
            Ok(listed)
        }
    }
}

/// Whether a listed filter is this one of ours, and not another that took its place.
fn is(listed: &Listed, ours: &Filter) -> bool {
    listed.handle == ours.handle && listed.program == Some(ours.program_id)
}

/// Name of a filter of this process: program, PID namespace, process and the time that it started, which together
/// no other process ever has.
fn owned_name(program: &str) -> Result<String, ClsactError> {
    let process = std::process::id();
    let started = start_time(process).map_err(|error| ClsactError::OwnProgram(error.to_string()))?;
    let namespace = pid_namespace().map_err(|error| ClsactError::OwnProgram(error.to_string()))?;
    Ok(format!("{program}:{namespace}:{process}:{}\0", started.unwrap_or(0)))
}

/// Whether a filter has a name as [`owned_name`] makes it and its process is certainly gone. A process of another
/// PID namespace cannot be looked at from here: it counts as living.
fn is_orphan(name: &str) -> bool {
    let Some(owner) = owner(name) else { return false };
    if !pid_namespace().is_ok_and(|namespace| namespace == owner.namespace) {
        return false;
    }
    start_time(owner.process).is_ok_and(|started| started != Some(owner.started))
}

/// Who made a filter.
struct Owner {
    /// Inode of its PID namespace.
    namespace: u64,
    process: u32,
    /// Clock ticks since boot.
    started: u64,
}

/// The maker behind a name as [`owned_name`] makes it; `None` for another tool's filter.
fn owner(name: &str) -> Option<Owner> {
    let mut parts = name.trim_end_matches('\0').split(':');
    let program = parts.next()?;
    let owner = Owner {
        namespace: parts.next()?.parse().ok()?,
        process: parts.next()?.parse().ok()?,
        started: parts.next()?.parse().ok()?,
    };
    (program.starts_with(OWN_PREFIX) && parts.next().is_none()).then_some(owner)
}

fn pid_namespace() -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::fs::metadata("/proc/self/ns/pid")?.ino())
}

/// When a process started, in clock ticks since boot: field 22 of `/proc/<pid>/stat` (proc(5)); `None` if there is
/// no such process.
fn start_time(process: u32) -> std::io::Result<Option<u64>> {
    let stat = match std::fs::read_to_string(format!("/proc/{process}/stat")) {
        // ESRCH: it ended while it was read.
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) =>
        {
            return Ok(None);
        }
        result => result?,
    };
    // The second field is the command in parentheses and may contain anything.
    let started = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
    started.map(Some).ok_or_else(|| std::io::Error::other(format!("/proc/{process}/stat makes no sense")))
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL))
}

const fn parent(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => TC_H_INGRESS,
        Direction::Egress => TC_H_EGRESS,
    }
}

/// `tcm_info`: priority and, in network byte order, the protocol that the filter is for.
const fn info() -> u32 {
    (PRIORITY as u32) << 16 | ETH_P_ALL.to_be() as u32
}

/// Appends an attribute, padded to four bytes.
fn push_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_this_process_is_no_orphan_and_one_of_its_earlier_life_is() {
        let name = owned_name("tracer_in_eth").unwrap();
        assert!(!is_orphan(&name));
        let (namespace, process) = (pid_namespace().unwrap(), std::process::id());
        assert!(is_orphan(&format!("tracer_in_eth:{namespace}:{process}:1")));
    }

    #[test]
    fn a_process_that_cannot_be_seen_from_here_is_taken_for_living() {
        let elsewhere = pid_namespace().unwrap() + 1;
        assert!(!is_orphan(&format!("tracer_in_eth:{elsewhere}:1:1")));
    }

    #[test]
    fn a_filter_of_somebody_else_is_never_an_orphan_of_ours() {
        for name in ["cil_from_container-lxc1", "tracer_in_eth", "other:1:1:1", "tracer_in_eth:x:y:z", ""] {
            assert!(!is_orphan(name), "{name}");
        }
    }
}
