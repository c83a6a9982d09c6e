//! The few commands of bpf(2) that read about programs and maps and that aya does not offer: what is attached to an ifindex
//! of the current namespace, a program's function info, maps and BTF, and others' maps by their bytes.
//!
//! The structures are the beginnings of the kernel's `union bpf_attr` for each command; the kernel takes a shorter
//! one than its own, as if the rest were zero.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::netlink::read_text;

pub(crate) const TCX_INGRESS: u32 = 46;
pub(crate) const TCX_EGRESS: u32 = 47;
pub(super) const NETKIT_PRIMARY: u32 = 54;
pub(crate) const NETKIT_PEER: u32 = 55;

/// Most characters that the kernel keeps of a program's name.
pub(super) const NAME_LENGTH: usize = 15;

/// The kernel's limit of programs on one hook.
const MOST_PROGRAMS: usize = 64;

/// A program's BTF is some kilobytes; the kernel's own limit is 16 MiB.
const LARGEST_BTF: u32 = 16 * 1024 * 1024;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_MAP_GET_NEXT_ID: libc::c_long = 12;
const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_BTF_GET_FD_BY_ID: libc::c_long = 19;

/// Opens a map for reading only.
const BPF_F_RDONLY: u32 = 1 << 3;
/// Maps that a program may have; the verifier allows 64.
const MOST_MAPS: usize = 64;

/// An open BPF object.
pub(super) struct Program(OwnedFd);

/// The whole of `query` in `union bpf_attr`: from 6.6 on the kernel writes the revision, whatever size it was given.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    reserved: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}
const _: () = assert!(size_of::<QueryAttr>() == 64 && std::mem::offset_of!(QueryAttr, revision) == 56);

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`, until the runs that were skipped.
#[repr(C)]
#[derive(Default)]
pub(super) struct ProgramInfo {
    kind: u32,
    id: u32,
    pub(super) tag: [u8; 8],
    pub(super) jited_prog_len: u32,
    pub(super) xlated_prog_len: u32,
    jited_prog_insns: u64,
    xlated_prog_insns: u64,
    /// CLOCK_BOOTTIME.
    pub(super) load_time_ns: u64,
    pub(super) created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; 16],
    ifindex: u32,
    bits: u32,
    netns_dev: u64,
    netns_ino: u64,
    nr_jited_ksyms: u32,
    nr_jited_func_lens: u32,
    jited_ksyms: u64,
    jited_func_lens: u64,
    pub(super) btf_id: u32,
    func_info_rec_size: u32,
    func_info: u64,
    nr_func_info: u32,
    nr_line_info: u32,
    line_info: u64,
    jited_line_info: u64,
    nr_jited_line_info: u32,
    line_info_rec_size: u32,
    jited_line_info_rec_size: u32,
    nr_prog_tags: u32,
    prog_tags: u64,
    run_time_ns: u64,
    run_cnt: u64,
    /// Since Linux 5.12; 0 before.
    recursion_misses: u64,
}
const _: () = assert!(std::mem::offset_of!(ProgramInfo, recursion_misses) == 208);

impl ProgramInfo {
    /// The first of its bits.
    pub(super) const fn is_gpl_compatible(&self) -> bool {
        self.bits & 1 != 0
    }

    /// Cut to [`NAME_LENGTH`].
    pub(super) fn name(&self) -> String {
        read_text(&self.name)
    }
}

impl Program {
    /// Bytes that are locked for it; 0 where the kernel does not say.
    pub(super) fn locked_bytes(&self) -> u32 {
        let path = format!("/proc/thread-self/fdinfo/{}", self.0.as_raw_fd());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        line.and_then(|line| line.trim().parse().ok()).unwrap_or_default()
    }
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
pub(super) struct MapInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    map_flags: u32,
    name: [u8; 16],
}
const _: () = assert!(size_of::<MapInfo>() == 40);

impl MapInfo {
    /// Cut to [`NAME_LENGTH`].
    pub(super) fn name(&self) -> String {
        read_text(&self.name)
    }
}

/// Of the commands on a map's elements.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `struct bpf_btf_info`.
#[repr(C)]
#[derive(Default)]
struct BtfInfo {
    btf: u64,
    btf_size: u32,
    id: u32,
    name: u64,
    name_len: u32,
    kernel_btf: u32,
}

/// The ids of the programs on a hook of a device of the current namespace, in running order; `None` if the kernel
/// or the device has no such hook.
pub(super) fn query(ifindex: u32, attach_type: u32) -> io::Result<Option<Vec<u32>>> {
    let mut ids = [0_u32; MOST_PROGRAMS];
    let mut attr = QueryAttr {
        target_ifindex: ifindex,
        attach_type,
        prog_ids: ids.as_mut_ptr() as u64,
        count: MOST_PROGRAMS as u32,
        ..QueryAttr::default()
    };
    // SAFETY: BPF_PROG_QUERY writes at most `count` ids to `prog_ids`, which has room for them, and into `attr`.
    match unsafe { call(BPF_PROG_QUERY, &mut attr) } {
        Ok(_) => Ok(Some(ids.into_iter().take(attr.count as usize).collect())),
        Err(error) => match error.raw_os_error() {
            // A kernel before 6.6 (TCX) or 6.7 (netkit) does not know the attach type; a device that is not a
            // netkit primary has no such hook.
            Some(libc::EINVAL | libc::ENXIO | libc::EACCES | libc::EOPNOTSUPP | libc::ENOENT) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Whether the kernel knows an attach type for devices: it says something else than "invalid" when asked for the
/// programs of the loopback device.
pub(super) fn knows(attach_type: u32) -> io::Result<bool> {
    const LOOPBACK: u32 = 1;
    let mut attr = QueryAttr { target_ifindex: LOOPBACK, attach_type, ..QueryAttr::default() };
    // SAFETY: there is room for no id, so that BPF_PROG_QUERY writes into `attr` only.
    match unsafe { call(BPF_PROG_QUERY, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        Err(error) => Ok(error.raw_os_error() != Some(libc::EINVAL)),
    }
}

/// Opens a program.
pub(super) fn program(id: u32) -> io::Result<Program> {
    open(BPF_PROG_GET_FD_BY_ID, id).map(Program)
}

/// What the kernel says about a program.
pub(super) fn program_info(program: &Program) -> io::Result<ProgramInfo> {
    let mut info = ProgramInfo::default();
    // SAFETY: all pointers in `info` are null and all counts zero, so the kernel writes to `info` only.
    unsafe { object_info(program.0.as_raw_fd(), &mut info) }?;
    Ok(info)
}

/// How many runs of a program the kernel has skipped because they would have interrupted one on the same CPU.
///
/// # Errors
/// The kernel does not tell.
pub(crate) fn skipped_runs(program: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = ProgramInfo::default();
    // SAFETY: all pointers in `info` are null and all counts zero, so the kernel writes to `info` only.
    unsafe { object_info(program.as_raw_fd(), &mut info) }?;
    Ok(info.recursion_misses)
}

/// The BTF type of the program's first function, its entry; `None` if it was loaded without BTF.
pub(super) fn first_function(program: &Program, info: &ProgramInfo) -> io::Result<Option<u32>> {
    /// `struct bpf_func_info`, which newer kernels may make longer.
    const RECORD: usize = 64;
    let size = info.func_info_rec_size;
    if info.btf_id == 0 || info.nr_func_info == 0 || !(8..=RECORD as u32).contains(&size) {
        return Ok(None);
    }
    let mut record = [0_u8; RECORD];
    let mut asked = ProgramInfo {
        nr_func_info: 1,
        func_info_rec_size: size,
        func_info: record.as_mut_ptr() as u64,
        ..ProgramInfo::default()
    };
    // SAFETY: the kernel writes one record of `size` bytes, at most RECORD, to `record`; all other pointers are
    // null and all other counts zero.
    unsafe { object_info(program.0.as_raw_fd(), &mut asked) }?;
    // instruction offset, type id
    let type_id: &[u8; 4] = record[4..].first_chunk().ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some(u32::from_ne_bytes(*type_id)))
}

/// The ids of the maps that a program uses.
pub(super) fn program_maps(program: &Program, info: &ProgramInfo) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MOST_MAPS];
    let count = info.nr_map_ids.min(MOST_MAPS as u32);
    let mut asked =
        ProgramInfo { nr_map_ids: count, map_ids: ids.as_mut_ptr() as u64, ..ProgramInfo::default() };
    // SAFETY: the kernel writes at most `nr_map_ids` ids to `map_ids`, which has room for them; all other pointers are null
    // and all other counts zero.
    unsafe { object_info(program.0.as_raw_fd(), &mut asked) }?;
    Ok(ids.into_iter().take(count as usize).collect())
}

/// The id of the map after this one; `None` behind the last.
pub(super) fn next_map(id: u32) -> io::Result<Option<u32>> {
    let mut attr = IdAttr { id, ..IdAttr::default() };
    // SAFETY: the command writes into `attr` only.
    match unsafe { call(BPF_MAP_GET_NEXT_ID, &mut attr) } {
        Ok(_) => Ok(Some(attr.next_id)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a map, for reading only.
pub(super) fn map(id: u32) -> io::Result<OwnedFd> {
    open_with(BPF_MAP_GET_FD_BY_ID, IdAttr { id, open_flags: BPF_F_RDONLY, ..IdAttr::default() })
}

/// What the kernel says about a map.
pub(super) fn map_info(map: &OwnedFd) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    // SAFETY: `info` has no pointers, so the kernel writes to `info` only.
    unsafe { object_info(map.as_raw_fd(), &mut info) }?;
    Ok(info)
}

/// The value of a key, if there is one. `key` and `value` must be as long as the map's keys and values are for user space:
/// those of a map per CPU have one for each possible CPU.
pub(super) fn lookup(map: &OwnedFd, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    element(BPF_MAP_LOOKUP_ELEM, map, Some(key), value)
}

/// The key after this one, or the first; `false` behind the last. Lengths as for [`lookup`].
pub(super) fn next_key(map: &OwnedFd, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    element(BPF_MAP_GET_NEXT_KEY, map, key, next)
}

fn element(command: libc::c_long, map: &OwnedFd, key: Option<&[u8]>, out: &mut [u8]) -> io::Result<bool> {
    let mut attr = ElementAttr {
        map_fd: u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?,
        pad: 0,
        key: key.map_or(0, |key| key.as_ptr() as u64),
        value: out.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads one key from `key` and writes one value or key to `out`; the caller vouches for their lengths.
    match unsafe { call(command, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The BTF with this id as it was loaded.
pub(super) fn btf(id: u32) -> io::Result<Vec<u8>> {
    let object = open(BPF_BTF_GET_FD_BY_ID, id)?;
    let mut info = BtfInfo::default();
    // SAFETY: all pointers in `info` are null, so the kernel writes to `info` only.
    unsafe { object_info(object.as_raw_fd(), &mut info) }?;
    if info.btf_size > LARGEST_BTF {
        return Err(io::Error::other(format!("BTF {id} of {} bytes is too large", info.btf_size)));
    }
    let mut bytes = vec![0; info.btf_size as usize];
    let mut asked = BtfInfo { btf: bytes.as_mut_ptr() as u64, btf_size: info.btf_size, ..BtfInfo::default() };
    // SAFETY: the kernel writes at most `btf_size` bytes to `btf`, which has that many; the name's pointer is null.
    unsafe { object_info(object.as_raw_fd(), &mut asked) }?;
    Ok(bytes)
}

fn open(command: libc::c_long, id: u32) -> io::Result<OwnedFd> {
    open_with(command, IdAttr { id, ..IdAttr::default() })
}

fn open_with(command: libc::c_long, mut attr: IdAttr) -> io::Result<OwnedFd> {
    // SAFETY: the command reads `attr` only.
    let fd = unsafe { call(command, &mut attr) }?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened the descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// `T` is the beginning of the object's info structure, valid for any bit pattern, and its pointers and counts
/// describe memory that the kernel may write.
unsafe fn object_info<T>(fd: RawFd, info: &mut T) -> io::Result<()> {
    let mut attr = InfoAttr {
        bpf_fd: u32::try_from(fd).map_err(io::Error::other)?,
        info_len: size_of::<T>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: the kernel writes at most `info_len` bytes to `info`; for what `info` points to the caller vouches.
    unsafe { call(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }.map(drop)
}

/// # Safety
/// `T` is the beginning of `union bpf_attr` for the command, and its pointers describe memory that the kernel may
/// read or write.
unsafe fn call<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the pointer and the size describe `attr`; for the rest the caller vouches.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
