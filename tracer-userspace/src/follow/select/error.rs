//! Why a selection cannot be made, and what to type instead.

use thiserror::Error;

use super::parse::protocol_name;
use crate::inventory::Inventory;

/// Most suggestions in a message.
const MOST_NEAR: usize = 5;

/// See [`SelectError::is_usage`] for the two kinds of these errors.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SelectError {
    // --- wrong typing ---
    #[error(
        "{option} `{text}`: should be a pod (NAME or NAMESPACE/NAME), deploy/NAME, svc/NAME, svc/NAMESPACE/NAME, \
         node/NAME, an IP address, or NAME.NAMESPACE"
    )]
    TargetSyntax { option: &'static str, text: String },
    #[error("--selector `{text}`: should be labels as kubectl takes them, such as app=web,tier!=cache")]
    Labels { text: String },
    #[error(
        "`{kind}/...` cannot be followed: name its pods by deploy/NAME, sts/NAME, ds/NAME, rs/NAME, job/NAME or \
         --selector, or a Service as svc/NAME"
    )]
    Kind { kind: String },
    #[error("{option} `{text}`: not an IPv4 or IPv6 address (give a port with --port)")]
    Address { option: &'static str, text: String },
    #[error("--port `{text}`: should be a number from 1 to 65535, or the name of a port of the Service")]
    Port { text: String },
    #[error("--protocol `{text}`: should be tcp, udp, icmp, icmpv6, sctp, or a number from 0 to 255")]
    Protocol { text: String },
    #[error("--port and --protocol {}: this protocol has no ports", protocol_name(*protocol))]
    PortlessProtocol { protocol: u8 },
    #[error("--port {port}: ports have names only in Services, {}; give the number",
        target.as_ref().map_or_else(|| "and no --to was given".to_owned(), |target| format!("and {target} is none")))]
    NamedPort { port: String, target: Option<String> },

    // --- not in the cluster ---
    #[error("no pod `{name}` in namespace {namespace}{}{}", did_you_mean(near), service_hint(*service, namespace, name))]
    UnknownPod {
        namespace: String,
        name: String,
        /// As to be typed.
        near: Vec<String>,
        /// There is a Service of that name.
        service: bool,
    },
    #[error("pod `{name}` is not in namespace {asked} but in {}; type {}",
        namespaces.join(", "), choices(option, namespaces, name))]
    PodElsewhere {
        name: String,
        asked: String,
        namespaces: Vec<String>,
        /// The option whose value it is.
        option: &'static str,
    },
    #[error("pod `{name}` is in {} namespaces ({}); type {}",
        namespaces.len(), namespaces.join(", "), choices(option, namespaces, name))]
    AmbiguousPod { name: String, namespaces: Vec<String>, option: &'static str },
    #[error("no namespace `{name}` in the inventory{}{}", did_you_mean(near), namespace_hint(near, *known))]
    UnknownNamespace {
        name: String,
        near: Vec<String>,
        /// Number of namespaces in the inventory.
        known: usize,
    },
    #[error(
        "no Service `{name}` in namespace {namespace}{}{}",
        did_you_mean(near),
        elsewhere_hint(option, elsewhere)
    )]
    UnknownService {
        option: &'static str,
        namespace: String,
        name: String,
        near: Vec<String>,
        elsewhere: Vec<String>,
    },
    #[error(
        "no pod of {name} in namespace {namespace}{}{}",
        did_you_mean(near),
        elsewhere_hint(option, elsewhere)
    )]
    UnknownWorkload {
        option: &'static str,
        namespace: String,
        name: String,
        near: Vec<String>,
        elsewhere: Vec<String>,
    },
    #[error("{name}: no pod of it is running{}",
        if *silent == 0 { String::new() } else { format!("; {silent} are not, or have no IP (kubectl get pods)") })]
    NoPods { name: String, silent: usize },
    #[error(
        "--pod {address}: no pod and no node has this address (any address may be the other end: --to {address})"
    )]
    AddressOfNobody { address: String },
    #[error("no node `{name}`{}", did_you_mean(near))]
    UnknownNode { name: String, near: Vec<String> },
    #[error("node {name} has no addresses in the inventory: make the inventory anew")]
    NodeWithoutAddress { name: String },
    #[error("pod {name} is {phase}, not Running: it sends no packets (kubectl describe pod shows why)")]
    PodNotRunning { name: String, phase: String },
    #[error("pod {name} has no IP in the inventory: make the inventory anew when the pod has started")]
    PodWithoutAddress { name: String },
    #[error("{service} has no port {port}{}; its ports are {}",
        protocol.as_ref().map_or_else(String::new, |protocol| format!("/{protocol}")), or_none(ports))]
    UnknownPort { service: String, port: String, protocol: Option<String>, ports: Vec<String> },
    #[error("{name} has no endpoints, so that nobody would answer: {}", endpoints_hint(*has_selector))]
    ServiceWithoutEndpoints { name: String, has_selector: bool },
    #[error("{name} is headless (it has no ClusterIP) and has no endpoints: {}", endpoints_hint(*has_selector))]
    HeadlessWithoutEndpoints { name: String, has_selector: bool },
    #[error("{name} has neither a ClusterIP nor endpoints in the inventory: make the inventory anew")]
    ServiceWithoutAddress { name: String },
    #[error(
        "{name} is an alias (ExternalName) of the DNS name {external} and has no address of its own: use --to with \
         an IP address of {external}"
    )]
    ExternalName { name: String, external: String },
}

impl SelectError {
    /// Whether the command line is wrong in itself, whatever the cluster has (exit code 2); else it names something
    /// that the cluster does not have (exit code 1).
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::TargetSyntax { .. }
                | Self::Labels { .. }
                | Self::Kind { .. }
                | Self::Address { .. }
                | Self::Port { .. }
                | Self::Protocol { .. }
                | Self::PortlessProtocol { .. }
                | Self::NamedPort { .. }
        )
    }
}

fn did_you_mean(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) }
}

fn service_hint(is_service: bool, namespace: &str, name: &str) -> String {
    if is_service {
        format!("\n  there is a Service of that name: --to svc/{namespace}/{name}")
    } else {
        String::new()
    }
}

fn namespace_hint(near: &[String], known: usize) -> String {
    if near.is_empty() {
        format!(" (it has {known}: kubectl get namespaces lists those of the cluster)")
    } else {
        String::new()
    }
}

fn elsewhere_hint(option: &str, elsewhere: &[String]) -> String {
    let shown: Vec<String> =
        elsewhere.iter().take(MOST_NEAR).map(|service| format!("{option} {service}")).collect();
    if shown.is_empty() { String::new() } else { format!("; in another namespace: {}", shown.join(" or ")) }
}

fn choices(option: &str, namespaces: &[String], name: &str) -> String {
    let shown: Vec<String> =
        namespaces.iter().take(MOST_NEAR).map(|namespace| format!("`{option} {namespace}/{name}`")).collect();
    shown.join(" or ")
}

fn or_none(list: &[String]) -> String {
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}

fn endpoints_hint(has_selector: bool) -> &'static str {
    if has_selector {
        "no pod matches its selector (kubectl get endpointslices, kubectl get pods --show-labels), or the inventory \
         was made without endpointslices"
    } else {
        "it has no selector either, so its EndpointSlices must be made by hand or by another controller"
    }
}

/// Pods with a name near to `name`, as to be typed, those of the same namespace first.
pub(super) fn similar_pods(inventory: &Inventory, namespace: &str, name: &str) -> Vec<String> {
    let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
    for entry in inventory.pods() {
        let list = if entry.pod.namespace == namespace { &mut here } else { &mut elsewhere };
        list.push((entry.pod.name.as_str(), entry));
    }
    let mut near = near_names(name, here.iter().map(|(name, _)| *name));
    for other in near_names(name, elsewhere.iter().map(|(name, _)| *name)) {
        let found = elsewhere.iter().find(|(name, _)| *name == other);
        near.extend(found.map(|(name, entry)| format!("{}/{name}", entry.pod.namespace)));
    }
    near.truncate(MOST_NEAR);
    near
}

/// The names nearest to `name`: those that begin with it (a pod's name from its Deployment's), or differ in a few
/// letters.
pub(super) fn near_names<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Vec<String> {
    let allowed = (name.len() / 3).clamp(1, 3);
    let mut near: Vec<(usize, &str)> = candidates
        .filter_map(|candidate| {
            if !name.is_empty() && candidate.starts_with(name) {
                return Some((0, candidate));
            }
            // A pod of a Deployment: its own name is in front of two generated parts.
            let stem = candidate.rsplitn(3, '-').nth(2).unwrap_or(candidate);
            let nearest = distance(name, candidate).min(distance(name, stem));
            (nearest <= allowed).then_some((nearest, candidate))
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(MOST_NEAR).map(|(_, candidate)| candidate.to_owned()).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours that make one text of the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = vec![vec![0; other.len() + 1]; one.len() + 1];
    for (length, row) in rows.iter_mut().enumerate() {
        row[0] = length;
    }
    rows[0] = (0..=other.len()).collect();
    for i in 1..=one.len() {
        for j in 1..=other.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, near_names};

    #[test]
    fn distances_count_single_edits() {
        for (one, other, expected) in [
            ("curl", "curl", 0),
            ("crul", "curl", 1),
            ("cur", "curl", 1),
            ("curls", "curl", 1),
            ("kurl", "curl", 1),
            ("httpbin", "curl", 7),
            ("", "curl", 4),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn near_names_are_at_most_five_and_the_nearest_first() {
        let names =
            ["web-7d9f8b6c5d-abcde", "web-7d9f8b6c5d-fghij", "wbe", "db", "web1", "web2", "web3", "web4"];

        let near = near_names("web", names.into_iter());

        assert_eq!(near, ["web-7d9f8b6c5d-abcde", "web-7d9f8b6c5d-fghij", "web1", "web2", "web3"]);
        assert_eq!(near_names("wep-7d9f8b6c5d-abcde", ["web-7d9f8b6c5d-abcde"].into_iter()).len(), 1);
        assert_eq!(
            near_names("wep", ["web-7d9f8b6c5d-abcde"].into_iter()).len(),
            1,
            "by the Deployment's name"
        );
        assert!(near_names("zzz", names.into_iter()).is_empty());
    }
}
