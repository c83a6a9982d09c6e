//! The eBPF program that observes, behind the entries on the hooks (`entry.rs`); where packets have an Ethernet header
//! `glance.rs` stands between, and spares most of them the way here. It looks at a packet, counts one
//! outcome and returns -1 (`TC_ACT_UNSPEC` = `TCX_NEXT`): the next program, or the stack, decides about the packet.
//! What both report goes out in `records.rs`, with a packet's bytes by `capture.rs`. Behind it may be the program that
//! measures, in `measure.rs`. The program that is told what the kernel drops is in `drops.rs`.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod capture;
mod constant;
mod counters;
mod drops;
mod filter;
mod glance;
mod kernel;
mod measure;
mod reader;
mod records;
mod scratch;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use tracer_common::filter::FilterConfig;
use tracer_common::outcome::Outcome;
use tracer_common::packet::{Headers, Link, ParseError};

use crate::reader::SkbReader;
use crate::scratch::{Hook, Scratch, scratch};

/// Counts what `try_observe` did. The only way out. verifier: inlined into what the macro makes around it, or both frames
/// together are larger than the stack may be.
#[classifier]
#[inline(always)]
pub fn tracer_observe(ctx: TcContext) -> i32 {
    let outcome = match try_observe(&ctx) {
        Ok(outcome) | Err(outcome) => outcome,
    };
    counters::count(outcome);
    if matches!(outcome, Outcome::Recorded | Outcome::RingFull | Outcome::Filtered) {
        measure::go_on(&ctx);
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn try_observe(ctx: &TcContext) -> Result<Outcome, Outcome> {
    let reader = SkbReader::new(ctx);
    let Scratch { hook, follows, headers } = scratch().ok_or(Outcome::Internal)?;
    let config = filter::config().ok_or(Outcome::Internal)?;
    let before = if hook.is_told == 0 { look(&reader, hook, follows, headers, config)? } else { 0 };
    let follows = *follows;
    if follows == 0 {
        return Ok(Outcome::Filtered);
    }
    debug!(
        ctx,
        "wanted: protocol {}, {} tunnels, follows {:x}", headers.protocol, headers.tunnel_count, follows
    );
    records::write(ctx, &reader, headers, *hook, (config, follows), before)
}

/// Walks over the packet's headers and asks who wants it. Gives the length of what has been taken off already.
#[inline(always)]
fn look(
    reader: &SkbReader<'_>,
    hook: &Hook,
    follows: &mut u64,
    headers: &mut Headers,
    config: &FilterConfig,
) -> Result<u32, ParseError> {
    let bare = hook.ethernet == 0;
    // What lies before the network header has been taken off already: only its length is of interest.
    let is_decapsulated = bare && !reader.begins_with_network_header() && reader.begins_with_ethernet();
    let link = if bare && !is_decapsulated { Link::None } else { Link::Ethernet };
    headers.parse(reader, link, &config.vxlan_ports)?;
    let before = if is_decapsulated { headers.forget_tunnels() } else { 0 };
    *follows = filter::wanted_by(reader, headers, config)?;
    Ok(before)
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
