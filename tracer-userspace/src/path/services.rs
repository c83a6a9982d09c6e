//! Who translates a Service on a node, by what is there: pure, but for the CNI's maps.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use super::cni::{Cni, MOST_BACKENDS};
use super::facts::{Question, Translation};
use crate::host::settings::Translators;

/// kube-proxy's table in nftables mode, and its first chain in both iptables modes.
const NFT_TABLE: &str = "kube-proxy";
const IPTABLES_CHAIN: &str = "KUBE-SERVICES";

/// All who would, first who comes first to the packet.
pub(super) fn translations(question: &Question, found: &Translators, cni: &Cni) -> Vec<Translation> {
    let mut all = Vec::new();
    if let (IpAddr::V4(address), Some((port, protocol))) = (question.addressed, question.port) {
        let service = SocketAddrV4::new(address, port);
        let mut by_map = |by: &str, map: &str, backends: Option<Vec<SocketAddr>>| {
            if let Some(backends) = backends {
                all.push(Translation {
                    by: by.to_owned(),
                    evidence: format!("{map} has {service}"),
                    tells_backends: backends.len() < usize::from(MOST_BACKENDS),
                    backends,
                });
            }
        };
        by_map("Cilium", "cilium_lb4_services_v2", cni.cilium_service(service, protocol));
        by_map("Calico eBPF", "cali_v4_nat_fe3", cni.calico_service(service, protocol, question.own));
    }
    all.extend(by_rules(found));
    all.extend(by_ipvs(question, found));
    // What is in it is not read, and with IPVS kube-proxy only masquerades there.
    if all.is_empty() && found.iptables.contains("nat") {
        all.push(by_others_rules("iptables", "table nat (iptables-legacy)".to_owned()));
    }
    all
}

/// Somebody whose rules are not read: which endpoints they lead to the EndpointSlices say.
fn by_others_rules(by: &str, evidence: String) -> Translation {
    Translation { by: by.to_owned(), evidence, backends: Vec::new(), tells_backends: false }
}

fn by_rules(found: &Translators) -> Vec<Translation> {
    let tables = found.nft_tables.iter().filter(|table| table.as_str() == NFT_TABLE);
    let nftables = tables.map(|table| by_others_rules("nftables", format!("table {table}")));
    let chains = found.nft_chains.iter().filter(|(table, chain)| table == "nat" && chain == IPTABLES_CHAIN);
    let iptables = chains.map(|(table, chain)| {
        by_others_rules("iptables", format!("chain {chain} of table {table} (iptables-nft)"))
    });
    nftables.chain(iptables).collect()
}

fn by_ipvs(question: &Question, found: &Translators) -> Option<Translation> {
    let (port, protocol) = question.port?;
    let protocol = match protocol {
        17 => "UDP",
        132 => "SCTP",
        _ => "TCP",
    };
    let service = SocketAddr::new(question.addressed, port);
    let server = found.ipvs.iter().find(|server| server.address == service && server.protocol == protocol)?;
    Some(Translation {
        by: "IPVS".to_owned(),
        evidence: format!("virtual server {service} {protocol}, scheduler {}", server.scheduler),
        backends: server.real_servers.clone(),
        tells_backends: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kube_proxy_is_known_by_its_tables_and_others_tables_are_not_its() {
        let mut found = Translators::default();
        found.nft_tables.insert("filter".to_owned());
        found.nft_chains.insert(("nat".to_owned(), "POSTROUTING".to_owned()));
        assert_eq!(by_rules(&found), []);

        found.nft_tables.insert("kube-proxy".to_owned());
        found.nft_chains.insert(("nat".to_owned(), "KUBE-SERVICES".to_owned()));
        let by: Vec<_> =
            by_rules(&found).into_iter().map(|translation| (translation.by, translation.evidence)).collect();
        let by: Vec<_> = by.iter().map(|(by, evidence)| (&**by, &**evidence)).collect();
        assert_eq!(
            by,
            [
                ("nftables", "table kube-proxy"),
                ("iptables", "chain KUBE-SERVICES of table nat (iptables-nft)"),
            ]
        );
    }
}
