//! One counter per outcome at the hooks and CPU.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use tracer_common::outcome::{OUTCOME_COUNT, Outcome};

#[map]
static OUTCOMES: PerCpuArray<u64> = PerCpuArray::with_max_entries(OUTCOME_COUNT as u32, 0);

#[inline(always)]
pub(crate) fn count(outcome: Outcome) {
    if let Some(counter) = OUTCOMES.get_ptr_mut(outcome as u32) {
        // SAFETY: the pointer is to this CPU's live map value; tc programs do not interrupt each other.
        unsafe { *counter += 1 };
    }
}
