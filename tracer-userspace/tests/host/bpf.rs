//! Loads a program that does nothing, with a long name in its BTF, without any object file.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_BTF_LOAD: libc::c_long = 18;
const BPF_LINK_CREATE: libc::c_long = 28;
const SCHED_CLS: u32 = 3;

/// A loaded program; unloaded when dropped and detached.
pub(crate) struct Program(OwnedFd);

#[repr(C)]
#[derive(Default)]
struct BtfLoad {
    btf: u64,
    log_buf: u64,
    btf_size: u32,
    log_size: u32,
    log_level: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    reserved: [u64; 2],
}

#[repr(C)]
#[derive(Default)]
struct Pin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

impl Program {
    /// A classifier that returns `code` and is called `name`.
    pub(crate) fn load(name: &str, code: i32) -> Self {
        let btf = btf(name);
        let mut attr = BtfLoad { btf: btf.as_ptr() as u64, btf_size: btf.len() as u32, ..BtfLoad::default() };
        let btf_fd = call(BPF_BTF_LOAD, &mut attr).unwrap();
        // r0 = code; exit
        let instructions: [u64; 2] = [0xb7 | (u64::from(code as u32) << 32), 0x95];
        let license = c"GPL";
        // instruction 0 begins the function of type 3
        let function: [u32; 2] = [0, 3];
        let mut attr = ProgLoad {
            prog_type: SCHED_CLS,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr() as u64,
            license: license.as_ptr() as u64,
            prog_btf_fd: btf_fd.as_raw_fd() as u32,
            func_info_rec_size: 8,
            func_info: function.as_ptr() as u64,
            func_info_cnt: 1,
            ..ProgLoad::default()
        };
        let short = &name.as_bytes()[..name.len().min(15)];
        attr.prog_name[..short.len()].copy_from_slice(short);
        Self(call(BPF_PROG_LOAD, &mut attr).unwrap())
    }

    /// Attaches by TCX at the end of the hook, in the namespace of the calling thread, until the link is dropped.
    pub(crate) fn attach_tcx(&self, ifindex: u32, attach_type: u32) -> OwnedFd {
        let mut attr = LinkCreate {
            prog_fd: self.0.as_raw_fd() as u32,
            target_ifindex: ifindex,
            attach_type,
            ..LinkCreate::default()
        };
        call(BPF_LINK_CREATE, &mut attr).unwrap()
    }

    pub(crate) fn pin(&self, file_system: &BpfFs, name: &str) -> String {
        let path = format!("{}/{name}", file_system.0.path().display());
        let text = std::ffi::CString::new(path.clone()).unwrap();
        let mut attr =
            Pin { pathname: text.as_ptr() as u64, bpf_fd: self.0.as_raw_fd() as u32, ..Pin::default() };
        // Answers 0 and no descriptor.
        command(BPF_OBJ_PIN, &mut attr).unwrap();
        path
    }
}

/// A BPF file system of this test's own.
pub(crate) struct BpfFs(tempfile::TempDir);

impl BpfFs {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        mount("bpf", directory.path(), "bpf", MountFlags::empty(), None).unwrap();
        Self(directory)
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // Its pins go with it. A panic here would hide the one that ended the test.
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// BTF of `int name(int)`: int, prototype, function.
fn btf(name: &str) -> Vec<u8> {
    let strings = format!("\0int\0{name}\0");
    let types: [u32; 12] = [1, 1 << 24, 4, 0x0100_0020, 0, (13 << 24) | 1, 1, 1, 1, 5, (12 << 24) | 1, 2];
    let mut bytes = vec![0x9f, 0xeb, 1, 0];
    let length = (types.len() * 4) as u32;
    for field in [24, 0, length, length, strings.len() as u32].into_iter().chain(types) {
        bytes.extend_from_slice(&u32::to_ne_bytes(field));
    }
    bytes.extend_from_slice(strings.as_bytes());
    bytes
}

fn call<T>(command_number: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = command(command_number, attr)?;
    // SAFETY: the kernel has just opened the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn command<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is the beginning of the command's attributes, and all memory that it points to lives in the
    // caller's frame and is only read.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
