//! Which programs sit on a device's hooks, in running order.
//!
//! On ingress and on egress TCX runs first, then legacy tc filters (only if all TCX programs said "next"). A netkit
//! device runs its programs when a packet is transmitted into the pair: the primary's behind its tc egress, the
//! peer's on what the pod sends.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, SystemTime};

use thiserror::Error;

use super::bpf;
use super::btf::Btf;
use super::filters;
use super::netlink::Connection;
use super::netns::Netns;
use crate::trajectory::model::Direction;

/// How the names of tracer's own programs begin.
pub const OWN_PREFIX: &str = "tracer_";

pub(crate) const TC_H_INGRESS: u32 = 0xffff_fff2;
pub(crate) const TC_H_EGRESS: u32 = 0xffff_fff3;

/// Why the programs of a device could not be read.
#[derive(Debug, Error)]
pub enum ProgramsError {
    #[error(transparent)]
    Namespace(io::Error),
    #[error("cannot ask for the programs on {hook} of device {ifindex} in {netns}: {source}{}", hint(source))]
    Query { hook: &'static str, ifindex: u32, netns: String, source: io::Error },
    #[error("cannot list the tc filters of device {ifindex} in {netns}: {source}")]
    Filters { ifindex: u32, netns: String, source: io::Error },
    #[error("cannot read about the BPF program with id {id}: {source}{}", hint(source))]
    Program { id: u32, source: io::Error },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN)",
        _ => "",
    }
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Tcx,
    /// A legacy tc filter on clsact (or the ingress qdisc).
    Clsact {
        priority: u16,
        handle: u32,
        /// Filters of another chain than 0 run only if one of chain 0 jumps there.
        chain: u32,
        /// The program's return value decides; otherwise it only classifies.
        direct_action: bool,
    },
    /// Runs when the node transmits into the netkit pair.
    NetkitPrimary,
    /// Runs when the pod transmits into the netkit pair.
    NetkitPeer,
    /// Runs in the driver, or before anything else of the stack, on what the device receives.
    Xdp,
}

/// A program, or a filter without one, on a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookProgram {
    pub mechanism: Mechanism,
    /// `None` for a tc filter that is no eBPF program.
    pub id: Option<u32>,
    /// Full name where the program has BTF, else the 15 characters that the kernel keeps; for a filter its kind.
    pub name: String,
    pub tag: Option<[u8; 8]>,
    pub loaded_at: Option<SystemTime>,
    /// `None` for a tc filter that is no eBPF program.
    pub load: Option<ProgramLoad>,
}

/// What a program takes, and who loaded it, as `bpftool prog show` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramLoad {
    /// Bytes after the verifier's rewriting.
    pub translated_bytes: u32,
    /// Bytes of machine code; 0 where it is interpreted, or where we may not know.
    pub machine_code_bytes: u32,
    /// Bytes that are locked for it.
    pub locked_bytes: u32,
    pub user: u32,
    pub gpl_compatible: bool,
    pub map_ids: Vec<u32>,
    /// 0 without BTF.
    pub btf_id: u32,
}

impl HookProgram {
    /// Whether it is one of tracer's programs (of this process or another).
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.name.starts_with(OWN_PREFIX)
    }
}

/// The programs of a device in running order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DevicePrograms {
    pub ingress: Vec<HookProgram>,
    pub egress: Vec<HookProgram>,
    /// What runs on packets that the pod sends into the netkit pair, before this device's ingress.
    pub netkit_peer: Vec<HookProgram>,
    /// Whether the device is the node's end of a netkit pair.
    pub is_netkit: bool,
}

impl DevicePrograms {
    #[must_use]
    pub fn on(&self, direction: Direction) -> &[HookProgram] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// The ids of the TCX programs, ingress and egress, in running order.
    #[must_use]
    pub fn tcx_ids(&self) -> TcxIds {
        let ids = |programs: &[HookProgram]| {
            programs
                .iter()
                .filter(|program| program.mechanism == Mechanism::Tcx)
                .filter_map(|program| program.id)
                .collect()
        };
        [ids(&self.ingress), ids(&self.egress)]
    }
}

/// Ids of TCX programs, ingress and egress, in running order.
pub type TcxIds = [Vec<u32>; 2];

/// As [`DevicePrograms::tcx_ids`], and nothing else is read.
///
/// # Errors
/// As [`of_device`].
pub fn tcx_ids(netns: &Netns, ifindex: u32) -> Result<TcxIds, ProgramsError> {
    let attached = netns.run(|| query_device(netns, ifindex)).map_err(ProgramsError::Namespace)??;
    Ok([attached.tcx_ingress, attached.tcx_egress])
}

/// Reads the programs of one device.
///
/// # Errors
/// The namespace cannot be entered, the device is gone, or a capability is missing.
pub fn of_device(netns: &Netns, ifindex: u32) -> Result<DevicePrograms, ProgramsError> {
    let mut found = of_devices(netns, &[ifindex])?;
    Ok(found.remove(&ifindex).unwrap_or_default())
}

/// Reads the programs of several devices of a namespace, by ifindex.
///
/// # Errors
/// As [`of_device`].
pub fn of_devices(netns: &Netns, ifindexes: &[u32]) -> Result<HashMap<u32, DevicePrograms>, ProgramsError> {
    let mut filters = Connection::open(netns, 0).map_err(ProgramsError::Namespace)?;
    let attached = netns
        .run(|| ifindexes.iter().map(|ifindex| query_device(netns, *ifindex)).collect::<Result<Vec<_>, _>>())
        .map_err(ProgramsError::Namespace)??;
    let mut infos = Infos::default();
    let mut found = HashMap::new();
    for (ifindex, attached) in ifindexes.iter().copied().zip(attached) {
        let mut hook = |parent, tcx: &[u32]| {
            let mut programs = infos.all(Mechanism::Tcx, tcx)?;
            programs.extend(legacy_filters(&mut filters, netns, ifindex, parent, &mut infos)?);
            Ok::<_, ProgramsError>(programs)
        };
        let ingress = hook(TC_H_INGRESS, &attached.tcx_ingress)?;
        let mut egress = hook(TC_H_EGRESS, &attached.tcx_egress)?;
        egress.extend(infos.all(Mechanism::NetkitPrimary, &attached.netkit_primary)?);
        let netkit_peer = infos.all(Mechanism::NetkitPeer, &attached.netkit_peer)?;
        found.insert(ifindex, DevicePrograms { ingress, egress, netkit_peer, is_netkit: attached.is_netkit });
    }
    Ok(found)
}

/// Program ids by attach point, in running order.
struct Attached {
    tcx_ingress: Vec<u32>,
    tcx_egress: Vec<u32>,
    netkit_primary: Vec<u32>,
    netkit_peer: Vec<u32>,
    is_netkit: bool,
}

/// Must run inside the namespace: the kernel looks an ifindex up in that of the calling thread.
fn query_device(netns: &Netns, ifindex: u32) -> Result<Attached, ProgramsError> {
    let query = |hook: &'static str, attach_type| {
        bpf::query(ifindex, attach_type).map_err(|source| ProgramsError::Query {
            hook,
            ifindex,
            netns: netns.label().to_owned(),
            source,
        })
    };
    let netkit_peer = query("netkit", bpf::NETKIT_PEER)?;
    Ok(Attached {
        tcx_ingress: query("TCX ingress", bpf::TCX_INGRESS)?.unwrap_or_default(),
        tcx_egress: query("TCX egress", bpf::TCX_EGRESS)?.unwrap_or_default(),
        netkit_primary: query("netkit", bpf::NETKIT_PRIMARY)?.unwrap_or_default(),
        is_netkit: netkit_peer.is_some(),
        netkit_peer: netkit_peer.unwrap_or_default(),
    })
}

/// The filters of one direction. The kernel lists them as they run: by priority, and in list order within one.
fn legacy_filters(
    connection: &mut Connection,
    netns: &Netns,
    ifindex: u32,
    parent: u32,
    infos: &mut Infos,
) -> Result<Vec<HookProgram>, ProgramsError> {
    let listed = filters::list(connection, ifindex, parent).map_err(|source| ProgramsError::Filters {
        ifindex,
        netns: netns.label().to_owned(),
        source,
    })?;
    let mut programs = Vec::new();
    for filter in listed {
        let mechanism = Mechanism::Clsact {
            priority: filter.priority,
            handle: filter.handle,
            chain: filter.chain,
            direct_action: filter.direct_action,
        };
        let known = filter.program.map(|id| infos.get(id)).transpose()?.flatten();
        programs.push(match known {
            Some(info) => info.on(mechanism),
            None => {
                let (id, name) = (filter.program, filter.name);
                HookProgram { mechanism, id, name, tag: None, loaded_at: None, load: None }
            }
        });
    }
    Ok(programs)
}

/// What is the same for a program wherever it is attached.
#[derive(Clone)]
struct Info {
    id: u32,
    name: String,
    tag: [u8; 8],
    loaded_at: Option<SystemTime>,
    load: ProgramLoad,
}

impl Info {
    fn on(&self, mechanism: Mechanism) -> HookProgram {
        HookProgram {
            mechanism,
            id: Some(self.id),
            name: self.name.clone(),
            tag: Some(self.tag),
            loaded_at: self.loaded_at,
            load: Some(self.load.clone()),
        }
    }
}

/// Programs by id, each read once: one program is often on many devices.
#[derive(Default)]
struct Infos(HashMap<u32, Option<Info>>);

impl Infos {
    fn all(&mut self, mechanism: Mechanism, ids: &[u32]) -> Result<Vec<HookProgram>, ProgramsError> {
        let mut programs = Vec::new();
        for id in ids {
            programs.extend(self.get(*id)?.map(|info| info.on(mechanism)));
        }
        Ok(programs)
    }

    /// `None` if the program was unloaded meanwhile.
    fn get(&mut self, id: u32) -> Result<Option<Info>, ProgramsError> {
        if let Some(known) = self.0.get(&id) {
            return Ok(known.clone());
        }
        let info = match read_info(id) {
            Ok(info) => Some(info),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(ProgramsError::Program { id, source }),
        };
        self.0.insert(id, info.clone());
        Ok(info)
    }
}

fn read_info(id: u32) -> io::Result<Info> {
    let program = bpf::program(id)?;
    let info = bpf::program_info(&program)?;
    let mut name = info.name();
    if name.len() == bpf::NAME_LENGTH {
        // The name is cut, or just as long; the BTF of its first function tells. It is missing where the program
        // was loaded without BTF.
        if let Some(full) = full_name(&program, &info)?.filter(|full| full.starts_with(&name)) {
            name = full;
        }
    }
    let load = ProgramLoad {
        translated_bytes: info.xlated_prog_len,
        machine_code_bytes: info.jited_prog_len,
        locked_bytes: program.locked_bytes(),
        user: info.created_by_uid,
        gpl_compatible: info.is_gpl_compatible(),
        map_ids: bpf::program_maps(&program, &info)?,
        btf_id: info.btf_id,
    };
    Ok(Info { id, name, tag: info.tag, loaded_at: wall_time(info.load_time_ns), load })
}

/// A program that is attached elsewhere than a hook of tc: XDP.
///
/// # Errors
/// It is gone, or a capability is missing.
pub fn of_id(id: u32, mechanism: Mechanism) -> Result<HookProgram, ProgramsError> {
    read_info(id).map(|info| info.on(mechanism)).map_err(|source| ProgramsError::Program { id, source })
}

fn full_name(program: &bpf::Program, info: &bpf::ProgramInfo) -> io::Result<Option<String>> {
    let Some(type_id) = bpf::first_function(program, info)? else { return Ok(None) };
    let bytes = bpf::btf(info.btf_id)?;
    Ok(Btf::read(&bytes).and_then(|btf| btf.function_name(type_id)))
}

/// The wall time of a moment of CLOCK_BOOTTIME, nanoseconds.
fn wall_time(boot_ns: u64) -> Option<SystemTime> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = Duration::new(now.tv_sec.try_into().ok()?, now.tv_nsec.try_into().ok()?);
    SystemTime::now().checked_sub(now.checked_sub(Duration::from_nanos(boot_ns))?)
}
