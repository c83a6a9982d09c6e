//! The syntax of names, ports and protocols on the command line.

use std::fmt;
use std::net::IpAddr;

use super::SelectError;
use crate::inventory::WorkloadKind;

/// The syntax of `--pod` and `--to`, resolved later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Address(IpAddr),
    /// Also `NAME.NAMESPACE`: dots are allowed in names of pods.
    Pod {
        namespace: Option<String>,
        name: String,
    },
    Service {
        namespace: Option<String>,
        name: String,
    },
    Workload {
        kind: WorkloadKind,
        namespace: Option<String>,
        name: String,
    },
    Node(String),
}

impl Target {
    /// As typed.
    pub(super) fn namespace(&self) -> Option<&str> {
        match self {
            Self::Pod { namespace, .. }
            | Self::Service { namespace, .. }
            | Self::Workload { namespace, .. } => namespace.as_deref(),
            Self::Address(_) | Self::Node(_) => None,
        }
    }
}

/// A port by number or by its name in a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PortName {
    Number(u16),
    Name(String),
}

impl PortName {
    pub(super) fn number(&self) -> Option<u16> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Name(_) => None,
        }
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(formatter),
            Self::Name(name) => name.fmt(formatter),
        }
    }
}

/// The value of `option`.
pub(super) fn parse_target(option: &'static str, text: &str) -> Result<Target, SelectError> {
    let bad = || SelectError::TargetSyntax { option, text: text.to_owned() };
    if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse() {
        return Ok(Target::Address(address));
    }
    // Nothing but an address has a colon, and names have letters; this is an address gone wrong.
    if text.contains(':')
        || !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return Err(SelectError::Address { option, text: text.to_owned() });
    }
    let parts: Vec<&str> = text.split('/').collect();
    if !parts.iter().all(|part| is_name(part)) {
        return Err(bad());
    }
    let owned = |part: &str| part.to_owned();
    match parts.as_slice() {
        [name] => Ok(Target::Pod { namespace: None, name: owned(name) }),
        [first, name] => match kind(first) {
            Some(NameKind::Service) => Ok(Target::Service { namespace: None, name: owned(name) }),
            Some(NameKind::Pod) => Ok(Target::Pod { namespace: None, name: owned(name) }),
            Some(NameKind::Node) => Ok(Target::Node(owned(name))),
            Some(NameKind::Workload(kind)) => {
                Ok(Target::Workload { kind, namespace: None, name: owned(name) })
            }
            Some(NameKind::Other) => Err(SelectError::Kind { kind: owned(first) }),
            None => Ok(Target::Pod { namespace: Some(owned(first)), name: owned(name) }),
        },
        // svc/NS/NAME, and NS/svc/NAME as it reads from left to right
        [first, second, name] => {
            let (kind, namespace) = match (kind(first), kind(second)) {
                (Some(kind), _) => (kind, second),
                (None, Some(kind)) => (kind, first),
                (None, None) => return Err(bad()),
            };
            let (namespace, name) = (Some(owned(namespace)), owned(name));
            match kind {
                NameKind::Service => Ok(Target::Service { namespace, name }),
                NameKind::Pod => Ok(Target::Pod { namespace, name }),
                NameKind::Workload(kind) => Ok(Target::Workload { kind, namespace, name }),
                NameKind::Node | NameKind::Other => Err(bad()),
            }
        }
        _ => Err(bad()),
    }
}

enum NameKind {
    Pod,
    Service,
    Node,
    Workload(WorkloadKind),
    /// Known to kubectl, but not followed.
    Other,
}

fn kind(text: &str) -> Option<NameKind> {
    match text {
        "pod" | "pods" | "po" => Some(NameKind::Pod),
        "svc" | "service" | "services" => Some(NameKind::Service),
        "node" | "nodes" | "no" => Some(NameKind::Node),
        "ing"
        | "ingress"
        | "ingresses"
        | "ep"
        | "endpoints"
        | "cj"
        | "cronjob"
        | "cronjobs"
        | "rc"
        | "replicationcontroller"
        | "ns"
        | "namespace" => Some(NameKind::Other),
        other => WorkloadKind::by_name(other).map(NameKind::Workload),
    }
}

/// A DNS subdomain name, as Kubernetes asks of names.
fn is_name(text: &str) -> bool {
    let is_edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= 253
        && bytes.first().is_some_and(|byte| is_edge(*byte))
        && bytes.last().is_some_and(|byte| is_edge(*byte))
        && bytes.iter().all(|byte| is_edge(*byte) || matches!(byte, b'-' | b'.'))
}

pub(super) fn parse_port(text: &str) -> Result<PortName, SelectError> {
    let bad = || SelectError::Port { text: text.to_owned() };
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse() {
            Ok(number) if number != 0 => Ok(PortName::Number(number)),
            _ => Err(bad()),
        };
    }
    // IANA service names: up to 15 characters, of which one is a letter.
    let is_port_name = text.len() <= 15
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && text.bytes().any(|byte| byte.is_ascii_lowercase());
    if is_port_name { Ok(PortName::Name(text.to_owned())) } else { Err(bad()) }
}

pub(super) fn parse_protocol(text: &str) -> Result<u8, SelectError> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "tcp" => 6,
        "udp" => 17,
        "icmp" => 1,
        "icmp6" | "icmpv6" => 58,
        "sctp" => 132,
        other => other.parse().map_err(|_| SelectError::Protocol { text: text.to_owned() })?,
    })
}

/// The name that [`parse_protocol`] takes.
pub(super) fn protocol_name(number: u8) -> String {
    match number {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        1 => "icmp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        other => other.to_string(),
    }
}
