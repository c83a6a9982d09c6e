//! What the kernel (or the machine) lacks for a topology or for one of kube-proxy's modes: found by trying it in a
//! namespace that is thrown away, not by the kernel's version.

use anyhow::Result;

use crate::netlink;
use crate::netns::{self, Netns};
use crate::options::{KubeProxy, Topology};
use crate::plan::Mac;
use crate::service;

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ipip,
    Geneve,
    Wireguard,
    Netkit,
}

impl Topology {
    /// What this kernel lacks for the topology, as a sentence; `None` if it can be built.
    ///
    /// # Errors
    /// When nothing can be tried: without root.
    pub fn lacking(self) -> Result<Option<String>> {
        let kind = match self {
            Self::RoutedVxlan | Self::BridgeVxlan | Self::CiliumLegacyRouting | Self::CiliumHostRouting => {
                return Ok(None);
            }
            Self::CalicoIpip => Kind::Ipip,
            Self::CalicoWireguard => Kind::Wireguard,
            Self::CiliumGeneve => Kind::Geneve,
            Self::CiliumNetkit => Kind::Netkit,
        };
        let error = kind.try_out(&scratch()?).err();
        Ok(error.map(|error| format!("this kernel has no {}: {}", kind.describe(), error.root_cause())))
    }
}

impl KubeProxy {
    /// What this machine lacks for the mode, as a sentence; `None` if Services can be done so.
    ///
    /// # Errors
    /// When nothing can be tried: without root.
    pub fn lacking(self) -> Result<Option<String>> {
        // What every lab is built with speaks for itself when it fails.
        if self == Self::Nftables {
            return Ok(None);
        }
        let error = service::try_mode(self, &scratch()?).err();
        Ok(error.map(|error| format!("this machine has no {}: {error:#}", self.describe())))
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Nftables => "nftables (package nftables)",
            Self::IptablesNft => "iptables over nftables (module nft_compat, package iptables)",
            Self::IptablesLegacy => {
                "legacy iptables (modules iptable_nat and ip6table_nat, package iptables)"
            }
            Self::Ipvs => {
                "IPVS with ipset (modules ip_vs_rr, ip_set_hash_ipportip and xt_set, packages ipvsadm, ipset)"
            }
        }
    }
}

impl Kind {
    fn describe(self) -> &'static str {
        match self {
            Self::Ipip => "IPIP devices (CONFIG_NET_IPIP, module ipip)",
            Self::Geneve => "Geneve devices (CONFIG_GENEVE, module geneve)",
            Self::Wireguard => "WireGuard devices (CONFIG_WIREGUARD, module wireguard)",
            Self::Netkit => "netkit pairs (CONFIG_NETKIT, Linux 6.7 or later)",
        }
    }

    fn try_out(self, netns: &Netns) -> Result<()> {
        const NAME: &str = "try0";
        const IFINDEX: u32 = 100;
        const MTU: u32 = 1400;
        let end = |name, ifindex| netlink::End {
            netns,
            name,
            ifindex,
            mac: Mac([0; 6]),
            mtu: MTU,
            gso_max_segs: None,
        };
        // With its module, which refuses another device for any peer.
        if self == Self::Ipip && netns.ifindex("tunl0").is_ok() {
            return Ok(());
        }
        netlink::in_netns(netns, async |link| match self {
            Self::Ipip => link.add_ipip(NAME, IFINDEX).await,
            Self::Geneve => link.add_geneve(NAME, IFINDEX, Mac([2; 6]), MTU, 6081).await,
            Self::Wireguard => link.add_wireguard(NAME, IFINDEX, MTU).await,
            Self::Netkit => link.add_netkit(&end(NAME, IFINDEX), &end("try1", IFINDEX + 1)).await,
        })
    }
}

/// A namespace that goes at the end of the try.
fn scratch() -> Result<Netns> {
    Netns::create(&format!("{}-try", netns::unique_prefix()))
}
