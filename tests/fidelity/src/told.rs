//! What `tracer follow -o json` told, as far as it is judged; `docs/json.md` describes the fields.

use std::fmt;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Trajectory {
    pub(crate) id: u64,
    pub(crate) protocol: String,
    pub(crate) verdict: String,
    pub(crate) verdict_detail: Option<Detail>,
    pub(crate) hops: Vec<Hop>,
    pub(crate) legs: Vec<Leg>,
    pub(crate) lost_records: u64,
    pub(crate) retransmission_of: Option<u64>,
    pub(crate) ambiguous: Option<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) tcp: Option<Tcp>,
    pub(crate) payload_length: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Detail {
    pub(crate) after_hop: Option<usize>,
    pub(crate) reason: Option<String>,
    pub(crate) expected: Option<String>,
    pub(crate) drop: Option<Drop>,
}

/// Where the kernel threw it away.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Drop {
    pub(crate) pod: Option<String>,
    pub(crate) namespace: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Hop {
    pub(crate) node: String,
    pub(crate) pod: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) device: String,
    pub(crate) role: String,
    pub(crate) direction: String,
    pub(crate) time_ns: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Leg {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) latency_ns: Option<u64>,
    pub(crate) latency_error_ns: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Tcp {
    pub(crate) seq: u32,
}

/// The trajectories among lines of output.
///
/// # Errors
/// When a line is no JSON or lacks what is documented.
pub(crate) fn parse(lines: &[String]) -> Result<Vec<Trajectory>> {
    let mut told = Vec::new();
    for line in lines {
        let value: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        if value["schema"] == "tracer.trajectory/v1" {
            told.push(serde_json::from_value(value).with_context(|| format!("not as documented: {line}"))?);
        }
    }
    Ok(told)
}

impl Hop {
    /// Where a capture sees the device: `namespace/name` of the pod for its own interface, else the node.
    pub(crate) fn place(&self) -> String {
        match (&self.namespace, &self.pod) {
            (Some(namespace), Some(pod)) if self.role == "pod-interface" => format!("{namespace}/{pod}"),
            _ => self.node.clone(),
        }
    }
}

impl Trajectory {
    /// Whether it is said to have come to its pod and to have been thrown away there: it found no socket, say.
    pub(crate) fn is_dropped_in_its_pod(&self) -> bool {
        let Some(drop) = self.verdict_detail.as_ref().and_then(|detail| detail.drop.as_ref()) else {
            return false;
        };
        let here = |hop: &&Hop| (&hop.pod, &hop.namespace) == (&drop.pod, &drop.namespace);
        let sent_here = |hop: &Hop| hop.role == "pod-interface" && hop.direction == "egress";
        drop.pod.is_some() && !self.hops.iter().filter(here).any(sent_here)
    }
}

/// For explanations: a line a hop.
impl fmt::Display for Trajectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {}, {} bytes, {}", self.id, self.protocol, self.payload_length, self.verdict)?;
        if let Some(detail) = &self.verdict_detail {
            let after = detail.after_hop.map(|hop| format!(" after hop {}", hop + 1)).unwrap_or_default();
            let why = detail.reason.as_deref().or(detail.expected.as_deref()).unwrap_or_default();
            write!(f, "{after} ({why})")?;
        }
        if let Some(first) = self.retransmission_of {
            write!(f, ", retransmission of #{first}")?;
        }
        writeln!(f, ", {} records lost", self.lost_records)?;
        for text in self.notes.iter().chain(&self.ambiguous) {
            writeln!(f, "      {text}")?;
        }
        Ok(())
    }
}
