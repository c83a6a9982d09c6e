//! Reads the kernel's own structures, by addresses as numbers and by offsets that userspace found in the kernel's BTF.
//! An address that leads nowhere makes a read fail, and nothing worse.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use tracer_common::kernel::{KernelLayout, NO_ARGUMENT};

use crate::constant::constant;

/// Set by the loader.
#[unsafe(no_mangle)]
static LAYOUT: KernelLayout = KernelLayout {
    skb_head: 0,
    skb_tail: 0,
    skb_end: 0,
    skb_data_len: 0,
    skb_network_header: 0,
    skb_dev: 0,
    skb_sk: 0,
    skb_refdst: 0,
    shared_gso_size: 0,
    shared_gso_segs: 0,
    device_ifindex: 0,
    device_net: 0,
    route_dev: 0,
    sock_net: 0,
    net_inum: 0,
    reason_argument: 0,
    socket_argument: 0,
    reason_not_dropped: 0,
    reason_consumed: 0,
};

/// Least inode number of a namespace: the kernel numbers its own from `PROC_DYNAMIC_FIRST` (0xf0000000) on, and the
/// first ones, made at boot, a little below.
const LEAST_INODE: u32 = 0xefff_ff00;

/// The arguments of the tracepoint.
#[derive(Clone, Copy)]
pub(crate) struct Arguments(pub(crate) u64);

impl Arguments {
    #[inline(always)]
    pub(crate) fn socket_buffer(self) -> Option<SocketBuffer> {
        read(self.0, 0).map(SocketBuffer)
    }

    /// Address of the code that drops the packet.
    #[inline(always)]
    pub(crate) fn location(self) -> Option<u64> {
        read(self.0, 8)
    }

    #[inline(always)]
    pub(crate) fn reason(self) -> Option<u32> {
        // In the low half of its register, which is the first one in memory or not.
        let reason: u64 = read(self.0, constant(&LAYOUT.reason_argument) * 8)?;
        Some(reason as u32)
    }

    /// Address of the socket that was to receive the packet, where the kernel says it.
    #[inline(always)]
    fn socket(self) -> Option<u64> {
        match constant(&LAYOUT.socket_argument) {
            NO_ARGUMENT => None,
            place => read(self.0, place * 8).filter(|socket| *socket != 0),
        }
    }
}

/// Whether a reason says that the packet was used up, not dropped.
#[inline(always)]
pub(crate) fn is_no_drop(reason: u32) -> bool {
    reason == constant(&LAYOUT.reason_not_dropped) || reason == constant(&LAYOUT.reason_consumed)
}

/// Address of a `struct sk_buff`.
#[derive(Clone, Copy)]
pub(crate) struct SocketBuffer(u64);

/// Where a socket buffer has its packet.
pub(crate) struct Bytes {
    /// Address of the outermost network header.
    pub(crate) start: u64,
    /// Bytes from there to the end of the linear part.
    pub(crate) linear: u32,
    /// Bytes from there to the packet's end, page fragments included.
    pub(crate) length: u32,
}

impl SocketBuffer {
    /// `None` where it cannot be read, or it has no network header.
    #[inline(always)]
    pub(crate) fn bytes(self) -> Option<Bytes> {
        let head = self.head()?;
        let tail: u32 = read(self.0, constant(&LAYOUT.skb_tail))?;
        let fragments: u32 = read(self.0, constant(&LAYOUT.skb_data_len))?;
        let network: u16 = read(self.0, constant(&LAYOUT.skb_network_header))?;
        let network = u32::from(network);
        // Zero: not set yet. Every path that sets it leaves room for headers below.
        if network == 0 || network >= tail {
            return None;
        }
        let linear = tail - network;
        Some(Bytes { start: head + u64::from(network), linear, length: linear.saturating_add(fragments) })
    }

    /// Payload bytes per segment and number of segments.
    #[inline(always)]
    pub(crate) fn gso(self) -> Option<(u16, u16)> {
        let end: u32 = read(self.0, constant(&LAYOUT.skb_end))?;
        let shared = self.head()? + u64::from(end);
        let size = read(shared, constant(&LAYOUT.shared_gso_size))?;
        let segments = read(shared, constant(&LAYOUT.shared_gso_segs))?;
        Some((size, segments))
    }

    /// Inode number of the network namespace, and the ifindex of the device in it or 0.
    ///
    /// A buffer in a socket's hands has no device any more, or something else in its place: what has no plausible
    /// namespace is no device. Then the receiving socket's namespace counts, the buffer's own, that of its route. (Not
    /// before: a buffer keeps its sender's socket on its way through other namespaces. And of a route the namespace
    /// only: its device is not where the packet is.)
    #[inline(always)]
    pub(crate) fn place(self, arguments: Arguments) -> Option<(u32, u32)> {
        if let Some(device) = self.pointer(constant(&LAYOUT.skb_dev))
            && let Some(inode) = device_namespace(device)
        {
            return Some((inode, read(device, constant(&LAYOUT.device_ifindex))?));
        }
        if let Some(inode) = arguments.socket().and_then(socket_namespace) {
            return Some((inode, 0));
        }
        if let Some(inode) = self.pointer(constant(&LAYOUT.skb_sk)).and_then(socket_namespace) {
            return Some((inode, 0));
        }
        const FLAGS: u64 = 0b11;
        let route = self.pointer(constant(&LAYOUT.skb_refdst))? & !FLAGS;
        let device = read(route, constant(&LAYOUT.route_dev))?;
        Some((device_namespace(device)?, 0))
    }

    #[inline(always)]
    fn head(self) -> Option<u64> {
        self.pointer(constant(&LAYOUT.skb_head))
    }

    #[inline(always)]
    fn pointer(self, offset: u32) -> Option<u64> {
        read(self.0, offset).filter(|pointer| *pointer != 0)
    }
}

#[inline(always)]
fn device_namespace(device: u64) -> Option<u32> {
    namespace(device, constant(&LAYOUT.device_net))
}

#[inline(always)]
fn socket_namespace(socket: u64) -> Option<u32> {
    namespace(socket, constant(&LAYOUT.sock_net))
}

/// Inode number of the namespace that a device or socket points to.
#[inline(always)]
fn namespace(of: u64, pointer: u32) -> Option<u32> {
    let net: u64 = read(of, pointer)?;
    read(net, constant(&LAYOUT.net_inum)).filter(|inode| *inode >= LEAST_INODE)
}

#[inline(always)]
fn read<T: Copy>(address: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address itself; T is an integer, valid for any bit pattern.
    unsafe { bpf_probe_read_kernel((address + u64::from(offset)) as *const T) }.ok()
}
