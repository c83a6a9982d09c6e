//! The least that a tool can do at a hook, for the bench: how near is tracer to what can be had? The programs know what comes
//! (UDP behind IPv4 without options, bare or in a VXLAN), ask no map whose packet it is, and tell little of it.
#![no_std]
#![no_main]

use aya_ebpf::bindings::{BPF_RB_NO_WAKEUP, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use aya_ebpf::programs::TcContext;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
/// Outer headers of a VXLAN, and the inner Ethernet header.
const VXLAN: usize = IPV4 + UDP + 8 + ETHERNET;
const VXLAN_PORT: u16 = 4789;
const IPV4_AND_NO_OPTIONS: u8 = 0x45;

/// What is looked for: source and destination, bytes as they lie. Set by the loader.
#[unsafe(no_mangle)]
static WANTED: u64 = 0;

/// Packets that are wanted, and records that found the ring full.
#[map(name = "least_counts")]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// Size is set by the loader.
#[map(name = "least_records")]
static RECORDS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Looks for two addresses in the innermost packet.
#[classifier]
pub fn least_look(ctx: TcContext) -> i32 {
    // SAFETY: a valid reference. Volatile, because the loader has overwritten the value.
    let wanted = unsafe { core::ptr::read_volatile(&WANTED) };
    if let Some(packet) = innermost(&ctx)
        && packet.addresses == wanted
    {
        count(0);
    }
    TC_ACT_UNSPEC
}

/// Writes a record of 64 bytes of each packet.
#[classifier]
pub fn least_record(ctx: TcContext) -> i32 {
    let Some(packet) = innermost(&ctx) else { return TC_ACT_UNSPEC };
    count(0);
    // SAFETY: the helper has no preconditions.
    let time = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the context points to a live __sk_buff; these fields may be read by any tc program.
    let (ifindex, length) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).len) };
    let hook = u64::from(ifindex) | u64::from(length) << 32;
    let [a, b, c, d] = packet.payload;
    match RECORDS.reserve::<[u64; 8]>(0) {
        Some(mut entry) => {
            entry.write([time, hook, packet.addresses, packet.ports, a, b, c, d]);
            entry.submit(u64::from(BPF_RB_NO_WAKEUP));
        }
        None => count(1),
    }
    TC_ACT_UNSPEC
}

struct Packet {
    addresses: u64,
    /// And length and checksum.
    ports: u64,
    payload: [u64; 4],
}

#[inline(always)]
fn innermost(ctx: &TcContext) -> Option<Packet> {
    let outer = udp(ctx, ETHERNET)?;
    let is_vxlan = (outer.ports >> 16) as u16 == VXLAN_PORT.to_be();
    if is_vxlan { udp(ctx, ETHERNET + VXLAN) } else { Some(outer) }
}

/// A datagram behind an IPv4 header at an offset that is known beforehand.
#[inline(always)]
fn udp(ctx: &TcContext, at: usize) -> Option<Packet> {
    let start = ctx.data() + at;
    if start + IPV4 + UDP + 32 > ctx.data_end() {
        return None;
    }
    // SAFETY: the verifier proves that the bytes are inside the packet. BPF loads need no alignment on the machines that the
    // kernel compiles programs for with efficient unaligned access.
    unsafe {
        if *(start as *const u8) != IPV4_AND_NO_OPTIONS || *((start + 9) as *const u8) != 17 {
            return None;
        }
        Some(Packet {
            addresses: *((start + 12) as *const u64),
            ports: *((start + IPV4) as *const u64),
            payload: *((start + IPV4 + UDP) as *const [u64; 4]),
        })
    }
}

#[inline(always)]
fn count(index: u32) {
    if let Some(count) = COUNTS.get_ptr_mut(index) {
        // SAFETY: the slot belongs to this CPU, and tc programs are not preempted by themselves on one CPU.
        unsafe { *count += 1 };
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
