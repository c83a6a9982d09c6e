//! The memory of a run, one per CPU: what an entry program says about the hook, and what the parser works in.
//!
//! One per CPU is enough. A tc program runs with softirqs off, and one that is run by an interrupt meets another
//! CPU's or no run at all. Programs do nest (a packet that is sent while another is received), but never inside a run
//! of ours: what an entry writes is read behind its tail call, before the hook ends and its packet goes anywhere.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use tracer_common::packet::Headers;

#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) hook: Hook,
    /// Which follows want the packet.
    pub(crate) follows: u64,
    pub(crate) headers: Headers,
}

/// Where a packet is met, as far as a program cannot ask for it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Hook {
    /// Number of the network namespace.
    pub(crate) space: u32,
    /// `DIRECTION_*` of `tracer_common::record`.
    pub(crate) direction: u8,
    /// 1 if packets begin with an Ethernet header here, 0 if with the IP header.
    pub(crate) ethernet: u8,
    /// 1 if a glance has been enough: [`Scratch::headers`] and [`Scratch::follows`] are the packet's.
    pub(crate) is_told: u8,
    pub(crate) reserved: u8,
}

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the pointer is to a live map value of this type, and nothing else on this CPU uses it meanwhile.
    Some(unsafe { &mut *scratch })
}
