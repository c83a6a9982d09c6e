//! Map layouts that the stand-in programs and the lab share.
//!
//! `cilium_lxc` and `cilium_ipcache` have the sizes and offsets of Cilium 1.17, so that a tool which decodes
//! Cilium's maps can be tried on them. Integers are native-endian, addresses and ports in network order; an IPv4
//! address is the first of the four words, the rest is zero. Addresses are words and not bytes because LLVM copies
//! and clears unaligned structures by calls that BPF does not have.
#![no_std]

/// `family` of an IPv4 address in the maps' keys.
pub const FAMILY_IPV4: u8 = 1;
/// `family` of an IPv6 address in the maps' keys.
pub const FAMILY_IPV6: u8 = 2;

/// Cilium's reserved identity of the node itself.
pub const IDENTITY_HOST: u32 = 1;
/// Cilium's reserved identity of other nodes.
pub const IDENTITY_REMOTE_NODE: u32 = 6;

/// Key of `cilium_lxc`: the address of an endpoint on this node.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct EndpointKey {
    pub address: [u32; 4],
    pub family: u8,
    pub key: u8,
    pub cluster_id: u16,
}

/// Value of `cilium_lxc`: where an endpoint of this node is attached.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Endpoint {
    /// Interface index of the host side of the pod's veth pair.
    pub ifindex: u32,
    pub unused: u16,
    pub lxc_id: u16,
    pub flags: u32,
    pub pad: u32,
    /// The pod's own MAC address.
    pub mac: Mac,
    /// The MAC address of the host side.
    pub node_mac: Mac,
    /// The endpoint's security identity.
    pub sec_id: u32,
    pub parent_ifindex: u32,
    pub pad2: u64,
}

/// Key of `cilium_ipcache` after the trie's prefix length. Prefixes cover `IPCACHE_STATIC_BITS` plus the address.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct IpcacheKey {
    pub cluster_id: u16,
    pub pad: u8,
    pub family: u8,
    pub address: [u32; 4],
}

/// Prefix bits of `IpcacheKey` before the address.
pub const IPCACHE_STATIC_BITS: u32 = 32;

/// Value of `cilium_ipcache`: who an address is and behind which node.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct IpcacheEntry {
    pub sec_identity: u32,
    /// IPv4 address of the node to encapsulate to; zero for addresses of this node.
    pub tunnel_endpoint: u32,
    pub node_id: u16,
    pub key: u8,
    pub flags: u8,
}

/// A MAC address in a field of eight bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Mac {
    pub address: [u8; 6],
    pub pad: u16,
}

/// Key of `lab_stack_flows`: one direction of a flow that the node's own stack forwarded.
///
/// With ports and protocol zero it stands for everything between two addresses that carries no ports of its own:
/// fragments and ICMP errors.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flow {
    pub source: [u32; 4],
    pub destination: [u32; 4],
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u32,
}

/// Index in `lab_runs` of the stand-ins, in the order of the datapath.
pub const RUNS_FROM_CONTAINER: u32 = 0;
pub const RUNS_FROM_HOST: u32 = 1;
pub const RUNS_FROM_OVERLAY: u32 = 2;
/// How many counters `lab_runs` has.
pub const RUNS_LEN: u32 = 3;

const _: () = {
    assert!(size_of::<EndpointKey>() == 20);
    assert!(size_of::<Endpoint>() == 48);
    assert!(size_of::<IpcacheKey>() == 20);
    assert!(size_of::<IpcacheEntry>() == 12);
    assert!(size_of::<Flow>() == 40);
};
