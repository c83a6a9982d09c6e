//! BPF links on devices: TCX and netkit, at the head of the hook. aya has no netkit links, and finds a device by its name,
//! which may be another one's by then; both kinds are one command of bpf(2) with an ifindex.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use aya::programs::SchedClassifier;

use crate::host::bpf::{NETKIT_PEER, TCX_EGRESS, TCX_INGRESS};
use crate::host::netns::Netns;

const BPF_LINK_CREATE: libc::c_long = 28;
/// Without naming another program: before all that are there.
const BPF_F_BEFORE: u32 = 1 << 3;

/// Where a link goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    TcxIngress,
    TcxEgress,
    /// On the primary of a netkit pair: what its peer, the pod's device, transmits. The program runs in that transmission,
    /// before the CNI's netkit programs, which may send the packet elsewhere. It meets the packet as ingress of the
    /// primary would: `skb->dev` is the primary already, and the data begin with the Ethernet header, in L3 mode too.
    NetkitPeer,
}

impl Hook {
    const fn attach_type(self) -> u32 {
        match self {
            Self::TcxIngress => TCX_INGRESS,
            Self::TcxEgress => TCX_EGRESS,
            Self::NetkitPeer => NETKIT_PEER,
        }
    }
}

/// A program on a hook. Dropping it detaches, in whatever namespace its device is.
#[derive(Debug)]
pub(super) struct Link {
    _fd: OwnedFd,
}

/// The part of `union bpf_attr` for BPF_LINK_CREATE until the place among the other programs; what follows may be left
/// out and is zero then.
#[repr(C)]
struct CreateAttr {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    /// No other program: the head.
    relative: u32,
    reserved: u32,
    /// Whatever the others are by then.
    expected_revision: u64,
}

/// Puts a program at the head of a hook of a device of this namespace.
///
/// # Errors
/// The kernel's; `NotFound` if the namespace is gone, ENODEV if the device is.
pub(super) fn create(netns: &Netns, ifindex: u32, hook: Hook, program: &SchedClassifier) -> io::Result<Link> {
    let program = program.fd().map_err(io::Error::other)?.as_fd().as_raw_fd();
    let attr = CreateAttr {
        program: u32::try_from(program).map_err(io::Error::other)?,
        ifindex,
        attach_type: hook.attach_type(),
        flags: BPF_F_BEFORE,
        relative: 0,
        reserved: 0,
        expected_revision: 0,
    };
    // The kernel looks the ifindex up in the namespace of the thread.
    let fd = netns.run(|| {
        // SAFETY: the pointer and the size describe `attr`, which the command only reads and which has no pointers.
        let fd = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attr, size_of::<CreateAttr>())
        };
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
    })??;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened the descriptor for us, and nobody else knows it.
    Ok(Link { _fd: unsafe { OwnedFd::from_raw_fd(fd) } })
}
