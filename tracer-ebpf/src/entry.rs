//! What sits on the hooks: small programs that say which hook it is and go on in the one that observes. They are
//! loaded for each network namespace, because a tc program cannot ask for its namespace on the kernels that we
//! support; the one behind them, with a hundred times their instructions, is loaded once.
#![no_std]
#![no_main]

mod counters;
mod scratch;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{Array, ProgramArray};
use aya_ebpf::programs::TcContext;
use tracer_common::outcome::Outcome;
use tracer_common::record::{DIRECTION_EGRESS, DIRECTION_INGRESS};

use crate::scratch::{Hook, scratch};

/// Number of the network namespace that these programs serve, in slot 0; set by the loader before they are attached.
#[map]
static SPACE: Array<u32> = Array::with_max_entries(1, 0);

/// What is behind these programs: in slot 1 the one that glances at packets with an Ethernet header, in slot 0 the observing
/// one. The kernel empties the array when the process that filled it is gone: a legacy
/// filter that outlives it then finds nothing to go on to, and the packet passes all the same.
#[map]
static BEHIND: ProgramArray = ProgramArray::with_max_entries(2, 0);

#[classifier]
pub fn tracer_in_eth(ctx: TcContext) -> i32 {
    enter(&ctx, DIRECTION_INGRESS, 1)
}

#[classifier]
pub fn tracer_out_eth(ctx: TcContext) -> i32 {
    enter(&ctx, DIRECTION_EGRESS, 1)
}

#[classifier]
pub fn tracer_in_ip(ctx: TcContext) -> i32 {
    enter(&ctx, DIRECTION_INGRESS, 0)
}

#[classifier]
pub fn tracer_out_ip(ctx: TcContext) -> i32 {
    enter(&ctx, DIRECTION_EGRESS, 0)
}

/// Goes on in the program behind, where the packet is counted. What comes behind that is for the case that it is not
/// there.
#[inline(always)]
fn enter(ctx: &TcContext, direction: u8, ethernet: u8) -> i32 {
    if let (Some(scratch), Some(&space)) = (scratch(), SPACE.get(0)) {
        scratch.hook = Hook { space, direction, ethernet, is_told: 0, reserved: 0 };
        // SAFETY: nothing here needs to be dropped.
        unsafe { BEHIND.tail_call(ctx, u32::from(ethernet)) };
    }
    counters::count(Outcome::Internal);
    TC_ACT_UNSPEC
}

/// The kernel reads this from the object: GPL-only helpers ask for it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
