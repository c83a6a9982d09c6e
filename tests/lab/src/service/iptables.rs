//! kube-proxy's mode iptables: chains `KUBE-SERVICES`, `KUBE-SVC-*` for each port and `KUBE-SEP-*` for each pod.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::{MASQUERADE, backends};
use crate::lab::{Node, Pod};
use crate::netns::Netns;
use crate::plan::{Service, hash};

/// Which tables the rules end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// nftables'.
    Nft,
    /// The kernel's own for iptables.
    Legacy,
}

impl Flavour {
    /// The tools that read rules, for IPv4 and IPv6.
    fn tools(self) -> [&'static str; 2] {
        match self {
            Self::Nft => ["iptables-nft-restore", "ip6tables-nft-restore"],
            Self::Legacy => ["iptables-legacy-restore", "ip6tables-legacy-restore"],
        }
    }
}

/// Replaces a node's table `nat`.
pub(super) fn apply(node: &Node, flavour: Flavour, services: &[Service], pods: &[Pod]) -> Result<()> {
    for (family, tool) in flavour.tools().into_iter().enumerate() {
        node.netns().feed(tool, &[], &rules(family, services, pods))?;
    }
    Ok(())
}

/// Replaces a node's table `nat` by rules that only masquerade, each behind `matches`.
pub(super) fn apply_masquerade(node: &Node, flavour: Flavour, matches: [&str; 2]) -> Result<()> {
    for (tool, matches) in flavour.tools().into_iter().zip(matches) {
        let rules = format!(
            "*nat\n:KUBE-POSTROUTING - [0:0]\n-A POSTROUTING -j KUBE-POSTROUTING\n\
             -A KUBE-POSTROUTING {matches} -j MASQUERADE\nCOMMIT\n"
        );
        node.netns().feed(tool, &[], &rules)?;
    }
    Ok(())
}

pub(super) fn try_flavour(netns: &Netns, flavour: Flavour) -> Result<()> {
    let rule = "*nat\n-A OUTPUT -j MARK --or-mark 0x0\nCOMMIT\n";
    flavour.tools().into_iter().try_for_each(|tool| netns.feed(tool, &["--test"], rule))
}

/// Of one address family: 0 is IPv4, 1 is IPv6.
fn rules(family: usize, services: &[Service], pods: &[Pod]) -> String {
    let mut chains = String::new();
    let mut rules = String::new();
    for service in services {
        let backends = backends(service, pods);
        let cluster_ip = service.cluster_ips()[family];
        for port in service.ports.iter().filter(|_| !backends.is_empty()) {
            let protocol = port.protocol.name();
            let by_port = chain("KUBE-SVC", &[&service.namespace, &service.name, port.name]);
            // Writing to a String cannot fail.
            let _ = writeln!(chains, ":{by_port} - [0:0]");
            let _ = writeln!(
                rules,
                "-A KUBE-SERVICES -d {} -p {protocol} -m {protocol} --dport {} -j {by_port}",
                host(cluster_ip),
                port.port
            );
            for (number, pod) in backends.iter().enumerate() {
                let ip = pod.ips()[family];
                let by_pod = chain("KUBE-SEP", &[&by_port, &ip.to_string()]);
                let _ = writeln!(chains, ":{by_pod} - [0:0]");
                let left = backends.len() - number;
                let chance = match left {
                    1 => String::new(),
                    _ => format!("-m statistic --mode random --probability {:.6} ", 1.0 / left as f64),
                };
                let _ = writeln!(
                    rules,
                    "-A {by_port} {chance}-j {by_pod}\n\
                     -A {by_pod} -s {} -j KUBE-MARK-MASQ\n\
                     -A {by_pod} -p {protocol} -m {protocol} -j DNAT --to-destination {}",
                    host(ip),
                    SocketAddr::new(ip, port.target_port)
                );
            }
        }
    }
    format!(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n{chains}\
         -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark {MASQUERADE:#x}\n\
         -A KUBE-POSTROUTING -m mark ! --mark {MASQUERADE:#x}/{MASQUERADE:#x} -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark {MASQUERADE:#x}\n\
         -A KUBE-POSTROUTING -j MASQUERADE\n{rules}COMMIT\n"
    )
}

/// A chain's name has 28 characters at most.
fn chain(kind: &str, parts: &[&str]) -> String {
    format!("{kind}-{:016X}", hash(parts))
}

fn host(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}
