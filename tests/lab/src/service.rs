//! Services as kube-proxy does them, in each of its modes: DNAT of a ClusterIP and port to one of the Service's pods,
//! and masquerading for a pod that reaches itself.

mod iptables;
mod ipvs;
mod nftables;

use anyhow::{Context as _, Result};

use crate::lab::{Node, Pod};
use crate::netns::Netns;
use crate::options::KubeProxy;
use crate::plan::Service;

/// kube-proxy's mark for packets that must be masqueraded.
const MASQUERADE: u32 = 0x4000;

/// Replaces what a node has for Services.
pub(crate) fn apply(mode: KubeProxy, node: &Node, services: &[Service], pods: &[Pod]) -> Result<()> {
    match mode {
        KubeProxy::Nftables => nftables::apply(node, services, pods),
        KubeProxy::IptablesNft => iptables::apply(node, iptables::Flavour::Nft, services, pods),
        KubeProxy::IptablesLegacy => iptables::apply(node, iptables::Flavour::Legacy, services, pods),
        KubeProxy::Ipvs => ipvs::apply(node, services, pods),
    }
    .with_context(|| format!("cannot program the Services of {} in kube-proxy's mode {mode}", node.name()))
}

/// Tries whether kernel and tools can do a mode.
pub(crate) fn try_mode(mode: KubeProxy, netns: &Netns) -> Result<()> {
    match mode {
        KubeProxy::Nftables => netns.feed(
            "nft",
            &["-f", "-"],
            "table inet try { chain c { type nat hook output priority 0; } }\n",
        ),
        KubeProxy::IptablesNft => iptables::try_flavour(netns, iptables::Flavour::Nft),
        KubeProxy::IptablesLegacy => iptables::try_flavour(netns, iptables::Flavour::Legacy),
        KubeProxy::Ipvs => ipvs::try_out(netns),
    }
}

/// The pods behind a Service that exist.
fn backends<'a>(service: &Service, pods: &'a [Pod]) -> Vec<&'a Pod> {
    let find = |(namespace, name): &(String, String)| {
        pods.iter().find(|pod| pod.namespace() == namespace && pod.name() == name)
    };
    service.endpoints.iter().filter_map(find).collect()
}
