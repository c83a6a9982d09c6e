//! What a PacketTrace asks for, its words checked: whatever the API server lets through may be wrong or hostile.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use tracer_common::record::MAX_SNAPLEN;

use crate::agent::bytes::CaptureBytes;
use crate::kubernetes::packet_trace::{
    LONGEST_S, MOST_NAMES, MOST_PEERS, MOST_PORTS, PacketTrace, TracedBytes, TracedPod,
};
use crate::kubernetes::secret::SecretHash;

/// By how much the clocks of client and node may differ, seconds.
const SKEW_S: i64 = 60;

/// Which trace. Another one of the same name is another trace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceKey {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl TraceKey {
    /// `None` where the object is not one that the API server has given.
    #[must_use]
    pub fn of(trace: &PacketTrace) -> Option<Self> {
        let metadata = &trace.metadata;
        Some(Self {
            namespace: metadata.namespace.clone()?,
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
        })
    }
}

/// "default/curl-x7k2p".
impl fmt::Display for TraceKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub wanted: Wanted,
    /// Seconds since 1970.
    pub expires_s: i64,
    /// Of the spec.
    pub generation: i64,
}

/// Whose packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Of the trace's own namespace.
    pub pods: Vec<TracedPod>,
    /// Of the trace's own namespace.
    pub services: Vec<String>,
    /// `None`: any.
    pub peers: Option<Vec<IpAddr>>,
    pub masqueraded: bool,
    pub protocols: Vec<u8>,
    pub ports: Vec<u16>,
    /// Packets' bytes besides their records; payload only with the right to it.
    pub bytes: Option<CaptureBytes>,
    pub secret: SecretHash,
    /// All if empty.
    pub nodes: Vec<String>,
}

impl Request {
    /// Checks the words of a trace at a wall-clock time, seconds since 1970.
    ///
    /// # Errors
    /// What is wrong, as a sentence for whoever made the trace.
    pub fn read(trace: &PacketTrace, now_s: i64) -> Result<Self, String> {
        let spec = &trace.spec;
        if spec.pods.is_empty() || spec.pods.iter().any(|pod| pod.name.is_empty() || pod.uid.is_empty()) {
            return Err("spec.pods: at least one pod is needed, each with its name and uid".to_owned());
        }
        at_most("spec.pods", spec.pods.len(), MOST_NAMES)?;
        at_most("spec.services", spec.services.len(), MOST_NAMES)?;
        at_most("spec.ports", spec.ports.len(), MOST_PORTS)?;
        at_most("spec.protocols", spec.protocols.len(), MOST_PORTS)?;
        at_most("spec.nodes", spec.nodes.len(), MOST_PEERS)?;
        let peers = spec.peers.as_deref().map(read_peers).transpose()?;
        if spec.masqueraded && peers.is_none() {
            return Err(
                "spec.masqueraded: only with spec.peers, else it would be all packets of a node".to_owned()
            );
        }
        let secret = SecretHash::parse(&spec.secret_sha256)
            .ok_or("spec.secretSha256: not the 64 hexadecimal digits of a SHA-256")?;
        Ok(Self {
            wanted: Wanted {
                pods: spec.pods.clone(),
                services: spec.services.clone(),
                peers,
                masqueraded: spec.masqueraded,
                protocols: spec.protocols.clone(),
                ports: spec.ports.clone(),
                bytes: spec.bytes.map(read_bytes).transpose()?,
                secret,
                nodes: spec.nodes.clone(),
            },
            expires_s: read_expiry(&spec.expires, now_s)?,
            generation: trace.metadata.generation.unwrap_or_default(),
        })
    }

    /// Whether the agent of a node is asked.
    #[must_use]
    pub fn concerns(&self, node: &str) -> bool {
        let nodes = &self.wanted.nodes;
        nodes.is_empty() || nodes.iter().any(|name| name == node)
    }
}

fn at_most(field: &str, count: usize, most: usize) -> Result<(), String> {
    if count > most { Err(format!("{field}: {count}, and {most} are the most")) } else { Ok(()) }
}

fn read_peers(peers: &[String]) -> Result<Vec<IpAddr>, String> {
    at_most("spec.peers", peers.len(), MOST_PEERS)?;
    if peers.is_empty() {
        return Err("spec.peers: empty; leave it out for any".to_owned());
    }
    let parse = |text: &String| -> Result<IpAddr, String> {
        let shown: String = text.chars().filter(|letter| !letter.is_control()).take(64).collect();
        text.parse().map_err(|_| format!("spec.peers: '{shown}' is no IP address"))
    };
    peers.iter().map(parse).collect()
}

fn read_bytes(bytes: TracedBytes) -> Result<CaptureBytes, String> {
    match bytes.most {
        None => Ok(CaptureBytes::Headers),
        Some(most) if most > 0 && most as usize <= MAX_SNAPLEN => Ok(CaptureBytes::Most(most)),
        Some(most) => Err(format!("spec.bytes.most: {most} is not between 1 and {MAX_SNAPLEN}")),
    }
}

fn read_expiry(text: &str, now_s: i64) -> Result<i64, String> {
    let expires: Timestamp =
        text.parse().map_err(|_| "spec.expires: no time as RFC 3339 has it".to_owned())?;
    let expires_s = expires.as_second();
    if expires_s - now_s > LONGEST_S + SKEW_S {
        return Err(format!(
            "spec.expires: {} s ahead by this node's clock, and {LONGEST_S} s are the most (a client moves it on for as \
             long as it lives)",
            expires_s - now_s
        ));
    }
    Ok(expires_s)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kubernetes::packet_trace::PacketTraceSpec;
    use crate::kubernetes::secret::Secret;

    /// 2026-11-30 12:00 UTC.
    pub(crate) const NOON_S: i64 = 1_796_040_000;

    /// A right one, of pod curl in namespace default.
    pub(crate) fn trace(name: &str, secret: &Secret) -> PacketTrace {
        let spec = PacketTraceSpec {
            follows: "default/curl".to_owned(),
            pods: vec![TracedPod { name: "curl".to_owned(), uid: "uid-curl".to_owned() }],
            peers: Some(vec!["10.244.1.246".to_owned(), "fd00::246".to_owned()]),
            expires: Timestamp::from_second(NOON_S + 120).unwrap().to_string(),
            secret_sha256: secret.hash().to_string(),
            ..PacketTraceSpec::default()
        };
        let mut trace = PacketTrace::new(name, spec);
        trace.metadata.namespace = Some("default".to_owned());
        trace.metadata.uid = Some(format!("uid-{name}"));
        trace.metadata.generation = Some(1);
        trace
    }

    #[test]
    fn what_a_trace_says_is_read() {
        let trace = trace("one", &Secret::new().unwrap());
        let request = Request::read(&trace, NOON_S).unwrap();
        assert_eq!(request.expires_s, NOON_S + 120);
        assert_eq!(request.wanted.peers.as_ref().map(Vec::len), Some(2));
        assert!(request.concerns("any node"));
        assert_eq!(TraceKey::of(&trace).unwrap().to_string(), "default/one");
    }

    #[test]
    fn a_trace_that_asks_for_what_it_may_not_is_refused_with_the_field_and_the_reason() {
        type Change = fn(&mut PacketTraceSpec);
        let wrong: [(&str, Change); 10] = [
            ("spec.pods: at least one", |spec| spec.pods.clear()),
            ("spec.pods: at least one", |spec| spec.pods[0].uid.clear()),
            ("spec.pods: 300", |spec| spec.pods = vec![spec.pods[0].clone(); 300]),
            ("spec.peers: empty", |spec| spec.peers = Some(Vec::new())),
            ("spec.peers: 'somewhere' is no", |spec| spec.peers = Some(vec!["some\u{1b}where".to_owned()])),
            ("spec.masqueraded: only with", |spec| (spec.peers, spec.masqueraded) = (None, true)),
            ("spec.bytes.most: 0", |spec| spec.bytes = Some(TracedBytes { most: Some(0) })),
            ("spec.secretSha256", |spec| spec.secret_sha256 = "00".to_owned()),
            ("spec.expires: no time", |spec| spec.expires = "soon".to_owned()),
            ("spec.expires: 86400 s", |spec| spec.expires = "2026-12-01T12:00:00Z".to_owned()),
        ];
        for (sentence, change) in wrong {
            let mut trace = trace("one", &Secret::new().unwrap());
            change(&mut trace.spec);
            let refused = Request::read(&trace, NOON_S).unwrap_err();
            assert!(refused.starts_with(sentence), "{refused}");
        }
    }
}
