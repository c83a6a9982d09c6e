//! The eBPF objects. The program that observes is loaded once, and so is the one that spares it plain packets which nobody
//! wants. Before them stands an entry for each network namespace, direction and link type: a few instructions that note
//! the namespace's number and go on by a tail call. (A tc program cannot ask for its namespace on the kernels that we support, and an ifindex alone is
//! not unique.)
//!
//! Both objects share maps: those are pinned in a bpffs that is mounted nowhere, so that nobody can see it and it goes
//! with this process, however that ends. The ways from the entries to these programs go with it as well.
//!
//! The program on drops is in the observing program's object and shares its filter and ring; see `drops`.

mod drops;
mod measure;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use aya::maps::{Array, HashMap as BpfHashMap, MapData, MapError, PerCpuArray, ProgramArray};
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use tracer_common::filter::{Ends, FilterConfig, Quick};
use tracer_common::kernel::KernelLayout;
use tracer_common::measure::{PointPlace, sample_mask};
use tracer_common::outcome::{OUTCOME_COUNT, Outcome};

use super::points::PointKey;
use super::ring::{Consumer, RingError};
use crate::host::netns::NetnsId;
use crate::trajectory::model::Direction;

pub use drops::{DropOutcomes, WatchError};

/// The objects that build.rs made.
static OBSERVER: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer-ebpf"));
static ENTRY: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer-entry"));

/// Maps that both objects have.
const SHARED_MAPS: [&str; 2] = ["OUTCOMES", "SCRATCH"];

/// Size of maps that are there for nothing.
const UNUSED_ENTRIES: u32 = 16;

/// Legs that a group's packets have, on any datapath.
const LEGS_OF_A_GROUP: u32 = 16;

/// The program that observes.
const OBSERVING: &str = "tracer_observe";
/// The one that spares it most packets, where they have an Ethernet header.
const GLANCING: &str = "tracer_glance";

/// Slots of the array by which entries go on.
const BEHIND_BARE: u32 = 0;
const BEHIND_ETHERNET: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot make a private bpffs ({0}); it needs CAP_SYS_ADMIN")]
    PrivateBpffs(#[source] rustix::io::Errno),
    #[error("cannot load the eBPF object: {}", source_chain(.0))]
    Object(#[source] EbpfError),
    #[error("the kernel refuses program {name}: {}", source_chain(.source))]
    Program {
        name: &'static str,
        #[source]
        source: ProgramError,
    },
    #[error("map {name}: {}", source_chain(.source))]
    Map {
        name: &'static str,
        #[source]
        source: MapError,
    },
    #[error("the ring buffer: {0}")]
    Ring(#[source] RingError),
    #[error("the eBPF object has no {0} (a defect of the build)")]
    Missing(&'static str),
}

/// An error with everything that caused it, on one line.
pub(crate) fn source_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Sizes and switches of a load.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Bytes of the ring buffer: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Level of aya-log in the programs, 0 (off) to 5 (trace).
    pub log_level: u8,
    /// What the program on drops must know of the kernel; `None` where it will not be loaded.
    pub layout: Option<KernelLayout>,
    /// Whether any follow may want packets' bytes besides their records; else nothing that captures is loaded.
    pub captures: bool,
    /// Measures legs of one packet in so many, a power of two; `None`: of none, and nothing that measures is loaded.
    pub sample: Option<u32>,
    /// Most pods or workloads whose legs are measured apart.
    pub groups: u16,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { ring_bytes: 8 << 20, log_level: 0, layout: None, captures: false, sample: None, groups: 0 }
    }
}

/// The loaded programs of all namespaces.
pub struct Programs {
    /// Loads entries. Kept, because making one reads all types of the kernel: longer than all else about an entry.
    entry_loader: EbpfLoader<'static>,
    /// Its maps' names are looked up there.
    _bpffs: OwnedFd,
    spaces: HashMap<NetnsId, Space>,
    /// Never used twice: records of a namespace that is gone may still come.
    next_space: u32,
    /// The observing program and all maps that userspace reads and writes.
    observer: Ebpf,
    /// The way from the program that glances to the one that observes. The kernel empties it when nobody holds it.
    _longer: ProgramArray<MapData>,
    /// The way to the program that measures, where there is one.
    measuring: Option<ProgramArray<MapData>>,
    /// While the program on drops is on its tracepoint.
    drop_link: Option<BtfTracePointLinkId>,
}

/// One namespace's entries.
pub struct Space {
    pub number: u32,
    entries: Ebpf,
}

impl Programs {
    /// Creates the maps and loads the observing program. Entries are loaded per namespace, by [`Programs::space`].
    ///
    /// # Errors
    /// [`LoadError`] when the kernel refuses a map or the program.
    pub fn new(options: LoadOptions) -> Result<Self, LoadError> {
        let bpffs = private_bpffs().map_err(LoadError::PrivateBpffs)?;
        let mut observer = load_observer(&options, &bpffs)?;
        let longer = load_observing(&mut observer)?;
        let mut entry_loader = loader(&bpffs);
        // Nothing in an entry depends on the kernel's types.
        entry_loader.btf(None);
        let mut programs = Self {
            entry_loader,
            _bpffs: bpffs,
            spaces: HashMap::new(),
            next_space: 0,
            observer,
            _longer: longer,
            measuring: None,
            drop_link: None,
        };
        if options.sample.is_some() {
            programs.load_measuring()?;
        }
        Ok(programs)
    }

    /// The entries for a namespace; makes them if there are none.
    ///
    /// # Errors
    /// [`LoadError`] when the kernel refuses them.
    pub fn space(&mut self, netns: NetnsId) -> Result<&mut Space, LoadError> {
        let next = self.next_space;
        match self.spaces.entry(netns) {
            Entry::Occupied(space) => Ok(space.into_mut()),
            Entry::Vacant(vacant) => {
                let entries = load_entries(&mut self.entry_loader, next, &mut self.observer)?;
                self.next_space += 1;
                Ok(vacant.insert(Space { number: next, entries }))
            }
        }
    }

    /// Number of a namespace whose entries are loaded.
    #[must_use]
    pub fn space_number(&self, netns: NetnsId) -> Option<u32> {
        self.spaces.get(&netns).map(|space| space.number)
    }

    /// Unloads the entries of a namespace of which nothing is held any more.
    pub fn drop_space(&mut self, netns: NetnsId) {
        self.spaces.remove(&netns);
    }

    /// The object with the observing program, for aya-log.
    pub fn object_mut(&mut self) -> &mut Ebpf {
        &mut self.observer
    }

    /// Takes the ring buffer; can be done once.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn take_ring(&mut self) -> Result<Consumer, LoadError> {
        let map = self.observer.take_map("RECORDS").ok_or(LoadError::Missing("RECORDS"))?;
        Consumer::new(map).map_err(LoadError::Ring)
    }

    pub(super) fn config(&mut self) -> Result<Array<&mut MapData, FilterConfig>, LoadError> {
        let map = self.observer.map_mut("CONFIG").ok_or(LoadError::Missing("CONFIG"))?;
        Array::try_from(map).map_err(|source| LoadError::Map { name: "CONFIG", source })
    }

    pub(super) fn ends(&mut self) -> Result<BpfHashMap<&mut MapData, [u8; 16], Ends>, LoadError> {
        let map = self.observer.map_mut("ENDS").ok_or(LoadError::Missing("ENDS"))?;
        BpfHashMap::try_from(map).map_err(|source| LoadError::Map { name: "ENDS", source })
    }

    pub(super) fn quick(&mut self) -> Result<Array<&mut MapData, Quick>, LoadError> {
        let map = self.observer.map_mut("QUICK").ok_or(LoadError::Missing("QUICK"))?;
        Array::try_from(map).map_err(|source| LoadError::Map { name: "QUICK", source })
    }

    pub(super) fn ports(&mut self) -> Result<BpfHashMap<&mut MapData, u16, u64>, LoadError> {
        let map = self.observer.map_mut("PORTS").ok_or(LoadError::Missing("PORTS"))?;
        BpfHashMap::try_from(map).map_err(|source| LoadError::Map { name: "PORTS", source })
    }

    pub(super) fn protocols(&mut self) -> Result<Array<&mut MapData, u64>, LoadError> {
        let map = self.observer.map_mut("PROTOCOLS").ok_or(LoadError::Missing("PROTOCOLS"))?;
        Array::try_from(map).map_err(|source| LoadError::Map { name: "PROTOCOLS", source })
    }

    /// Records that found the ring full, by point, as far as that is known: the sum over all is in the outcomes.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn lost_at_points(&self) -> Result<Vec<(PointKey, u64)>, LoadError> {
        let error = |source| LoadError::Map { name: "LOST", source };
        let map = self.observer.map("LOST").ok_or(LoadError::Missing("LOST"))?;
        let lost: BpfHashMap<_, PointPlace, u64> = BpfHashMap::try_from(map).map_err(error)?;
        lost.iter()
            .map(|entry| entry.map(|(place, count)| (PointKey::of_place(place), count)).map_err(error))
            .collect()
    }

    /// Packets by outcome, over all CPUs and points, since the maps were made.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn outcomes(&self) -> Result<Outcomes, LoadError> {
        let error = |source| LoadError::Map { name: "OUTCOMES", source };
        let map = self.observer.map("OUTCOMES").ok_or(LoadError::Missing("OUTCOMES"))?;
        let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(map).map_err(error)?;
        let mut outcomes = Outcomes::default();
        for (index, count) in outcomes.counts.iter_mut().enumerate() {
            *count = counters.get(&(index as u32), 0).map_err(error)?.iter().sum();
        }
        Ok(outcomes)
    }
}

impl Space {
    /// The entry for a direction and link type, loaded.
    ///
    /// # Errors
    /// [`LoadError::Program`] when the kernel refuses it.
    pub fn program(
        &mut self,
        direction: Direction,
        ethernet: bool,
    ) -> Result<&mut SchedClassifier, LoadError> {
        let name = program_name(direction, ethernet);
        let refused = |source| LoadError::Program { name, source };
        let program = program_of(&mut self.entries, name)?;
        if program.fd().is_err() {
            program.load().map_err(refused)?;
        }
        Ok(program)
    }
}

/// Name of the entry for a direction and link type, as `bpftool` shows it.
#[must_use]
pub const fn program_name(direction: Direction, ethernet: bool) -> &'static str {
    match (direction, ethernet) {
        (Direction::Ingress, true) => "tracer_in_eth",
        (Direction::Egress, true) => "tracer_out_eth",
        (Direction::Ingress, false) => "tracer_in_ip",
        (Direction::Egress, false) => "tracer_out_ip",
    }
}

/// Packets by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    counts: [u64; OUTCOME_COUNT],
}

impl Outcomes {
    #[must_use]
    pub fn get(&self, outcome: Outcome) -> u64 {
        self.counts.get(outcome as usize).copied().unwrap_or(0)
    }

    /// Adds what another machine's hooks saw.
    pub fn add(&mut self, outcome: Outcome, count: u64) {
        if let Some(sum) = self.counts.get_mut(outcome as usize) {
            *sum = sum.saturating_add(count);
        }
    }

    /// Packets that passed a hook of ours.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// A bpffs of our own that is mounted nowhere.
fn private_bpffs() -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn load_observer(options: &LoadOptions, bpffs: &OwnedFd) -> Result<Ebpf, LoadError> {
    let wake_bytes = u64::from(options.ring_bytes / 4);
    let layout = options.layout.unwrap_or_default();
    let measures = u32::from(options.sample.is_some());
    let captures = u32::from(options.captures);
    let sample_mask = options.sample.and_then(sample_mask).unwrap_or(0);
    let mut loader = loader(bpffs);
    if options.sample.is_none() {
        // Nobody will look at them.
        for map in ["DROPPED", "LEGS", "LAST", "POINTS"] {
            loader.map_max_entries(map, UNUSED_ENTRIES);
        }
    }
    loader.map_max_entries("GROUP_LEGS", (u32::from(options.groups) * LEGS_OF_A_GROUP).max(UNUSED_ENTRIES));
    loader
        .override_global("CAPTURES", &captures, true)
        .override_global("MEASURES", &measures, true)
        .override_global("SAMPLE_MASK", &sample_mask, true)
        .override_global("WAKE_BYTES", &wake_bytes, true)
        .override_global("LAYOUT", &layout, true)
        .override_global("AYA_LOG_LEVEL", &options.log_level, false)
        .map_max_entries("RECORDS", options.ring_bytes)
        .load(OBSERVER)
        .map_err(LoadError::Object)
}

/// Loads the program that observes and the one that glances, with the way from this one to that one.
fn load_observing(observer: &mut Ebpf) -> Result<ProgramArray<MapData>, LoadError> {
    for name in [OBSERVING, GLANCING] {
        let refused = |source| LoadError::Program { name, source };
        program_of(observer, name)?.load().map_err(refused)?;
    }
    let error = |source| LoadError::Map { name: "LONGER", source };
    let longer = observer.take_map("LONGER").ok_or(LoadError::Missing("LONGER"))?;
    let mut longer = ProgramArray::try_from(longer).map_err(error)?;
    let refused = |source| LoadError::Program { name: OBSERVING, source };
    let target = program_of(observer, OBSERVING)?.fd().map_err(refused)?;
    longer.set(0, target, 0).map_err(error)?;
    Ok(longer)
}

/// The entries of a namespace, with the ways to the programs behind them. They are not loaded yet.
fn load_entries(loader: &mut EbpfLoader<'_>, space: u32, observer: &mut Ebpf) -> Result<Ebpf, LoadError> {
    let mut entries = loader.load(ENTRY).map_err(LoadError::Object)?;
    let error = |source| LoadError::Map { name: "SPACE", source };
    let number = entries.map_mut("SPACE").ok_or(LoadError::Missing("SPACE"))?;
    Array::try_from(number).map_err(error)?.set(0, space, 0).map_err(error)?;
    let error = |source| LoadError::Map { name: "BEHIND", source };
    let behind = entries.map_mut("BEHIND").ok_or(LoadError::Missing("BEHIND"))?;
    let mut behind = ProgramArray::try_from(behind).map_err(error)?;
    for (slot, name) in [(BEHIND_BARE, OBSERVING), (BEHIND_ETHERNET, GLANCING)] {
        let refused = |source| LoadError::Program { name, source };
        behind.set(slot, program_of(observer, name)?.fd().map_err(refused)?, 0).map_err(error)?;
    }
    Ok(entries)
}

fn loader(bpffs: &OwnedFd) -> EbpfLoader<'static> {
    let directory = PathBuf::from(format!("/proc/self/fd/{}", bpffs.as_raw_fd()));
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::DISABLE);
    for map in SHARED_MAPS {
        loader.map_pin_path(map, directory.join(map));
    }
    loader
}

fn program_of<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, LoadError> {
    let program = object.program_mut(name).ok_or(LoadError::Missing(name))?;
    program.try_into().map_err(|source| LoadError::Program { name, source })
}
