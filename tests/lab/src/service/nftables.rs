//! kube-proxy's mode nftables: DNAT in a chain for each pod, chosen at random.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::{MASQUERADE, backends};
use crate::lab::{Node, Pod};
use crate::plan::{Service, ServicePort};

/// Replaces a node's rules in one transaction.
pub(super) fn apply(node: &Node, services: &[Service], pods: &[Pod]) -> Result<()> {
    node.netns().feed("nft", &["-f", "-"], &rules(services, pods))
}

fn rules(services: &[Service], pods: &[Pod]) -> String {
    let mut chains = String::new();
    let mut dispatch = String::new();
    for service in services {
        let backends = backends(service, pods);
        for port in &service.ports {
            for (family, cluster_ip) in ["ip", "ip6"].into_iter().zip(service.cluster_ips()) {
                let chain = format!("{}-{}-{}-{family}", service.namespace, service.name, port.name);
                add_port(&mut dispatch, &mut chains, &chain, family, cluster_ip, port, &backends);
            }
        }
    }
    format!(
        "table inet kube-proxy {{}}\ndelete table inet kube-proxy\ntable inet kube-proxy {{\n{chains}\
         chain services {{\n{dispatch}}}\n\
         chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}\n\
         chain output {{ type nat hook output priority -100; jump services; }}\n\
         chain postrouting {{ type nat hook postrouting priority srcnat; \
         meta mark & {MASQUERADE:#x} == {MASQUERADE:#x} masquerade; }}\n}}\n"
    )
}

/// A chain for each pod of the port, one that chooses between them, and the rule that leads there.
fn add_port(
    dispatch: &mut String,
    chains: &mut String,
    chain: &str,
    family: &str,
    cluster_ip: IpAddr,
    port: &ServicePort,
    backends: &[&Pod],
) {
    let protocol = port.protocol.name();
    let mut choices = Vec::new();
    for (number, pod) in backends.iter().enumerate() {
        let ip = pod.ips()[usize::from(cluster_ip.is_ipv6())];
        let target = SocketAddr::new(ip, port.target_port);
        // Writing to a String cannot fail.
        let _ = writeln!(
            chains,
            "chain {chain}-{number} {{ {family} saddr {ip} meta mark set meta mark | {MASQUERADE:#x}; \
             meta l4proto {protocol} dnat {family} to {target}; }}"
        );
        choices.push(format!("{number} : goto {chain}-{number}"));
    }
    let verdict = match choices.len() {
        0 => return,
        1 => format!("goto {chain}-0"),
        count => format!("numgen random mod {count} vmap {{ {} }}", choices.join(", ")),
    };
    let _ = writeln!(dispatch, "{family} daddr {cluster_ip} {protocol} dport {} {verdict};", port.port);
}
