//! Where the running kernel keeps what the program on drops reads. All of it moves from kernel to kernel: userspace
//! finds it in the kernel's BTF and sets it before the program is loaded.

/// Offsets in bytes from the beginning of the named structure, and numbers of enumerators.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelLayout {
    /// `struct sk_buff`: start of the buffer (a pointer).
    pub skb_head: u32,
    /// End of the linear part's bytes, from `head` on (32 bits).
    pub skb_tail: u32,
    /// End of the buffer, where `struct skb_shared_info` begins, from `head` on (32 bits).
    pub skb_end: u32,
    /// Bytes that are not in the linear part (32 bits).
    pub skb_data_len: u32,
    /// The network header, from `head` on (16 bits).
    pub skb_network_header: u32,
    /// The packet's device (a pointer).
    pub skb_dev: u32,
    /// The packet's socket (a pointer).
    pub skb_sk: u32,
    /// The packet's route, with flags in its lowest bits (a pointer).
    pub skb_refdst: u32,
    /// `struct skb_shared_info`: payload bytes per segment (16 bits).
    pub shared_gso_size: u32,
    /// Number of segments (16 bits).
    pub shared_gso_segs: u32,
    /// `struct net_device` (32 bits).
    pub device_ifindex: u32,
    /// The network namespace of the device (a pointer).
    pub device_net: u32,
    /// `struct dst_entry`, a route: its device (a pointer).
    pub route_dev: u32,
    /// `struct sock`: the network namespace of the socket (a pointer).
    pub sock_net: u32,
    /// `struct net`: inode number of the namespace (32 bits).
    pub net_inum: u32,
    /// Which argument of the tracepoint is the reason, from 0.
    pub reason_argument: u32,
    /// Which argument is the receiving socket, from 0; [`NO_ARGUMENT`] before Linux 6.11.
    pub socket_argument: u32,
    /// Reasons that are no drops; a number that no reason has where the kernel has none.
    pub reason_not_dropped: u32,
    pub reason_consumed: u32,
}

/// The tracepoint has no such argument.
pub const NO_ARGUMENT: u32 = u32::MAX;

/// A number that no reason has.
pub const NO_REASON: u32 = u32::MAX;

#[cfg(feature = "user")]
mod user {
    use super::KernelLayout;

    // SAFETY: repr(C), no padding (u32 only), any bit pattern valid.
    unsafe impl aya::Pod for KernelLayout {}
}
