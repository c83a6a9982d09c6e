//! The eBPF programs: one entry point for each direction and link type. They look at a packet, count one outcome
//! and return -1 (`TC_ACT_UNSPEC` = `TCX_NEXT`): the next program, or the stack, decides about the packet.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod counters;
mod filter;
mod reader;
mod records;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use tracer_common::outcome::Outcome;
use tracer_common::packet::{Headers, Link};
use tracer_common::record::{DIRECTION_EGRESS, DIRECTION_INGRESS};

use crate::reader::SkbReader;

#[classifier]
pub fn tracer_in_eth(ctx: TcContext) -> i32 {
    observe(&ctx, Link::Ethernet, DIRECTION_INGRESS)
}

#[classifier]
pub fn tracer_out_eth(ctx: TcContext) -> i32 {
    observe(&ctx, Link::Ethernet, DIRECTION_EGRESS)
}

#[classifier]
pub fn tracer_in_ip(ctx: TcContext) -> i32 {
    observe(&ctx, Link::None, DIRECTION_INGRESS)
}

#[classifier]
pub fn tracer_out_ip(ctx: TcContext) -> i32 {
    observe(&ctx, Link::None, DIRECTION_EGRESS)
}

/// Counts what `try_observe` did. The only way out of every program.
#[inline(always)]
fn observe(ctx: &TcContext, link: Link, direction: u8) -> i32 {
    let outcome = match try_observe(ctx, link, direction) {
        Ok(outcome) | Err(outcome) => outcome,
    };
    counters::count(outcome);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn try_observe(ctx: &TcContext, link: Link, direction: u8) -> Result<Outcome, Outcome> {
    let reader = SkbReader::new(ctx);
    let headers = scratch()?;
    let config = filter::config()?;
    headers.parse(&reader, link, &config.vxlan_ports)?;
    let follows = filter::wanted_by(&reader, headers, config)?;
    if follows == 0 {
        return Ok(Outcome::Filtered);
    }
    debug!(
        ctx,
        "wanted: protocol {}, {} tunnels, follows {:x}", headers.protocol, headers.tunnel_count, follows
    );
    records::write(ctx, &reader, headers, direction, follows)
}

/// The walk's memory. One per CPU is enough: a tc program is not interrupted by another one on its CPU.
#[map]
static HEADERS: PerCpuArray<Headers> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn scratch() -> Result<&'static mut Headers, Outcome> {
    let headers = HEADERS.get_ptr_mut(0).ok_or(Outcome::Internal)?;
    // SAFETY: the pointer is to a live map value of this type, and nothing else on this CPU uses it meanwhile.
    Ok(unsafe { &mut *headers })
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
