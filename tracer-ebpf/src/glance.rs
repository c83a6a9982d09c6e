//! What is behind the entries of devices with Ethernet headers: a look at the packet that is short where the packet is plain
//! (`tracer_common::packet::glance`) and nobody asks for it. All others go on in the observing program. A small program of
//! its own, because what is run for each packet should stay in the processor's cache.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::TcContext;
use tracer_common::outcome::Outcome;
use tracer_common::packet::Reader;
use tracer_common::packet::glance::{Glance, Identify};

use crate::reader::reads_by_load;
use crate::scratch::scratch;
use crate::{counters, filter, measure};

/// The observing program, in slot 0.
#[map]
static LONGER: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[classifier]
pub fn tracer_glance(ctx: TcContext) -> i32 {
    if is_nobodys(&ctx) {
        counters::count(Outcome::Filtered);
        return TC_ACT_UNSPEC;
    }
    // SAFETY: nothing here needs to be dropped.
    unsafe { LONGER.tail_call(&ctx, 0) };
    counters::count(Outcome::Internal);
    TC_ACT_UNSPEC
}

/// Whether a glance is enough to tell that no follow wants the packet, and that it is not chosen to be measured.
#[inline(always)]
fn is_nobodys(ctx: &TcContext) -> bool {
    let (Some(config), Some(scratch)) = (filter::config(), scratch()) else { return false };
    // SAFETY: the context points to a live __sk_buff; this field may be read by any tc program.
    let gso_size = unsafe { (*ctx.skb.skb).gso_size as u16 };
    let identify = Identify { is_asked_for: measure::is_asked_for(), gso_size };
    let reader = LinearReader { data: ctx.data(), data_end: ctx.data_end() };
    let Some(glance) = Glance::of(&reader, &config.vxlan_ports, identify) else { return false };
    let follows = filter::wanted_at_a_glance(&glance, config);
    if follows == 0 && (!identify.is_asked_for || glance.fingerprint().is_some_and(measure::passes_by)) {
        return true;
    }
    scratch.headers = glance.headers();
    scratch.follows = follows;
    scratch.hook.is_told = 1;
    false
}

/// Reads what of a socket buffer's bytes is linear, at offsets that the compiler knows.
struct LinearReader {
    data: usize,
    data_end: usize,
}

impl LinearReader {
    #[inline(always)]
    fn load<T: Copy>(&self, offset: u32) -> Option<T> {
        let start = self.data + offset as usize;
        if start + size_of::<T>() > self.data_end {
            return None;
        }
        // SAFETY: the verifier proves that the bytes are inside the packet. BPF loads need no alignment on the machines
        // that the kernel compiles programs for with efficient unaligned access.
        Some(unsafe { *(start as *const T) })
    }
}

impl Reader for LinearReader {
    reads_by_load!();

    /// Linear bytes: as far as this reader sees.
    #[inline(always)]
    fn length(&self) -> u32 {
        (self.data_end - self.data) as u32
    }
}
