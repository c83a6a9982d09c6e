//! Programs at netkit pairs, which aya cannot attach.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

use crate::netns::Netns;

const BPF_LINK_CREATE: libc::c_long = 28;
/// What the pod sends, at the primary device's end of the pair.
const BPF_NETKIT_PEER: u32 = 55;

/// `struct { ... } link_create` of `union bpf_attr`, as far as netkit's links need it.
#[repr(C)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    expected_revision: u64,
}

/// Attaches a program where packets that the pod sends leave the pair, at the tail. Dropping the link detaches it.
pub(super) fn attach_to_peer(netns: &Netns, program: BorrowedFd<'_>, ifindex: u32) -> Result<OwnedFd> {
    let attributes = LinkCreate {
        program: program.as_raw_fd().cast_unsigned(),
        ifindex,
        attach_type: BPF_NETKIT_PEER,
        flags: 0,
        relative: 0,
        padding: 0,
        expected_revision: 0,
    };
    let link = netns.run(|| {
        // SAFETY: the kernel reads `attributes` for its size and keeps no pointer to it.
        let link = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attributes, size_of::<LinkCreate>())
        };
        if link < 0 { Err(io::Error::last_os_error()) } else { Ok(link) }
    })?;
    let link = link.context("cannot attach to the netkit pair; Linux 6.7 or later is needed")?;
    // SAFETY: the kernel has just opened it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(link)?) })
}
