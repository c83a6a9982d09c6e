//! Who translates a Service on a node, by what is there: pure, but for the CNI's maps.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use super::cni::Cni;
use super::facts::{Question, Translation};
use crate::host::settings::Translators;

/// kube-proxy's table in nftables mode, and its first chain in both iptables modes.
const NFT_TABLE: &str = "kube-proxy";
const IPTABLES_CHAIN: &str = "KUBE-SERVICES";

/// All who would, first who comes first to the packet.
pub(super) fn translations(question: &Question, found: &Translators, cni: &Cni) -> Vec<Translation> {
    let mut all = Vec::new();
    if let (IpAddr::V4(address), Some(port)) = (question.addressed, question.port) {
        let service = SocketAddrV4::new(address, port);
        let mut by_map = |by: &str, map: &str, backends: Option<Vec<SocketAddr>>| {
            if let Some(backends) = backends {
                all.push(Translation {
                    by: by.to_owned(),
                    evidence: format!("{map} has {service}"),
                    backends,
                    tells_backends: true,
                });
            }
        };
        by_map("Cilium", "cilium_lb4_services_v2", cni.cilium_service(service, question.protocol));
        by_map(
            "Calico eBPF",
            "cali_v4_nat_fe3",
            cni.calico_service(service, question.protocol, question.own),
        );
    }
    all.extend(by_rules(found));
    all.extend(by_ipvs(question, found));
    all
}

/// Rules are not read, only whose they are: which endpoints they lead to the EndpointSlices say.
fn by_rules(found: &Translators) -> impl Iterator<Item = Translation> {
    let named = |by: &str, evidence: String| Translation {
        by: by.to_owned(),
        evidence,
        backends: Vec::new(),
        tells_backends: false,
    };
    let tables = found.nft_tables.iter().filter(|table| table.as_str() == NFT_TABLE);
    let nftables = tables.map(move |table| named("nftables", format!("table {table}")));
    let chains = found.nft_chains.iter().filter(|(table, chain)| table == "nat" && chain == IPTABLES_CHAIN);
    let iptables = chains.map(move |(table, chain)| {
        named("iptables", format!("chain {chain} of table {table} (iptables-nft)"))
    });
    let legacy = found.iptables.iter().filter(|table| table.as_str() == "nat");
    let legacy = legacy.map(move |table| named("iptables", format!("table {table} (iptables-legacy)")));
    let mut all: Vec<Translation> = nftables.chain(iptables).chain(legacy).collect();
    // Both families have a table or chain of the same name.
    all.dedup();
    all.into_iter()
}

fn by_ipvs(question: &Question, found: &Translators) -> Option<Translation> {
    let protocol = match question.protocol {
        17 => "UDP",
        132 => "SCTP",
        _ => "TCP",
    };
    let service = SocketAddr::new(question.addressed, question.port?);
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
        assert_eq!(by_rules(&found).count(), 0);

        found.nft_tables.insert("kube-proxy".to_owned());
        found.nft_chains.insert(("nat".to_owned(), "KUBE-SERVICES".to_owned()));
        found.iptables.insert("nat".to_owned());
        let by: Vec<_> = by_rules(&found).map(|translation| (translation.by, translation.evidence)).collect();
        let by: Vec<_> = by.iter().map(|(by, evidence)| (&**by, &**evidence)).collect();
        assert_eq!(
            by,
            [
                ("nftables", "table kube-proxy"),
                ("iptables", "chain KUBE-SERVICES of table nat (iptables-nft)"),
                ("iptables", "table nat (iptables-legacy)"),
            ]
        );
    }
}
