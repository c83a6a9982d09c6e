//! A foreign program as another tool or CNI might attach it: it counts, and decides as it was told at load.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{TC_ACT_REDIRECT, TC_ACT_UNSPEC},
    helpers::bpf_redirect_neigh,
    macros::{classifier, map},
    maps::PerCpuArray,
    programs::TcContext,
};

/// What to return for a packet.
#[unsafe(no_mangle)]
static ACTION: i32 = 0;

/// With `TC_ACT_REDIRECT`: the device to leave by.
#[unsafe(no_mangle)]
static REDIRECT_IFINDEX: u32 = 0;

/// With `TC_ACT_REDIRECT`: only packets to this address (IPv4 in the first word; network order) are redirected.
#[unsafe(no_mangle)]
static REDIRECT_DESTINATION: [u32; 4] = [0; 4];

/// Packets seen, and packets redirected.
#[map(name = "foreign_packets")]
static PACKETS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

#[classifier]
pub fn cil_from_container(ctx: TcContext) -> i32 {
    decide(&ctx)
}

#[classifier]
pub fn cil_to_container(ctx: TcContext) -> i32 {
    decide(&ctx)
}

#[classifier]
pub fn no_op(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[inline(always)]
fn decide(ctx: &TcContext) -> i32 {
    count(0);
    // SAFETY: valid references. Volatile, because the loader has overwritten the values.
    let (action, ifindex, wanted) = unsafe {
        (
            core::ptr::read_volatile(&ACTION),
            core::ptr::read_volatile(&REDIRECT_IFINDEX),
            core::ptr::read_volatile(&REDIRECT_DESTINATION),
        )
    };
    if action != TC_ACT_REDIRECT {
        return action;
    }
    if destination(ctx) != Some(wanted) {
        return 0;
    }
    count(1);
    // SAFETY: no parameters are passed, so the kernel resolves the next hop itself.
    (unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) }) as i32
}

#[inline(always)]
fn destination(ctx: &TcContext) -> Option<[u32; 4]> {
    match u16::from_be(ctx.load(12).ok()?) {
        0x0800 => Some([ctx.load(14 + 16).ok()?, 0, 0, 0]),
        0x86dd => ctx.load(14 + 24).ok(),
        _ => None,
    }
}

#[inline(always)]
fn count(index: u32) {
    if let Some(packets) = PACKETS.get_ptr_mut(index) {
        // SAFETY: the slot belongs to this CPU, and tc programs are not preempted by themselves on one CPU.
        unsafe { *packets += 1 };
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
