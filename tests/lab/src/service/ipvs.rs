//! kube-proxy's mode ipvs: ClusterIPs on the dummy device `kube-ipvs0`, so that packets to them come to the node's own
//! input, where IPVS takes them; masquerading by iptables and an ipset.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use super::backends;
use super::iptables::{self, Flavour};
use crate::lab::{Node, Pod};
use crate::netlink;
use crate::netns::Netns;
use crate::plan::{Protocol, Service};
use crate::wire::NIC;

const DEVICE: &str = "kube-ipvs0";
/// Its interface index, beyond those of the topologies' devices.
const IFINDEX: u32 = NIC + 10;

/// Pods that reach themselves: destination, port, source.
const SETS: [(&str, &str); 2] = [("KUBE-LOOP-BACK", "inet"), ("KUBE-6-LOOP-BACK", "inet6")];

/// Replaces a node's virtual servers and addresses.
pub(super) fn apply(node: &Node, services: &[Service], pods: &[Pod]) -> Result<()> {
    let netns = node.netns();
    // The addresses are made anew, as the servers are.
    let there = netns.ifindex(DEVICE).is_ok();
    netlink::in_netns(netns, async |link| {
        if there {
            link.delete_link(IFINDEX).await?;
        }
        link.add_dummy(DEVICE, IFINDEX).await?;
        link.set_noarp(IFINDEX).await?;
        for ip in services.iter().flat_map(Service::cluster_ips) {
            link.add_address(IFINDEX, ip, if ip.is_ipv4() { 32 } else { 128 }).await?;
        }
        Ok(())
    })?;
    netns.feed("ipvsadm", &["--clear"], "")?;
    netns.feed("ipvsadm", &["--restore"], &servers(services, pods))?;
    // Answers are translated back by conntrack's view of the flow where iptables has a part in it.
    netns.set_sysctls(&[("net/ipv4/vs/conntrack", "1")])?;
    netns.feed("ipset", &["restore"], &sets(services, pods))?;
    let matches = SETS.map(|(name, _)| format!("-m set --match-set {name} dst,dst,src"));
    iptables::apply_masquerade(node, Flavour::Nft, [&matches[0], &matches[1]])
}

pub(super) fn try_out(netns: &Netns) -> Result<()> {
    netns.feed("ipvsadm", &["--clear"], "")?;
    netns.feed("ipset", &["restore"], "create TRY hash:ip,port,ip\n").context("IPVS mode needs ipset")?;
    iptables::try_flavour(netns, Flavour::Nft)
}

fn servers(services: &[Service], pods: &[Pod]) -> String {
    let mut text = String::new();
    for service in services {
        let backends = backends(service, pods);
        for port in &service.ports {
            let kind = match port.protocol {
                Protocol::Tcp => "-t",
                Protocol::Udp => "-u",
            };
            for (family, ip) in service.cluster_ips().into_iter().enumerate() {
                let server = SocketAddr::new(ip, port.port);
                // Writing to a String cannot fail.
                let _ = writeln!(text, "-A {kind} {server} -s rr");
                for pod in &backends {
                    let target = SocketAddr::new(pod.ips()[family], port.target_port);
                    let _ = writeln!(text, "-a {kind} {server} -r {target} -m -w 1");
                }
            }
        }
    }
    text
}

fn sets(services: &[Service], pods: &[Pod]) -> String {
    let mut text = String::new();
    for (family, (name, kind)) in SETS.into_iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "create {name} hash:ip,port,ip family {kind} -exist\nflush {name}");
        for service in services {
            for pod in backends(service, pods) {
                let ip = pod.ips()[family];
                for port in &service.ports {
                    let port = format!("{}:{}", port.protocol.name(), port.target_port);
                    let _ = writeln!(text, "add {name} {ip},{port},{ip} -exist");
                }
            }
        }
    }
    text
}
