//! Hop records with the packet's first bytes behind them, for capture files. Where nobody will ever capture, the verifier
//! sees from the loader's constant that none of this can be reached.

use core::arch::asm;
use core::ptr::from_ref;
use core::slice::from_raw_parts;

use aya_ebpf::helpers::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use tracer_common::filter::{FilterConfig, bytes_wanted, wants_bytes};
use tracer_common::outcome::Outcome;
use tracer_common::packet::Headers;
use tracer_common::record::{CapturedRecord, HOP_RECORD_SIZE, MAX_SNAPLEN};

use crate::constant::constant;
use crate::records;

/// 0: nobody will capture. Set by the loader.
#[unsafe(no_mangle)]
static CAPTURES: u32 = 0;

/// Whether any of the follows wants the packet's bytes.
#[inline(always)]
pub(crate) fn is_wanted(config: &FilterConfig, follows: u64) -> bool {
    constant(&CAPTURES) != 0 && wants_bytes(follows, config)
}

/// Copies a record that is made and the packet's bytes into the ring; false if it is full.
#[inline(always)]
pub(crate) fn write(
    ctx: &TcContext,
    headers: &Headers,
    captured: &mut CapturedRecord,
    (config, follows): (&FilterConfig, u64),
    before: u32,
) -> Result<bool, Outcome> {
    let record = &captured.record;
    let payload = headers.end - record.payload_length;
    let wanted = bytes_wanted(follows, config, payload.saturating_sub(before));
    let size = bounded(wanted.min(record.length));
    // SAFETY: not more bytes are written than there is room for, which the verifier checks, too.
    let failed = unsafe {
        bpf_skb_load_bytes(ctx.skb.skb.cast(), before, captured.bytes.as_mut_ptr().cast(), size as u32)
    };
    if failed != 0 {
        return Err(Outcome::Truncated);
    }
    // SAFETY: both lie behind each other, and the size is not over the map value's, which the verifier checks, too.
    let sample = unsafe { from_raw_parts(from_ref(captured).cast::<u8>(), HOP_RECORD_SIZE + size as usize) };
    Ok(records::output_bytes(sample))
}

/// From 1 to [`MAX_SNAPLEN`], as the verifier likes it: a helper that takes a length refuses one that may be 0.
#[inline(always)]
fn bounded(size: u32) -> u64 {
    let mut size = u64::from(size);
    // SAFETY: arithmetic on a register.
    unsafe {
        asm!(
            "{0} += -1",
            "{0} &= {1}",
            "{0} += 1",
            inout(reg) size,
            const MAX_SNAPLEN - 1,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    size
}
