//! Legacy tc filters, next to Cilium's and others' (facts in docs/attach.md).
//!
//! - Priority 1, in front: within one priority the filter that was added last runs first.
//! - Never handle 1: that is Cilium's, who would replace ours, and whose filter we must never replace.
//! - A filter is removed only after a look at its program: (priority, handle) alone may be someone else's by now.
//! - The clsact qdisc is created where it is missing and never deleted: others may have begun to use it.
//! - Filters outlive their process. Their name says which process made them, so that the next start can remove
//!   what a killed one left behind, and only that.

use std::os::fd::{AsFd, AsRawFd};

use aya::programs::SchedClassifier;

use super::super::programs::PROGRAM_PREFIX;
use crate::host::netlink::{Connection, attributes, read_text, read_u32};
use crate::host::netns::Netns;
use crate::trajectory::model::Direction;

const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const TC_H_CLSACT: u32 = 0xffff_fff1;
const TC_H_CLSACT_MAJOR: u32 = 0xffff_0000;
const TC_H_INGRESS: u32 = 0xffff_fff2;
const TC_H_EGRESS: u32 = 0xffff_fff3;
const ETH_P_ALL: u16 = 3;

/// The first priority there is.
const PRIORITY: u16 = 1;

/// Handles that we take, from here on: far from 1 and from what the kernel gives by itself.
const FIRST_HANDLE: u32 = 0x7ace_0001;
const HANDLES: u32 = 64;

#[derive(Debug, thiserror::Error)]
pub enum ClsactError {
    #[error("cannot add the clsact qdisc to the device: {0}")]
    Qdisc(#[source] std::io::Error),
    #[error(
        "cannot add our {direction:?} filter at priority 1: {source} (is there a filter of another kind at that priority? \
         see: tc filter show dev DEVICE ingress; tc filter show dev DEVICE egress)"
    )]
    Add {
        direction: Direction,
        #[source]
        source: std::io::Error,
    },
    #[error("all handles that tracer uses are taken on this hook ({HANDLES} from {FIRST_HANDLE:#x} on)")]
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
            | Self::Remove(error) => error.raw_os_error() == Some(libc::ENODEV),
            Self::NoHandle | Self::OwnProgram(_) => false,
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

/// One filter as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    priority: u16,
    handle: u32,
    /// `htons(protocol)` as in `tcm_info`.
    info: u32,
    program_id: u32,
    name: String,
}

/// Adds the clsact qdisc if the device has none.
///
/// # Errors
/// [`ClsactError::Qdisc`].
pub fn ensure_qdisc(netns: &Netns, ifindex: u32) -> Result<(), ClsactError> {
    let mut request = header(ifindex, TC_H_CLSACT_MAJOR, TC_H_CLSACT, 0);
    push_attribute(&mut request, TCA_KIND, b"clsact\0");
    let mut connection = Connection::open(netns, 0).map_err(ClsactError::Qdisc)?;
    match connection.change(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &request) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(ClsactError::Qdisc(error)),
        _ => Ok(()),
    }
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
    let name = owned_name(super::program_name(direction, ethernet));
    let mut options = Vec::new();
    push_attribute(&mut options, TCA_BPF_FD, &fd.to_ne_bytes());
    push_attribute(&mut options, TCA_BPF_NAME, name.as_bytes());
    push_attribute(&mut options, TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());

    let mut connection = Connection::open(netns, 0).map_err(ClsactError::List)?;
    for handle in FIRST_HANDLE..FIRST_HANDLE + HANDLES {
        let mut request = header(ifindex, handle, parent(direction), info());
        push_attribute(&mut request, TCA_KIND, b"bpf\0");
        push_attribute(&mut request, TCA_OPTIONS, &options);
        match connection.change(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, &request) {
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
    let first = listed.iter().find(|listed| listed.is(filter) || owner(&listed.name).is_none());
    Ok(first.is_some_and(|first| first.is(filter)))
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
    match listed.iter().find(|listed| listed.is(filter)) {
        Some(found) => remove_listed(netns, filter.ifindex, filter.direction, found),
        None => Ok(()),
    }
}

/// Removes filters that a tracer which is no longer running left on a device; gives how many.
///
/// # Errors
/// [`ClsactError`].
pub fn sweep(netns: &Netns, ifindex: u32) -> Result<usize, ClsactError> {
    let mut removed = 0;
    for direction in [Direction::Ingress, Direction::Egress] {
        for filter in list(netns, ifindex, direction)? {
            if is_orphan(&filter.name) {
                remove_listed(netns, ifindex, direction, &filter)?;
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
    match connection.change(RTM_DELTFILTER, 0, &request) {
        Err(error) if !is_gone(&error) => Err(ClsactError::Remove(error)),
        _ => Ok(()),
    }
}

/// The eBPF filters of a hook in running order.
fn list(netns: &Netns, ifindex: u32, direction: Direction) -> Result<Vec<Listed>, ClsactError> {
    let request = header(ifindex, 0, parent(direction), 0);
    let mut connection = Connection::open(netns, 0).map_err(ClsactError::List)?;
    let messages = match connection.dump(RTM_GETTFILTER, &request) {
        // No qdisc, no filters.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(Vec::new()),
        result => result.map_err(ClsactError::List)?,
    };
    let mut listed: Vec<_> = messages
        .iter()
        .filter(|message| message.kind == RTM_NEWTFILTER)
        .filter_map(|message| Listed::decode(&message.payload))
        .collect();
    // The kernel lists in running order within a priority; priorities ascend, and this keeps it so.
    listed.sort_by_key(|filter| filter.priority);
    Ok(listed)
}

impl Listed {
    /// Whether it is this filter of ours, and not another that took its place.
    fn is(&self, ours: &Filter) -> bool {
        self.handle == ours.handle && self.program_id == ours.program_id
    }

    /// From a `struct tcmsg` and its attributes; `None` for what is no eBPF filter (such as the head of a priority,
    /// which the kernel lists with handle 0).
    fn decode(payload: &[u8]) -> Option<Self> {
        let handle = read_u32(payload.get(8..)?)?;
        let info = read_u32(payload.get(16..)?)?;
        let mut is_bpf = false;
        let mut filter =
            Self { priority: (info >> 16) as u16, handle, info, program_id: 0, name: String::new() };
        for (kind, value) in attributes(payload.get(20..)?) {
            match kind {
                TCA_KIND => is_bpf = read_text(value) == "bpf",
                TCA_OPTIONS => {
                    for (kind, value) in attributes(value) {
                        match kind {
                            TCA_BPF_ID => filter.program_id = read_u32(value)?,
                            TCA_BPF_NAME => filter.name = read_text(value),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        (is_bpf && handle != 0).then_some(filter)
    }
}

/// Name of a filter of this process: program, process and the time that it started, which together no other
/// process ever has.
fn owned_name(program: &str) -> String {
    let process = std::process::id();
    let started = start_time(process).unwrap_or(0);
    format!("{program}:{process}:{started}\0")
}

/// Whether a filter has a name as [`owned_name`] makes it and its process is gone.
fn is_orphan(name: &str) -> bool {
    owner(name).is_some_and(|(process, started)| start_time(process) != Some(started))
}

/// Process, and its start, behind a name as [`owned_name`] makes it; `None` for another tool's filter.
fn owner(name: &str) -> Option<(u32, u64)> {
    let (program, owner) = name.trim_end_matches('\0').split_once(':')?;
    let (process, started) = owner.split_once(':')?;
    let owner = (process.parse().ok()?, started.parse().ok()?);
    program.starts_with(PROGRAM_PREFIX).then_some(owner)
}

/// When a process started, in clock ticks since boot: field 22 of `/proc/<pid>/stat` (proc(5)).
fn start_time(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is the command in parentheses and may contain anything.
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_whitespace().nth(19)?.parse().ok()
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

/// A `struct tcmsg`.
fn header(ifindex: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for word in [ifindex, handle, parent, info] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes
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
        let name = owned_name("tracer_in_eth");
        assert!(!is_orphan(&name));
        let process = std::process::id();
        assert!(is_orphan(&format!("tracer_in_eth:{process}:1")));
    }

    #[test]
    fn a_filter_of_somebody_else_is_never_an_orphan_of_ours() {
        for name in ["cil_from_container-lxc1", "tracer_in_eth", "other:1:1", "tracer_in_eth:x:y", ""] {
            assert!(!is_orphan(name), "{name}");
        }
    }
}
