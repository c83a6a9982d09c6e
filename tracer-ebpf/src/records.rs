//! Hop records into the ring buffer. Waking the reader costs twenty times the record, so records do not: the
//! reader looks by itself every few milliseconds and is woken only where the ring fills faster than that.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::RingBuf;
use aya_ebpf::programs::TcContext;
use tracer_common::outcome::Outcome;
use tracer_common::packet::Headers;
use tracer_common::record::{HOP_RECORD_SIZE, HopRecord};

use crate::reader::SkbReader;
use crate::scratch::Hook;

/// Size is set by the loader.
#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Bytes in the ring from which on the reader is woken; set by the loader.
#[unsafe(no_mangle)]
static WAKE_BYTES: u64 = 0;

/// Width of the window above `WAKE_BYTES` in which a record wakes the reader: a ring that stays full must not
/// wake it with every record.
const WAKE_WINDOW: u64 = 16 * HOP_RECORD_SIZE as u64;

/// `before`: bytes in front of the packet that its device does not count as part of it.
#[inline(always)]
pub(crate) fn write(
    ctx: &TcContext,
    reader: &SkbReader,
    headers: &Headers,
    hook: Hook,
    follows: u64,
    before: u32,
) -> Result<Outcome, Outcome> {
    let mut entry = RECORDS.reserve::<HopRecord>(0).ok_or(Outcome::RingFull)?;
    let record = entry.write(HopRecord::default());
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
    if let Err(error) = headers.describe(reader, record) {
        entry.discard(u64::from(BPF_RB_NO_WAKEUP));
        return Err(error.into());
    }
    entry.submit(wake_flag());
    Ok(Outcome::Recorded)
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

/// A value that the loader has set; without this the compiler would use the one written here.
#[inline(always)]
fn constant<T: Copy>(value: &'static T) -> T {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::read_volatile(value) }
}
