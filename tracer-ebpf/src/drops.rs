//! The program that the kernel tells of every packet that it throws away (`tp_btf/kfree_skb`). It only reads: the
//! packet is freed when it has returned, whatever it found.
//!
//! The packet is looked at from its outermost network header on, as at a hook of a device without link header: what is
//! dropped inside a tunnel is found by its inner packet. Only the linear part of the socket buffer is looked at; that
//! is where the stack has had the headers when it read them.

use core::arch::asm;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_kernel};
use aya_ebpf::macros::{btf_tracepoint, map};
use aya_ebpf::maps::{PerCpuArray, PerCpuHashMap};
use aya_ebpf::programs::BtfTracePointContext;
use tracer_common::measure::{DROPPED_CAPACITY, DroppedAt};
use tracer_common::outcome::{DROP_OUTCOME_COUNT, DropOutcome};
use tracer_common::packet::{Headers, Link, MAX_OFFSET, Reader};
use tracer_common::record::{DIRECTION_NONE, DropRecord};

use crate::constant::constant;
use crate::kernel::{Arguments, Bytes, SocketBuffer, is_no_drop};
use crate::reader::{address, reads_by_load};
use crate::{filter, measure, records};

/// As much of a packet as the parser may ask for, and more: a power of two.
const COPY_BYTES: usize = 4096;
const _: () = assert!(COPY_BYTES > MAX_OFFSET as usize + 16);

/// The memory of a run, one per CPU.
#[repr(C)]
struct Scratch {
    /// Not zero while a run uses it. The tracepoint is met by whoever frees a packet: a run in a process may be
    /// interrupted by one in a softirq. From Linux 6.1 on the kernel skips that one by itself, and counts it.
    busy: u64,
    headers: Headers,
    copy: Beginning,
}

/// The beginning of a packet. verifier: the lengths are here and not in registers, for what the verifier learns of a
/// register in one comparison makes it another state at the next.
#[repr(C)]
struct Beginning {
    /// Bytes of it that are the packet's.
    copied: u32,
    /// Of the whole packet.
    length: u32,
    bytes: [u8; COPY_BYTES],
}

#[map]
static DROP_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// One counter per outcome and CPU.
#[map]
static DROP_OUTCOMES: PerCpuArray<u64> = PerCpuArray::with_max_entries(DROP_OUTCOME_COUNT as u32, 0);

/// What metrics tell of drops; empty where nobody asks for them.
#[map]
static DROPPED: PerCpuHashMap<DroppedAt, u64> = PerCpuHashMap::with_max_entries(DROPPED_CAPACITY, 0);

/// Counts what `try_report` did. The only way out. verifier: inlined into what the macro makes around it, or both frames
/// together are larger than the stack may be.
#[btf_tracepoint(function = "kfree_skb")]
#[inline(always)]
pub fn tracer_drop(ctx: BtfTracePointContext) -> i32 {
    let outcome = match try_report(&ctx) {
        Ok(outcome) | Err(outcome) => outcome,
    };
    count(outcome);
    0
}

#[inline(always)]
fn try_report(ctx: &BtfTracePointContext) -> Result<DropOutcome, DropOutcome> {
    let arguments = Arguments(ctx.as_ptr() as u64);
    let reason = arguments.reason().ok_or(DropOutcome::Unreadable)?;
    if is_no_drop(reason) {
        return Ok(DropOutcome::NoDrop);
    }
    if measure::is_asked_for() {
        tally(arguments, reason);
    }
    let scratch = DROP_SCRATCH.get_ptr_mut(0).ok_or(DropOutcome::Internal)?;
    // SAFETY: the pointer is to this CPU's live map value. Volatile, for a run that interrupts this one reads it. What
    // does so before the mark is set has ended when it is.
    if unsafe { core::ptr::read_volatile(&raw const (*scratch).busy) } != 0 {
        return Err(DropOutcome::Nested);
    }
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(&raw mut (*scratch).busy, 1) };
    // SAFETY: the mark keeps all other runs on this CPU from these two fields.
    let (headers, copy) = unsafe { (&mut (*scratch).headers, &mut (*scratch).copy) };
    let outcome = report(arguments, reason, headers, copy);
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(&raw mut (*scratch).busy, 0) };
    outcome
}

/// Counts the drop for metrics, by its place and reason.
#[inline(always)]
fn tally(arguments: Arguments, reason: u32) {
    let place = arguments.socket_buffer().and_then(|buffer| buffer.place(arguments));
    let (netns, ifindex) = place.unwrap_or((0, 0));
    let key = DroppedAt { netns, ifindex, reason };
    if DROPPED.get_ptr_mut(&key).is_none() {
        // A variable: the constant 0 may get one address with a static of that value, which the loader overwrites.
        let none = 0;
        // Refused where a run that interrupts this one has just made it, and where there is no room.
        let _ = DROPPED.insert(&key, &none, u64::from(BPF_NOEXIST));
    }
    match DROPPED.get_ptr_mut(&key) {
        Some(count) => add_one(count),
        None => measure::count_untold_drop(),
    }
}

#[inline(always)]
fn report(
    arguments: Arguments,
    reason: u32,
    headers: &mut Headers,
    copy: &mut Beginning,
) -> Result<DropOutcome, DropOutcome> {
    let buffer = arguments.socket_buffer().ok_or(DropOutcome::Unreadable)?;
    let packet = buffer.bytes().ok_or(DropOutcome::NotIp)?;
    if !copy.take(&packet) {
        return Err(DropOutcome::Unreadable);
    }
    let reader = CopyReader(copy);
    let config = filter::config().ok_or(DropOutcome::Internal)?;
    headers.parse(&reader, Link::None, &config.vxlan_ports)?;
    let follows = filter::wanted_by(&reader, headers, config)?;
    if follows == 0 {
        return Ok(DropOutcome::Filtered);
    }
    write(&reader, headers, buffer, follows, (arguments, reason))
}

#[inline(always)]
fn write(
    reader: &CopyReader<'_>,
    headers: &mut Headers,
    buffer: SocketBuffer,
    follows: u64,
    (arguments, reason): (Arguments, u32),
) -> Result<DropOutcome, DropOutcome> {
    let (gso_size, gso_segments) = buffer.gso().ok_or(DropOutcome::Unreadable)?;
    let (netns, ifindex) = buffer.place(arguments).unwrap_or((0, 0));
    let location = arguments.location().unwrap_or(0);
    let mut entry = records::reserve::<DropRecord>().ok_or(DropOutcome::RingFull)?;
    let record = entry.write(DropRecord::default());
    record.location = location;
    record.reason = reason;
    record.netns = netns;
    let packet = &mut record.packet;
    // SAFETY: the helper has no preconditions.
    packet.time_ns = unsafe { bpf_ktime_get_ns() };
    packet.follows = follows;
    packet.ifindex = ifindex;
    packet.length = reader.length();
    packet.direction = DIRECTION_NONE;
    packet.gso_size = gso_size;
    packet.gso_segments = gso_segments;
    if let Err(error) = headers.describe(reader, packet) {
        records::discard(entry);
        return Err(error.into());
    }
    records::submit(entry);
    Ok(DropOutcome::Recorded)
}

#[inline(always)]
fn count(outcome: DropOutcome) {
    if let Some(counter) = DROP_OUTCOMES.get_ptr_mut(outcome as u32) {
        add_one(counter);
    }
}

#[inline(always)]
fn add_one(counter: *mut u64) {
    // SAFETY: the callers' pointers are to this CPU's live map values, which are aligned. Atomic, because a run may
    // interrupt another one right here.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) 1_u64, options(nostack)) };
}

impl Beginning {
    /// Copies a packet's beginning; false if the kernel's memory cannot be read. verifier: no `Option` of a reader, which
    /// would be a pointer that may be null, and before Linux 6.6 a helper's result that was found not to be 0 is not known
    /// to be that at the next look.
    #[inline(always)]
    fn take(&mut self, packet: &Bytes) -> bool {
        const MOST: u32 = COPY_BYTES as u32 - 1;
        self.copied = packet.linear.min(MOST);
        self.length = packet.length;
        let mut size = u64::from(self.copied);
        // SAFETY: an AND on a register. verifier: the bound, right where it is used.
        unsafe {
            asm!("{0} &= {1}", inout(reg) size, const MOST, options(pure, nomem, nostack, preserves_flags))
        };
        // SAFETY: at most COPY_BYTES are written, and the helper checks the address that it reads from.
        let failed = unsafe {
            bpf_probe_read_kernel(self.bytes.as_mut_ptr().cast(), size as u32, packet.start as *const _)
        };
        failed == 0
    }
}

/// Reads the copy of a packet's beginning.
struct CopyReader<'a>(&'a Beginning);

impl CopyReader<'_> {
    #[inline(always)]
    fn copied(&self) -> u32 {
        constant(&self.0.copied)
    }

    /// The value at `offset`, bytes as they lie.
    #[inline(always)]
    fn load<T: Copy>(&self, offset: u32) -> Option<T> {
        if offset > MAX_OFFSET || offset + size_of::<T>() as u32 > self.copied() {
            return None;
        }
        let at = address(self.0.bytes.as_ptr() as usize, offset as usize);
        // SAFETY: MAX_OFFSET and the longest value are inside the copy. BPF loads need no alignment on the machines
        // that the kernel compiles programs for with efficient unaligned access.
        Some(unsafe { *(at as *const T) })
    }
}

impl Reader for CopyReader<'_> {
    reads_by_load!();

    #[inline(always)]
    fn length(&self) -> u32 {
        constant(&self.0.length)
    }

    /// verifier: what lives between two steps goes through memory, see `tracer_common::packet::Headers`.
    #[inline(always)]
    fn step(&self) {
        let mut copied = self.copied();
        // SAFETY: moves a register to itself; without `nomem` the compiler must assume that memory changed.
        unsafe { asm!("{0} = {0}", inout(reg) copied, options(nostack, preserves_flags)) };
        let _ = copied;
    }

    #[inline(always)]
    fn again(&self, value: &u32) -> u32 {
        constant(value)
    }
}
