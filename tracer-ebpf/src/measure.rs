//! Leg latencies of packets that are chosen by their fingerprint; the rules are in `tracer_common::measure`. A program
//! of its own behind the observing one, which has parsed the packet: where nobody asks for metrics it is not loaded, and
//! the way to it is not in the observing program either.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray};
use aya_ebpf::programs::TcContext;
use tracer_common::measure::{
    BUCKET_SLOTS, LAST_CAPACITY, LEG_COUNT, LastSeen, LegHistogram, OLDEST_NS, POINT_BEGINS, POINT_CAPACITY,
    POINT_ENDS, PointInfo, PointPlace, bucket_of, group_leg_of, is_chosen, leg_of,
};
use tracer_common::outcome::{
    MEASURE_COUNTERS, MEASURE_DROPS_UNTOLD, MEASURE_ENDED, MEASURE_GROUP_LEGS_UNTOLD, MEASURE_INSERTED,
    MEASURE_REMOVED, MeasureOutcome,
};
use tracer_common::record::HopRecord;

use crate::constant::constant;
use crate::reader::SkbReader;
use crate::scratch::{Scratch, scratch};

/// 1 if there is a program that measures; set by the loader.
#[unsafe(no_mangle)]
static MEASURES: u32 = 0;

/// See `tracer_common::measure::sample_mask`; set by the loader.
#[unsafe(no_mangle)]
static SAMPLE_MASK: u64 = 0;

/// The program that measures, in slot 0.
#[map]
static MEASURE: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[map]
static MEASURED: PerCpuArray<u64> = PerCpuArray::with_max_entries(MEASURE_COUNTERS, 0);

/// What the fingerprint is computed in; as in `scratch`, one per CPU is enough.
#[map]
static PACKET: PerCpuArray<HopRecord> = PerCpuArray::with_max_entries(1, 0);

/// Kind of each point; userspace fills it.
#[map]
static POINTS: HashMap<PointPlace, PointInfo> = HashMap::with_max_entries(POINT_CAPACITY, 0);

/// Fingerprint to where a chosen packet was last.
#[map]
static LAST: LruHashMap<u64, LastSeen> = LruHashMap::with_max_entries(LAST_CAPACITY, 0);

/// By `tracer_common::measure::leg_of`.
#[map]
static LEGS: PerCpuArray<LegHistogram> = PerCpuArray::with_max_entries(LEG_COUNT, 0);

/// By `tracer_common::measure::group_leg_of`; the loader sets how many, and memory is taken for those that there are.
#[map]
static GROUP_LEGS: PerCpuHashMap<u32, LegHistogram> = PerCpuHashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Never written: what a group's leg begins with. It is larger than a program's stack.
#[map]
static ZERO_LEG: PerCpuArray<LegHistogram> = PerCpuArray::with_max_entries(1, 0);

/// Whether anybody asked for metrics.
#[inline(always)]
pub(crate) fn is_asked_for() -> bool {
    constant(&MEASURES) != 0
}

/// Whether a packet is not chosen; counts that.
#[inline(always)]
pub(crate) fn passes_by(fingerprint: u64) -> bool {
    if is_chosen(fingerprint, constant(&SAMPLE_MASK)) {
        return false;
    }
    count(MeasureOutcome::NotChosen as u32);
    true
}

/// A drop that [`crate::drops`] could not count by its place and reason.
#[inline(always)]
pub(crate) fn count_untold_drop() {
    count(MEASURE_DROPS_UNTOLD);
}

/// Goes on in the program that measures, if there is one; returns only where there is none.
#[inline(always)]
pub(crate) fn go_on(ctx: &TcContext) {
    if is_asked_for() {
        // SAFETY: nothing of the callers needs to be dropped.
        unsafe { MEASURE.tail_call(ctx, 0) };
    }
}

/// Behind `tracer_observe`, which has counted the packet's outcome at the hook. Counts what it did.
#[classifier]
pub fn tracer_measure(ctx: TcContext) -> i32 {
    let outcome = match try_measure(&ctx) {
        Ok(outcome) | Err(outcome) => outcome,
    };
    count(outcome as u32);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn try_measure(ctx: &TcContext) -> Result<MeasureOutcome, MeasureOutcome> {
    let Scratch { hook, headers, .. } = scratch().ok_or(MeasureOutcome::Internal)?;
    let packet = PACKET.get_ptr_mut(0).ok_or(MeasureOutcome::Internal)?;
    // SAFETY: the pointer is to this CPU's live map value; tc programs do not interrupt each other.
    let packet = unsafe { &mut *packet };
    // SAFETY: the context points to a live __sk_buff; these fields may be read by any tc program.
    let (ifindex, length) = unsafe {
        let skb = ctx.skb.skb;
        packet.gso_size = (*skb).gso_size as u16;
        ((*skb).ifindex, (*skb).len)
    };
    let reader = SkbReader::new(ctx);
    let fingerprint = headers.fingerprint(&reader, packet).map_err(|_| MeasureOutcome::Truncated)?;
    if !is_chosen(fingerprint, constant(&SAMPLE_MASK)) {
        return Ok(MeasureOutcome::NotChosen);
    }
    let place = PointPlace { space: hook.space, ifindex, direction: u32::from(hook.direction) };
    // SAFETY: the pointer is to a live map value, which is copied. Userspace adds and removes points and changes none.
    let point = unsafe { POINTS.get(&place) }.copied().ok_or(MeasureOutcome::UnknownPoint)?;
    // SAFETY: the helper has no preconditions.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    meet(fingerprint, LastSeen { time_ns, place, kind: point.kind, group: point.group }, point, length)
}

/// A chosen packet at a point.
#[inline(always)]
fn meet(
    fingerprint: u64,
    mut seen: LastSeen,
    point: PointInfo,
    length: u32,
) -> Result<MeasureOutcome, MeasureOutcome> {
    let last = LAST.get_ptr_mut(&fingerprint);
    let Some(last) = last else {
        if point.flags & POINT_ENDS == 0 {
            LAST.insert(&fingerprint, &seen, 0).map_err(|_| MeasureOutcome::Refused)?;
            count(MEASURE_INSERTED);
        }
        let begins = point.flags & POINT_BEGINS != 0;
        return Ok(if begins { MeasureOutcome::Began } else { MeasureOutcome::Missed });
    };
    // SAFETY: the pointer is to a live map value. The kernel may give the element to another packet meanwhile: then one
    // leg is measured wrong, which takes a full map and another CPU within nanoseconds.
    let before = unsafe { *last };
    if seen.group == 0 {
        seen.group = before.group;
    }
    let outcome = if point.flags & POINT_BEGINS != 0 || before.place == seen.place {
        MeasureOutcome::Restarted
    } else if seen.time_ns < before.time_ns || seen.time_ns - before.time_ns > OLDEST_NS {
        MeasureOutcome::Stale
    } else {
        let (from, to) = (u32::from(before.kind), u32::from(point.kind));
        add(from, to, seen.group, (seen.time_ns - before.time_ns, length))?;
        MeasureOutcome::Leg
    };
    if point.flags & POINT_ENDS == 0 {
        // SAFETY: as above.
        unsafe { *last = seen };
        return Ok(outcome);
    }
    if LAST.remove(&fingerprint).is_ok() {
        count(MEASURE_REMOVED);
    }
    if outcome as u32 == MeasureOutcome::Leg as u32 {
        count(MEASURE_ENDED);
    }
    Ok(outcome)
}

#[inline(always)]
fn add(from: u32, to: u32, group: u16, sample: (u64, u32)) -> Result<(), MeasureOutcome> {
    add_to(LEGS.get_ptr_mut(leg_of(from, to)).ok_or(MeasureOutcome::Internal)?, sample);
    if group == 0 {
        return Ok(());
    }
    let key = group_leg_of(group, from, to);
    if GROUP_LEGS.get_ptr_mut(&key).is_none() {
        let zero = ZERO_LEG.get(0).ok_or(MeasureOutcome::Internal)?;
        // Refused where another CPU has just made it, and where there is no room.
        let _ = GROUP_LEGS.insert(&key, zero, u64::from(BPF_NOEXIST));
    }
    match GROUP_LEGS.get_ptr_mut(&key) {
        Some(leg) => add_to(leg, sample),
        None => count(MEASURE_GROUP_LEGS_UNTOLD),
    }
    Ok(())
}

#[inline(always)]
fn add_to(leg: *mut LegHistogram, (latency_ns, length): (u64, u32)) {
    // verifier: the mask bounds the index.
    let bucket = bucket_of(latency_ns) as usize & (BUCKET_SLOTS - 1);
    // SAFETY: the callers' pointers are to this CPU's live map values; the mask keeps the index inside.
    unsafe {
        (*leg).sum_ns += latency_ns;
        (*leg).bytes += u64::from(length);
        (*leg).buckets[bucket] += 1;
    }
}

#[inline(always)]
fn count(counter: u32) {
    if let Some(counter) = MEASURED.get_ptr_mut(counter) {
        // SAFETY: the pointer is to this CPU's live map value; tc programs do not interrupt each other.
        unsafe { *counter += 1 };
    }
}
