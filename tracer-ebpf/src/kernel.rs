//! Reads the kernel's own structures, by addresses as numbers and by offsets that userspace found in the kernel's BTF.
//! An address that leads nowhere makes a read fail, and nothing worse.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use tracer_common::kernel::KernelLayout;

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
    shared_gso_size: 0,
    shared_gso_segs: 0,
    device_ifindex: 0,
    device_net: 0,
    sock_net: 0,
    net_inum: 0,
    reason_argument: 0,
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

    /// Inode number of the network namespace, and the ifindex of the device in it. In a socket's queues the device's
    /// place in the buffer is used for other things: what has no plausible namespace is no device, and the socket's
    /// namespace counts. (Not before: a buffer keeps its sender's socket on its way through other namespaces.)
    #[inline(always)]
    pub(crate) fn place(self) -> Option<(u32, u32)> {
        if let Some(device) = self.pointer(constant(&LAYOUT.skb_dev))
            && let Some(inode) = namespace(device, constant(&LAYOUT.device_net))
        {
            return Some((inode, read(device, constant(&LAYOUT.device_ifindex))?));
        }
        let socket = self.pointer(constant(&LAYOUT.skb_sk))?;
        Some((namespace(socket, constant(&LAYOUT.sock_net))?, 0))
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
