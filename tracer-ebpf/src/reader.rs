//! Reads a socket buffer without changing it: directly where its bytes are linear, by `bpf_skb_load_bytes` where
//! they are in page fragments (which `bpf_skb_pull_data` would move).

use core::arch::asm;
use core::mem::MaybeUninit;

use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::{bpf_skb_load_bytes, bpf_skb_load_bytes_relative};
use aya_ebpf::programs::TcContext;
use tracer_common::packet::{MAX_OFFSET, Reader};

use crate::constant::constant;

/// The reads of a [`Reader`] by its own `load`, which gives the value at an offset as its bytes lie.
macro_rules! reads_by_load {
    () => {
        #[inline(always)]
        fn u8(&self, offset: u32) -> Option<u8> {
            self.load(offset)
        }

        #[inline(always)]
        fn u16(&self, offset: u32) -> Option<u16> {
            self.load(offset).map(u16::from_be)
        }

        #[inline(always)]
        fn u32(&self, offset: u32) -> Option<u32> {
            self.load(offset).map(u32::from_be)
        }

        #[inline(always)]
        fn word(&self, offset: u32) -> Option<u64> {
            self.load(offset).map(u64::from_le)
        }

        #[inline(always)]
        fn words(&self, offset: u32) -> Option<[u64; 2]> {
            self.load::<[u64; 2]>(offset).map(|words| words.map(u64::from_le))
        }
    };
}
pub(crate) use reads_by_load;

pub(crate) struct SkbReader<'a> {
    ctx: &'a TcContext,
    data: usize,
    data_end: usize,
}

impl<'a> SkbReader<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a TcContext) -> Self {
        Self { ctx, data: ctx.data(), data_end: ctx.data_end() }
    }

    /// Whether the packet begins with its network header, as it should on a device without link headers. Before Linux
    /// 5.14 what an IPIP or SIT device has received begins at the ingress hook with what was taken off: the outer link
    /// and IP headers (ipip.c and sit.c did not reset `mac_header`).
    #[inline(always)]
    pub(crate) fn begins_with_network_header(&self) -> bool {
        let mut network = MaybeUninit::<[u64; 2]>::uninit();
        // SAFETY: the context is the program's own and the buffer has the size that is given.
        let failed = unsafe {
            bpf_skb_load_bytes_relative(
                self.ctx.skb.skb.cast(),
                0,
                network.as_mut_ptr().cast(),
                size_of::<[u64; 2]>() as u32,
                BPF_HDR_START_NET,
            )
        };
        if failed != 0 {
            return true;
        }
        // SAFETY: the helper has written all bytes.
        let network = unsafe { network.assume_init() };
        // The first 16 bytes of an IP packet hold its length, id or flow label, and addresses.
        self.load(0) == Some(network[0]) && self.load(8) == Some(network[1])
    }

    /// Whether the packet seems to begin with an Ethernet header in front of IP; a GRE device's begins with the outer IP
    /// header.
    #[inline(always)]
    pub(crate) fn begins_with_ethernet(&self) -> bool {
        const IPV4: u16 = 0x0800;
        const IPV6: u16 = 0x86dd;
        const VLAN: u16 = 0x8100;
        const QINQ: u16 = 0x88a8;
        matches!(self.u16(12), Some(IPV4 | IPV6 | VLAN | QINQ))
    }

    /// The value at `offset`, bytes as they lie.
    #[inline(always)]
    fn load<T: Copy>(&self, offset: u32) -> Option<T> {
        if offset > MAX_OFFSET {
            return None;
        }
        let start = address(self.data, offset as usize);
        if start + size_of::<T>() <= self.data_end {
            // SAFETY: the verifier proves that the bytes are inside the packet. BPF loads need no alignment on
            // the machines that the kernel compiles programs for with efficient unaligned access.
            return Some(unsafe { *(start as *const T) });
        }
        self.load_from_fragments(offset)
    }

    #[inline(always)]
    fn load_from_fragments<T: Copy>(&self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the context is the program's own and the buffer has the size that is given.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.ctx.skb.skb.cast(),
                offset,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            )
        };
        // SAFETY: the helper has written all bytes if it did not fail, and T is made of integers.
        if failed == 0 { Some(unsafe { value.assume_init() }) } else { None }
    }
}

impl Reader for SkbReader<'_> {
    reads_by_load!();

    #[inline(always)]
    fn length(&self) -> u32 {
        self.ctx.len()
    }

    /// verifier: what lives between two steps goes through memory, see `tracer_common::packet::Headers`.
    #[inline(always)]
    fn step(&self) {
        let mut length = self.data_end;
        // SAFETY: moves a register to itself; without `nomem` the compiler must assume that memory changed.
        // (An instruction, because an empty asm gets two line-info entries at one place: the kernel refuses that.)
        unsafe { asm!("{0} = {0}", inout(reg) length, options(nostack, preserves_flags)) };
        let _ = length;
    }

    #[inline(always)]
    fn again(&self, value: &u32) -> u32 {
        constant(value)
    }
}

/// verifier: the address of a byte as the verifier likes it. The AND gives it the offset's bound right where it
/// is used, whatever it forgot on the way here; and the compiler, which cannot look into the asm, will not compute
/// the address twice, once for the bounds check and once for the load: the verifier would not see that both are
/// the same. Callers have checked that `offset` is not over `MAX_OFFSET`.
#[inline(always)]
pub(crate) fn address(data: usize, offset: usize) -> usize {
    let mut address = offset;
    // SAFETY: an AND and an ADD on a register.
    unsafe {
        asm!(
            "{0} &= {1}",
            "{0} += {2}",
            inout(reg) address,
            const MAX_OFFSET,
            in(reg) data,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    address
}
