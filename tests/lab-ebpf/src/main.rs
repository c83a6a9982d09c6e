//! Stand-ins for Cilium's datapath with VXLAN, written for the lab: entry points and what each decides.
//!
//! | program | at | decides |
//! |---|---|---|
//! | `cil_from_container` | ingress of a pod's lxc device | same node: deliver; other node: into the tunnel; else the stack |
//! | `cil_from_host` | egress of cilium_host | as above, for what the node's stack forwards or sends |
//! | `cil_from_overlay` | ingress of cilium_vxlan | deliver; replies of translated flows: the stack |
//!
//! Services are translated by the node's netfilter (kube-proxy), so a flow that went through the stack must come
//! back through it: `cil_from_host` remembers such flows and the others obey.
#![no_std]
#![no_main]

mod forward;
mod packet;

use aya_ebpf::{
    bindings::TC_ACT_OK,
    macros::{classifier, map},
    maps::PerCpuArray,
    programs::TcContext,
};
use tracer_lab_ebpf::{RUNS_FROM_CONTAINER, RUNS_FROM_HOST, RUNS_FROM_OVERLAY, RUNS_LEN};

use crate::{
    forward::{Stage, deliver, encapsulate, forget_stack_flow, is_answer_to_stack, remember_stack_flow},
    packet::Packet,
};

/// Packets that each program saw, so that a test can show that it still runs.
#[map(name = "lab_runs")]
static RUNS: PerCpuArray<u64> = PerCpuArray::with_max_entries(RUNS_LEN, 0);

#[classifier]
pub fn cil_from_container(ctx: TcContext) -> i32 {
    count(RUNS_FROM_CONTAINER);
    try_from_container(&ctx).unwrap_or(TC_ACT_OK)
}

#[classifier]
pub fn cil_from_host(ctx: TcContext) -> i32 {
    count(RUNS_FROM_HOST);
    try_from_host(&ctx).unwrap_or(TC_ACT_OK)
}

#[classifier]
pub fn cil_from_overlay(ctx: TcContext) -> i32 {
    count(RUNS_FROM_OVERLAY);
    try_from_overlay(&ctx).unwrap_or(TC_ACT_OK)
}

/// `None` means that the stack decides, as for ARP, neighbour discovery and Service addresses.
fn try_from_container(ctx: &TcContext) -> Option<i32> {
    let packet = Packet::parse(ctx)?;
    if is_answer_to_stack(&packet) {
        return None;
    }
    let action = deliver(ctx, &packet, Stage::FromContainer).or_else(|| encapsulate(ctx, &packet))?;
    forget_stack_flow(&packet);
    Some(action)
}

fn try_from_host(ctx: &TcContext) -> Option<i32> {
    let packet = Packet::parse(ctx)?;
    let action = deliver(ctx, &packet, Stage::FromHost).or_else(|| encapsulate(ctx, &packet))?;
    remember_stack_flow(&packet);
    Some(action)
}

fn try_from_overlay(ctx: &TcContext) -> Option<i32> {
    // The inner frame carries another node's MAC addresses; the stack takes only what is for the host.
    const PACKET_HOST: u32 = 0;
    let packet = Packet::parse(ctx)?;
    if !is_answer_to_stack(&packet)
        && let Some(action) = deliver(ctx, &packet, Stage::FromOverlay)
    {
        return Some(action);
    }
    ctx.change_type(PACKET_HOST).ok()?;
    None
}

fn count(index: u32) {
    if let Some(runs) = RUNS.get_ptr_mut(index) {
        // SAFETY: the slot belongs to this CPU, and tc programs are not preempted by themselves on one CPU.
        unsafe { *runs += 1 };
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
