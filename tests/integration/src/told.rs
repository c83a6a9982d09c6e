//! What `tracer follow -o json` told, written down from `docs/json.md`: a field that is documented must be there.

use std::fmt;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

/// `tracer.trajectory/v1`.
#[derive(Clone, Debug, Deserialize)]
pub struct Trajectory {
    pub id: u64,
    pub protocol: String,
    pub src: End,
    pub dst: End,
    pub verdict: Verdict,
    pub verdict_detail: Option<VerdictDetail>,
    pub hops: Vec<Hop>,
    pub legs: Vec<Leg>,
    pub expected_hops: usize,
    pub missing: Vec<Missing>,
    pub lost_records: u64,
    pub retransmission_of: Option<u64>,
    pub ambiguous: Option<String>,
    pub notes: Vec<String>,
    pub tcp: Option<Tcp>,
    pub icmp: Option<Icmp>,
    pub payload_length: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Delivered,
    Dropped,
    Lost,
    Unknown,
}

#[derive(Clone, Debug, Deserialize)]
pub struct VerdictDetail {
    pub after_hop: Option<usize>,
    pub expected: Option<String>,
    pub reason: Option<String>,
    pub drop: Option<DropDetail>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct DropDetail {
    pub node: String,
    pub pod: Option<String>,
    pub namespace: Option<String>,
    pub device: Option<String>,
    pub function: Option<String>,
    pub time_ns: u64,
    pub advice: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct End {
    pub ip: IpAddr,
    pub port: Option<u16>,
    pub pod: Option<String>,
    pub namespace: Option<String>,
    pub node: Option<String>,
    pub service: Option<String>,
}

impl End {
    /// "default/curl", where it is a pod.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        Some(format!("{}/{}", self.namespace.as_ref()?, self.pod.as_ref()?))
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub ip: IpAddr,
    pub port: Option<u16>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Hop {
    pub node: String,
    pub pod: Option<String>,
    pub namespace: Option<String>,
    pub device: String,
    pub kind: String,
    pub role: String,
    pub ifindex: u32,
    pub direction: String,
    pub time_ns: u64,
    pub src: Address,
    pub dst: Address,
    pub ttl: u8,
    pub length: u32,
    pub segments: u32,
    pub encapsulation: Vec<Encapsulation>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Encapsulation {
    pub kind: String,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub port: Option<u16>,
    pub identifier: u32,
    pub ttl: u8,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Leg {
    pub from: usize,
    pub to: usize,
    pub latency_ns: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Missing {
    pub after_hop: Option<usize>,
    pub point: String,
    pub reason: String,
    pub explained: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Tcp {
    pub seq: u32,
    pub ack: u32,
    pub flags: Vec<String>,
    pub window: u16,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Icmp {
    pub r#type: u8,
    pub code: u8,
    pub seq: u16,
}

/// `tracer.exchange/v1`.
#[derive(Clone, Debug, Deserialize)]
pub struct Exchange {
    pub id: u64,
    pub kind: String,
    pub protocol: Option<String>,
    pub outcome: String,
    pub ending: String,
    pub previous: Option<u64>,
    pub requester: End,
    pub addressed: End,
    pub responder: End,
    pub start_time_ns: Option<u64>,
    pub packets: Vec<ExchangePacket>,
    pub left_out: u64,
    pub handshake: Option<Times>,
    pub times: Option<Times>,
    pub times_unknown: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ExchangePacket {
    pub id: u64,
    pub role: String,
    pub from_requester: bool,
    pub offset_ns: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Times {
    pub total_ns: u64,
    pub resent_ns: u64,
    pub there: Option<Latency>,
    pub application_ns: Option<u64>,
    pub beyond_ns: Option<u64>,
    pub beyond: Option<String>,
    pub back: Option<Latency>,
    pub paths: Option<Latency>,
    pub split_unknown: Option<String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Latency {
    pub latency_ns: Option<u64>,
    pub latency_error_ns: Option<u64>,
    pub latency_unknown: Option<String>,
}

/// `tracer.summary/v1`, without the figures per leg.
#[derive(Clone, Debug, Deserialize)]
pub struct Summary {
    pub packets: PacketCounts,
    pub hooks: HookCounts,
    pub losses: Losses,
    /// With `--from` only.
    #[serde(default)]
    pub streams: Vec<Stream>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Stream {
    pub path: String,
    pub nodes: Vec<String>,
    pub kernel: String,
    pub end: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct PacketCounts {
    pub total: u64,
    pub delivered: u64,
    pub dropped: u64,
    pub lost: u64,
    pub unknown: u64,
    pub ambiguous: u64,
    pub retransmissions: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct HookCounts {
    pub recorded: u64,
    pub ring_full: u64,
    pub filtered: u64,
    pub not_ip: u64,
    pub truncated: u64,
    pub malformed: u64,
    pub too_deep: u64,
    pub internal: u64,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Losses {
    pub ring_full: u64,
    pub channel_full: u64,
    pub undecodable: u64,
    pub unattributed: u64,
    pub evicted: u64,
    pub unrelated: u64,
}

impl Losses {
    /// Whether records or packets were lost anywhere. Packets of others are no loss.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self != Self { unrelated: self.unrelated, ..Self::default() }
    }
}

/// One line of the output.
#[derive(Clone, Debug)]
pub(crate) enum Line {
    Trajectory(Box<Trajectory>),
    Exchange(Box<Exchange>),
    Summary(Summary),
}

impl Line {
    /// # Errors
    /// When it is not JSON, of no known schema, or lacks what is documented.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("not JSON")?;
        match value["schema"].as_str() {
            Some("tracer.trajectory/v1") => {
                Ok(Self::Trajectory(serde_json::from_value(value).context("not as documented")?))
            }
            Some("tracer.exchange/v1") => {
                Ok(Self::Exchange(serde_json::from_value(value).context("not as documented")?))
            }
            Some("tracer.summary/v1") => {
                Ok(Self::Summary(serde_json::from_value(value).context("not as documented")?))
            }
            other => anyhow::bail!("schema {other:?}"),
        }
    }
}

impl Trajectory {
    /// The path as `(place, device, direction)`: a pod's own device is at the pod, every other at its node.
    #[must_use]
    pub fn path(&self) -> Vec<(String, &str, &str)> {
        self.hops.iter().map(|hop| (hop.place(), hop.device.as_str(), hop.direction.as_str())).collect()
    }

    /// Whether it was delivered and shows every hop that it should, with nothing lost or doubtful.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.verdict == Verdict::Delivered
            && self.hops.len() == self.expected_hops
            && self.lost_records == 0
            && self.missing.iter().all(|missing| missing.explained)
    }
}

impl Exchange {
    /// Ids of its packets with this role.
    #[must_use]
    pub fn with_role(&self, role: &str) -> Vec<u64> {
        self.packets.iter().filter(|packet| packet.role == role).map(|packet| packet.id).collect()
    }
}

impl Hop {
    /// Where a capture of the lab sees the device: `namespace/name` of the pod for its own interface, else the node.
    #[must_use]
    pub fn place(&self) -> String {
        match (&self.namespace, &self.pod) {
            (Some(namespace), Some(pod)) if self.role == "pod-interface" => format!("{namespace}/{pod}"),
            _ => self.node.clone(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) if self.ip.is_ipv6() => write!(f, "[{}]:{port}", self.ip),
            Some(port) => write!(f, "{}:{port}", self.ip),
            None => write!(f, "{}", self.ip),
        }
    }
}

/// For failures: everything that a test could have expected, a line a hop.
impl fmt::Display for Trajectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "#{} {} {:?}, {} of {} hops",
            self.id,
            self.protocol,
            self.verdict,
            self.hops.len(),
            self.expected_hops
        )?;
        if let Some(tcp) = &self.tcp {
            write!(f, ", {} seq {} ack {}", tcp.flags.join(" "), tcp.seq, tcp.ack)?;
        }
        if let Some(icmp) = &self.icmp {
            write!(f, ", type {} seq {}", icmp.r#type, icmp.seq)?;
        }
        writeln!(f, ", {} bytes, {} records lost", self.payload_length, self.lost_records)?;
        for hop in &self.hops {
            write!(
                f,
                "  {:<20} {:<16} {:<7} {} -> {} ttl {} length {} x{}",
                hop.place(),
                hop.device,
                hop.direction,
                hop.src,
                hop.dst,
                hop.ttl,
                hop.length,
                hop.segments
            )?;
            for outer in &hop.encapsulation {
                write!(f, " in {} {} {} -> {}", outer.kind, outer.identifier, outer.src, outer.dst)?;
            }
            writeln!(f)?;
        }
        for missing in &self.missing {
            writeln!(f, "  missing after {:?}: {} ({})", missing.after_hop, missing.point, missing.reason)?;
        }
        if let Some(detail) = &self.verdict_detail {
            writeln!(f, "  {detail:?}")?;
        }
        for text in self.notes.iter().chain(&self.ambiguous) {
            writeln!(f, "  {text}")?;
        }
        Ok(())
    }
}
