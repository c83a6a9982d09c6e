//! Hop and drop records into the ring buffer, with the packet's bytes where it is captured ([`capture`]). Waking the reader costs twenty times the record, so records do not: the
//! reader looks by itself every few milliseconds and is woken only where the ring fills faster than that.

use core::arch::asm;
use core::ptr::from_ref;
use core::slice::from_raw_parts;

use aya_ebpf::bindings::{
    BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP,
};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::maps::{HashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::TcContext;
use tracer_common::filter::FilterConfig;
use tracer_common::measure::{POINT_CAPACITY, PointPlace};
use tracer_common::outcome::Outcome;
use tracer_common::packet::glance::Glance;
use tracer_common::packet::{Headers, Reader};
use tracer_common::record::{CapturedRecord, HOP_RECORD_SIZE, HopRecord, size_in_ring};

use crate::capture;
use crate::constant::constant;
use crate::reader::SkbReader;
use crate::scratch::Hook;

/// Size is set by the loader.
#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Records that found the ring full, by point: which devices' they were. Not there before there are any.
#[map]
static LOST: HashMap<PointPlace, u64> = HashMap::with_max_entries(POINT_CAPACITY, BPF_F_NO_PREALLOC);

/// Bytes in the ring from which on the reader is woken; set by the loader.
#[unsafe(no_mangle)]
static WAKE_BYTES: u64 = 0;

/// Width of the window above `WAKE_BYTES` in which a record wakes the reader: a ring that stays full must not
/// wake it with every record.
const WAKE_WINDOW: u64 = 16 * HOP_RECORD_SIZE as u64;

/// Where a record is made; as in `scratch`, one per CPU is enough. Behind the record are the packet's bytes, where it is
/// captured.
#[map]
static RECORD: PerCpuArray<CapturedRecord> = PerCpuArray::with_max_entries(1, 0);

/// `before`: bytes in front of the packet that its device does not count as part of it.
#[inline(always)]
pub(crate) fn write(
    ctx: &TcContext,
    reader: &SkbReader,
    headers: &mut Headers,
    hook: Hook,
    (config, follows): (&FilterConfig, u64),
    before: u32,
) -> Result<Outcome, Outcome> {
    let captured = room().ok_or(Outcome::Internal)?;
    note_observation(ctx, &mut captured.record, hook, follows, before);
    headers.describe(reader, &mut captured.record)?;
    let written = if capture::is_wanted(config, follows) {
        capture::write(ctx, headers, captured, (config, follows), before)?
    } else {
        output(&captured.record)
    };
    if written { Ok(Outcome::Recorded) } else { Err(lost(ctx, hook)) }
}

/// As [`write`], of a packet that nobody captures; `None` if a glance was not enough for its record.
#[inline(always)]
pub(crate) fn write_at_a_glance<R: Reader>(
    ctx: &TcContext,
    reader: &R,
    glance: &Glance,
    hook: Hook,
    follows: u64,
) -> Option<Outcome> {
    let record = &mut room()?.record;
    note_observation(ctx, record, hook, follows, 0);
    glance.describe(reader, record)?;
    Some(if output(record) { Outcome::Recorded } else { lost(ctx, hook) })
}

/// Where this CPU makes its records. All fields are written by who takes it, whatever is in them.
#[inline(always)]
fn room() -> Option<&'static mut CapturedRecord> {
    let room = RECORD.get_ptr_mut(0)?;
    // SAFETY: the pointer is to this CPU's live map value, and tc programs do not interrupt each other.
    Some(unsafe { &mut *room })
}

/// Copies a record into the ring; false if it is full.
#[inline(always)]
fn output(record: &HopRecord) -> bool {
    let size = size_in_ring(record.tunnel_count);
    // SAFETY: the record is not shorter, and has no padding.
    output_bytes(unsafe { from_raw_parts(from_ref(record).cast::<u8>(), size) })
}

/// Fills what of a record is about where and when, and not about the packet.
#[inline(always)]
fn note_observation(ctx: &TcContext, record: &mut HopRecord, hook: Hook, follows: u64, before: u32) {
    // SAFETY: the helper has no preconditions.
    record.time_ns = unsafe { bpf_ktime_get_ns() };
    record.follows = follows;
    record.space = hook.space;
    record.direction = hook.direction;
    // SAFETY: the context points to a live __sk_buff; these fields may be read by any tc program.
    unsafe {
        let skb = ctx.skb.skb;
        record.ifindex = (*skb).ifindex;
        record.length = (*skb).len.saturating_sub(before);
        record.gso_segments = (*skb).gso_segs as u16;
        record.gso_size = (*skb).gso_size as u16;
    }
}

/// Notes at which point the ring was full.
#[inline(always)]
fn lost(ctx: &TcContext, hook: Hook) -> Outcome {
    // SAFETY: the context points to a live __sk_buff; this field may be read by any tc program.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let place = PointPlace { space: hook.space, ifindex, direction: u32::from(hook.direction) };
    match LOST.get_ptr_mut(&place) {
        // SAFETY: the pointer is to a live map value, which is aligned. Atomic, because CPUs share it.
        Some(count) => unsafe {
            asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) count, in(reg) 1_u64, options(nostack));
        },
        // Another CPU may do the same at this moment, or there may be no room: then the outcome alone counts it.
        None => {
            // A variable, as a constant may get one address with a static that the loader overwrites.
            let one = 1;
            drop(LOST.insert(&place, &one, u64::from(BPF_NOEXIST)));
        }
    }
    Outcome::RingFull
}

/// Copies a sample of any length into the ring; false if it is full.
#[inline(always)]
pub(crate) fn output_bytes(sample: &[u8]) -> bool {
    RECORDS.output::<[u8]>(sample, wake_flag()).is_ok()
}

/// Room for a record; `None` if the ring is full.
#[inline(always)]
pub(crate) fn reserve<T: 'static>() -> Option<RingBufEntry<T>> {
    RECORDS.reserve(0)
}

/// Gives a finished record to the reader.
#[inline(always)]
pub(crate) fn submit<T: 'static>(entry: RingBufEntry<T>) {
    entry.submit(wake_flag());
}

#[inline(always)]
pub(crate) fn discard<T: 'static>(entry: RingBufEntry<T>) {
    entry.discard(u64::from(BPF_RB_NO_WAKEUP));
}

#[inline(always)]
fn wake_flag() -> u64 {
    let waiting = RECORDS.query(u64::from(BPF_RB_AVAIL_DATA));
    let limit = constant(&WAKE_BYTES);
    if waiting >= limit && waiting < limit + WAKE_WINDOW {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}
