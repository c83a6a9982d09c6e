//! What a lab can be: its topology, and how Services and the stand-ins for a CNI's programs are done.

use std::fmt;

use crate::wire::RelayOptions;

/// How the nodes' datapath is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Topology {
    /// Calico's shape: routed veth pairs (`cali*`) and `vxlan.calico`.
    RoutedVxlan,
    /// flannel's shape: bridge `cni0` and `flannel.1`.
    BridgeVxlan,
    /// Stand-ins for Cilium's programs; delivery by `bpf_redirect` to the pod's lxc device.
    CiliumLegacyRouting,
    /// Stand-ins for Cilium's programs; delivery by `bpf_redirect_peer` into the pod.
    CiliumHostRouting,
    /// Calico with IPIP: routed veth pairs and `tunl0`; IPv6, which IPIP cannot carry, goes bare.
    CalicoIpip,
    /// Calico with WireGuard: routed veth pairs, `wireguard.cali` and `wg-v6.cali`.
    CalicoWireguard,
    /// Cilium over Geneve: as [`Topology::CiliumLegacyRouting`], with `cilium_geneve`.
    CiliumGeneve,
    /// Cilium with netkit pairs in place of veth pairs: as [`Topology::CiliumHostRouting`], but the program at the
    /// pod's device is netkit's.
    CiliumNetkit,
}

impl Topology {
    /// Every topology. What a kernel lacks for one of them says [`Topology::lacking`].
    pub const ALL: [Self; 8] = [
        Self::RoutedVxlan,
        Self::BridgeVxlan,
        Self::CiliumLegacyRouting,
        Self::CiliumHostRouting,
        Self::CalicoIpip,
        Self::CalicoWireguard,
        Self::CiliumGeneve,
        Self::CiliumNetkit,
    ];

    /// Those that need veth, bridge and VXLAN only, which every kernel of a cluster has.
    pub const EVERYWHERE: [Self; 4] =
        [Self::RoutedVxlan, Self::BridgeVxlan, Self::CiliumLegacyRouting, Self::CiliumHostRouting];

    /// The name for command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RoutedVxlan => "routed-vxlan",
            Self::BridgeVxlan => "bridge-vxlan",
            Self::CiliumLegacyRouting => "cilium",
            Self::CiliumHostRouting => "cilium-host-routing",
            Self::CalicoIpip => "calico-ipip",
            Self::CalicoWireguard => "calico-wireguard",
            Self::CiliumGeneve => "cilium-geneve",
            Self::CiliumNetkit => "cilium-netkit",
        }
    }

    pub(crate) fn is_calico(self) -> bool {
        matches!(self, Self::RoutedVxlan | Self::CalicoIpip | Self::CalicoWireguard)
    }

    pub(crate) fn is_cilium(self) -> bool {
        matches!(
            self,
            Self::CiliumLegacyRouting | Self::CiliumHostRouting | Self::CiliumGeneve | Self::CiliumNetkit
        )
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Topology {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|topology| topology.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|topology| topology.name()).collect();
            format!("no topology '{text}'; there are {}", names.join(", "))
        })
    }
}

/// How the stand-ins for Cilium's programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandIns {
    /// The tail of the TCX hooks: Cilium from 1.16 on kernels from 6.6.
    Tcx,
    /// Direct-action filters at priority 1, handle 1: Cilium before, and on older kernels.
    Clsact,
}

/// As Cilium chooses: TCX where the kernel has it, which is from Linux 6.6 on.
impl Default for StandIns {
    fn default() -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version >= (6, 6) { Self::Tcx } else { Self::Clsact }
    }
}

/// How Services are done: kube-proxy's modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KubeProxy {
    #[default]
    Nftables,
    /// Mode `iptables` where iptables writes nftables' rules (iptables-nft).
    IptablesNft,
    /// Mode `iptables` with the kernel's own tables (iptables-legacy).
    IptablesLegacy,
    /// IPVS, with the ClusterIPs on `kube-ipvs0`.
    Ipvs,
}

impl KubeProxy {
    /// Every mode. What a kernel lacks for one of them says [`KubeProxy::lacking`].
    pub const ALL: [Self; 4] = [Self::Nftables, Self::IptablesNft, Self::IptablesLegacy, Self::Ipvs];

    /// The name for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
            Self::Ipvs => "ipvs",
        }
    }
}

impl fmt::Display for KubeProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is between the nodes' NICs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Wire {
    /// A veth pair: quick and without fault.
    #[default]
    Veth,
    /// A program that can delay, lose, double and reorder frames; [`crate::Lab::relay`] is it.
    Relay(RelayOptions),
}

/// What can be chosen besides the topology; see [`crate::Lab::build_with`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Topologies without stand-ins are the same with each.
    pub stand_ins: StandIns,
    pub kube_proxy: KubeProxy,
    pub wire: Wire,
}

impl From<Wire> for Options {
    fn from(wire: Wire) -> Self {
        Self { wire, ..Self::default() }
    }
}

impl From<StandIns> for Options {
    fn from(stand_ins: StandIns) -> Self {
        Self { stand_ins, ..Self::default() }
    }
}

impl From<KubeProxy> for Options {
    fn from(kube_proxy: KubeProxy) -> Self {
        Self { kube_proxy, ..Self::default() }
    }
}
