//! What is behind the entries of devices with Ethernet headers: a look at the packet that is short where the packet is
//! plain (`tracer_common::packet::glance`), and a record of it where somebody asks for it. All others go on in the
//! observing program. A small program of its own, because what is run for each packet should stay in the processor's cache.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use tracer_common::outcome::Outcome;
use tracer_common::packet::Reader;
use tracer_common::packet::glance::{Glance, Identify};

use crate::reader::{address, reads_by_load};
use crate::scratch::scratch;
use crate::{capture, counters, filter, measure, records};

/// The observing program, in slot 0.
#[map]
static LONGER: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[classifier]
#[inline(always)]
pub fn tracer_glance(ctx: TcContext) -> i32 {
    if let Some(outcome) = glance(&ctx) {
        counters::count(outcome);
        return TC_ACT_UNSPEC;
    }
    // SAFETY: nothing here needs to be dropped.
    unsafe { LONGER.tail_call(&ctx, 0) };
    counters::count(Outcome::Internal);
    TC_ACT_UNSPEC
}

/// What became of a packet for which a glance was enough.
#[inline(always)]
fn glance(ctx: &TcContext) -> Option<Outcome> {
    let (config, scratch) = (filter::config()?, scratch()?);
    // SAFETY: the context points to a live __sk_buff; this field may be read by any tc program.
    let gso_size = unsafe { (*ctx.skb.skb).gso_size as u16 };
    let identify = Identify { is_asked_for: measure::is_asked_for(), gso_size };
    let reader = LinearReader { data: ctx.data(), data_end: ctx.data_end() };
    let glance = Glance::of(&reader, &config.vxlan_ports, identify)?;
    let follows = filter::wanted_at_a_glance(&glance, config);
    let is_captured = follows != 0 && capture::is_wanted(config, follows);
    // Who passes by is counted, so this is the last question. (Where there is a fingerprint there is a record, too: nobody is
    // counted again behind this program.)
    if !is_captured && (!identify.is_asked_for || glance.fingerprint().is_some_and(measure::passes_by)) {
        if follows == 0 {
            return Some(Outcome::Filtered);
        }
        debug!(ctx, "wanted at a glance: protocol {}, follows {:x}", glance.protocol(), follows);
        let written = records::write_at_a_glance(ctx, &Anywhere(&reader), &glance, scratch.hook, follows);
        if written.is_some() {
            return written;
        }
    }
    scratch.headers = glance.headers();
    scratch.follows = follows;
    scratch.hook.is_told = 1;
    None
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

/// The same at offsets that it does not know.
struct Anywhere<'a>(&'a LinearReader);

impl Anywhere<'_> {
    /// `offset` is not over [`MAX_OFFSET`](tracer_common::packet::MAX_OFFSET): a glance goes no further than some headers.
    #[inline(always)]
    fn load<T: Copy>(&self, offset: u32) -> Option<T> {
        let start = address(self.0.data, offset as usize);
        if start + size_of::<T>() > self.0.data_end {
            return None;
        }
        // SAFETY: as above.
        Some(unsafe { *(start as *const T) })
    }
}

impl Reader for Anywhere<'_> {
    reads_by_load!();

    #[inline(always)]
    fn length(&self) -> u32 {
        self.0.length()
    }
}
