//! Hop and drop records into the ring buffer. Waking the reader costs twenty times the record, so records do not: the
//! reader looks by itself every few milliseconds and is woken only where the ring fills faster than that.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::RingBuf;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::programs::TcContext;
use tracer_common::outcome::Outcome;
use tracer_common::packet::Headers;
use tracer_common::record::{HOP_RECORD_SIZE, HopRecord};

use crate::constant::constant;
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
    headers: &mut Headers,
    hook: Hook,
    follows: u64,
    before: u32,
) -> Result<Outcome, Outcome> {
    let mut entry = reserve::<HopRecord>().ok_or(Outcome::RingFull)?;
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
        discard(entry);
        return Err(error.into());
    }
    submit(entry);
    Ok(Outcome::Recorded)
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
