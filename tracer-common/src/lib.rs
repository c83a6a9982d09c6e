//! What the eBPF programs and userspace share, and the only owner of every layout both read.
//!
//! | module | holds |
//! |---|---|
//! | [`record`] | the hop record: what one observation point reports of one packet; and the drop record |
//! | [`packet`] | the parser: from bytes to header offsets, through VLANs and tunnels |
//! | [`fingerprint`] | the 64-bit hash of what a packet keeps on its way |
//! | [`filter`] | which packets a follow wants |
//! | [`outcome`] | what became of each packet at a point, one counter each |
//! | [`measure`] | leg latencies that the kernel measures of chosen packets |
//! | [`kernel`] | where the running kernel keeps what the program on drops reads |
//!
//! Rules for everything in a map or in the ring buffer: `repr(C)`, no padding, no `bool`, no enum, no
//! `Option`; integers in native byte order, addresses and ports as big-endian byte arrays; decoded by copy.
#![cfg_attr(not(test), no_std)]

pub mod filter;
pub mod fingerprint;
pub mod kernel;
pub mod measure;
pub mod outcome;
pub mod packet;
pub mod record;

/// Changes whenever a layout or the meaning of a field in this crate changes. The eBPF object is part of the
/// binary and cannot differ from it; agents and clients of different builds compare theirs.
pub const ABI_VERSION: u32 = 7;

/// Number of follows that can be armed at the same time: one bit each in the masks of [`filter`].
pub const MAX_FOLLOWS: usize = 64;
