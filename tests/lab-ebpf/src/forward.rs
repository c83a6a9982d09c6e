//! Delivery on this node, encapsulation to the other one, and the memory of what the stack translated.

use aya_ebpf::{
    bindings::{BPF_F_ZERO_CSUM_TX, TC_ACT_REDIRECT, TC_ACT_SHOT},
    helpers::{bpf_redirect, bpf_redirect_peer, bpf_skb_change_type, bpf_skb_set_tunnel_key},
    macros::map,
    maps::{HashMap, LpmTrie, LruHashMap, lpm_trie::Key},
    programs::TcContext,
};
use tracer_lab_ebpf::{
    Endpoint, EndpointKey, FAMILY_IPV4, Flow, IDENTITY_HOST, IPCACHE_STATIC_BITS, IpcacheEntry, IpcacheKey,
};

use crate::packet::{ETHERNET_LEN, Packet};

/// Interface index of cilium_vxlan, set at load.
#[unsafe(no_mangle)]
static TUNNEL_IFINDEX: u32 = 0;

/// Not zero: deliver with `bpf_redirect_peer` where that is possible (BPF host routing). Set at load.
#[unsafe(no_mangle)]
static HOST_ROUTING: u32 = 0;

/// Not zero: pods are on netkit pairs, whose programs do not run at ingress. Set at load.
#[unsafe(no_mangle)]
static PODS_ON_NETKIT: u32 = 0;

#[map(name = "cilium_lxc")]
static ENDPOINTS: HashMap<EndpointKey, Endpoint> = HashMap::with_max_entries(1024, 0);

#[map(name = "cilium_ipcache")]
static IPCACHE: LpmTrie<IpcacheKey, IpcacheEntry> = LpmTrie::with_max_entries(1024, 0);

#[map(name = "lab_stack_flows")]
static STACK_FLOWS: LruHashMap<Flow, u8> = LruHashMap::with_max_entries(65536, 0);

/// The part of `struct bpf_tunnel_key` that kernels before 6.0 know too.
#[repr(C)]
struct TunnelKey {
    id: u32,
    remote: [u32; 4],
    /// The bytes TOS, TTL and two of `tunnel_ext`, as one word: see the crate's note on LLVM.
    tos_ttl_ext: u32,
    label: u32,
}

/// `linux/if_packet.h`
const PACKET_HOST: u32 = 0;

/// Where a packet stands when it is delivered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    FromContainer,
    FromHost,
    FromOverlay,
}

/// Hands the packet to its pod, if that lives on this node.
#[inline(always)]
pub fn deliver(ctx: &TcContext, packet: &Packet, stage: Stage) -> Option<i32> {
    let endpoint = endpoint(packet.family, packet.flow.destination)?;
    if stage != Stage::FromHost {
        // The stack has done it already for what comes from there, and answers what has expired here.
        if packet.ttl <= 1 {
            return None;
        }
        decrement_ttl(ctx, packet)?;
    }
    if ctx.store(0, &endpoint.mac.address, 0).is_err() || ctx.store(6, &endpoint.node_mac.address, 0).is_err()
    {
        return Some(TC_ACT_SHOT);
    }
    // redirect_peer is for ingress hooks only; cilium_host runs at egress, and so does what a pod sends by netkit.
    let at_ingress = match stage {
        Stage::FromContainer => global(&PODS_ON_NETKIT) == 0,
        Stage::FromHost => false,
        Stage::FromOverlay => true,
    };
    let peer = at_ingress && global(&HOST_ROUTING) != 0;
    if peer && stage == Stage::FromOverlay {
        // The tunnel device took the packet for another machine's, by its MAC address; redirect_peer does not look
        // again, and on Linux 5.10 the pod's stack drops it. Cilium does it too.
        // SAFETY: the skb is the program's own.
        let changed = unsafe { bpf_skb_change_type(ctx.skb.skb, PACKET_HOST) };
        if changed != 0 {
            return Some(TC_ACT_SHOT);
        }
    }
    // SAFETY: helpers without pointers; the kernel checks the interface index.
    let action = unsafe {
        if peer { bpf_redirect_peer(endpoint.ifindex, 0) } else { bpf_redirect(endpoint.ifindex, 0) }
    };
    Some(action as i32)
}

/// Sends the packet to the node of its pod, if that is another one.
#[inline(always)]
pub fn encapsulate(ctx: &TcContext, packet: &Packet) -> Option<i32> {
    let address_bits = if packet.family == FAMILY_IPV4 { 32 } else { 128 };
    let key = IpcacheKey { cluster_id: 0, pad: 0, family: packet.family, address: packet.flow.destination };
    let entry = IPCACHE.get(Key::new(IPCACHE_STATIC_BITS + address_bits, key))?;
    if entry.tunnel_endpoint == 0 {
        return None;
    }
    let identity = endpoint(packet.family, packet.flow.source).map_or(IDENTITY_HOST, |source| source.sec_id);

    let mut key = TunnelKey {
        id: identity,
        remote: [u32::from_be(entry.tunnel_endpoint), 0, 0, 0],
        tos_ttl_ext: u32::from_ne_bytes([0, 64, 0, 0]),
        label: 0,
    };
    // SAFETY: the skb is the program's own; the kernel takes the structure's first fields by their length.
    let set = unsafe {
        bpf_skb_set_tunnel_key(
            ctx.skb.skb,
            (&raw mut key).cast(),
            size_of::<TunnelKey>() as u32,
            u64::from(BPF_F_ZERO_CSUM_TX),
        )
    };
    if set != 0 {
        return Some(TC_ACT_SHOT);
    }
    // SAFETY: a helper without pointers; the kernel checks the interface index.
    let action = unsafe { bpf_redirect(global(&TUNNEL_IFINDEX), 0) };
    Some(if action == i64::from(TC_ACT_REDIRECT) { TC_ACT_REDIRECT } else { TC_ACT_SHOT })
}

/// Whether the stack forwarded the flow that this packet answers, and so must see the packet to translate it back.
#[inline(always)]
pub fn is_answer_to_stack(packet: &Packet) -> bool {
    STACK_FLOWS.get_ptr(packet.reverse()).is_some()
}

/// Notes that the stack forwarded this packet's flow.
#[inline(always)]
pub fn remember_stack_flow(packet: &Packet) {
    // An LRU map makes room by itself; a failed insert costs one untranslated answer, which the sender repeats.
    let _ = STACK_FLOWS.insert(packet.flow, 1u8, 0);
    let _ = STACK_FLOWS.insert(packet.pair(), 1u8, 0);
}

/// Notes that the same ports are now used without the stack.
#[inline(always)]
pub fn forget_stack_flow(packet: &Packet) {
    // Mostly there is nothing to remove.
    let _ = STACK_FLOWS.remove(packet.flow);
}

#[inline(always)]
fn endpoint(family: u8, address: [u32; 4]) -> Option<Endpoint> {
    let key = EndpointKey { address, family, key: 0, cluster_id: 0 };
    // SAFETY: entries are changed only while the lab adds or deletes a pod, and the copy is plain integers.
    unsafe { ENDPOINTS.get(key).copied() }
}

#[inline(always)]
fn decrement_ttl(ctx: &TcContext, packet: &Packet) -> Option<()> {
    const IPV4_TTL: usize = ETHERNET_LEN + 8;
    const IPV4_CHECKSUM: usize = ETHERNET_LEN + 10;
    const IPV6_HOP_LIMIT: usize = ETHERNET_LEN + 7;
    if packet.family != FAMILY_IPV4 {
        return ctx.store(IPV6_HOP_LIMIT, &(packet.ttl - 1), 0).ok();
    }
    // TTL and protocol are one 16-bit word of the header's checksum.
    let before: [u8; 2] = ctx.load(IPV4_TTL).ok()?;
    let after = [before[0] - 1, before[1]];
    let word = |bytes| u64::from(u16::from_ne_bytes(bytes));
    ctx.l3_csum_replace(IPV4_CHECKSUM, word(before), word(after), 2).ok()?;
    ctx.store(IPV4_TTL, &after, 0).ok()
}

/// Reads a value that the loader has written into read-only data.
#[inline(always)]
fn global(value: &'static u32) -> u32 {
    // SAFETY: a valid reference. Volatile, because the compiler would otherwise use the value it was built with.
    unsafe { core::ptr::read_volatile(value) }
}
