//! The words of a trajectory. Nothing in here knows eBPF, netlink, Kubernetes or a terminal.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

/// A pod, by name and by UID (names and addresses are reused).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    /// `metadata.uid`; empty where the inventory has none.
    pub uid: String,
}

impl PodRef {
    /// Whether both name one pod. UIDs decide where both have one: a pod that was replaced under its name is another pod.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.namespace == other.namespace
            && (self.uid == other.uid || self.uid.is_empty() || other.uid.is_empty())
    }
}

/// A Service, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ServiceRef {
    pub namespace: String,
    pub name: String,
}

/// Whom an address belonged to at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A pod with an address of its own.
    Pod { pod: Arc<PodRef>, node: Arc<str> },
    /// ClusterIP, external IP or load balancer IP of a Service.
    Service(Arc<ServiceRef>),
    /// An address of a node; host-network pods cannot be told apart by address.
    Node(Arc<str>),
    /// The inventory does not know it.
    Unknown,
}

/// What the inventory can say about addresses. `at_ns` is CLOCK_MONOTONIC of the observing machine; implementations
/// that know no history may ignore it.
pub trait Directory {
    fn owner(&self, address: IpAddr, at_ns: u64) -> Owner;

    /// Whether the inventory knows a translation of a destination: `from` is a Service address and port (or
    /// NodePort) and `to` one of its endpoints. `protocol` is the IANA number.
    fn is_service_translation(&self, protocol: u8, from: (IpAddr, u16), to: (IpAddr, u16)) -> bool;
}

impl<T: Directory + ?Sized> Directory for &T {
    fn owner(&self, address: IpAddr, at_ns: u64) -> Owner {
        (**self).owner(address, at_ns)
    }

    fn is_service_translation(&self, protocol: u8, from: (IpAddr, u16), to: (IpAddr, u16)) -> bool {
        (**self).is_service_translation(protocol, from, to)
    }
}

impl<T: Directory + ?Sized> Directory for Arc<T> {
    fn owner(&self, address: IpAddr, at_ns: u64) -> Owner {
        (**self).owner(address, at_ns)
    }

    fn is_service_translation(&self, protocol: u8, from: (IpAddr, u16), to: (IpAddr, u16)) -> bool {
        (**self).is_service_translation(protocol, from, to)
    }
}

/// Which way a packet passed a device, as the kernel says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    /// As tools call it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// What a device is for on the packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceRole {
    /// The pod's own device (eth0) in the pod's network namespace.
    PodInterface,
    /// The node's end of a pod's veth pair.
    PodPeer,
    Bridge,
    /// vxlan, geneve, ipip (tunl0), sit, gre, ip6tnl, wireguard.
    Tunnel,
    /// A device towards other machines.
    Nic,
    /// Any other device that was worth observing.
    Other,
}

/// Identifies an observation point within one run; dense from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct PointId(pub u32);

/// Identifies a clock: points with the same clock can be compared to the nanosecond, others cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ClockId(pub u32);

/// One hook on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservationPoint {
    pub id: PointId,
    /// Name of the node that the device belongs to.
    pub node: Arc<str>,
    pub clock: ClockId,
    /// The pod whose device or veth peer this is.
    pub pod: Option<Arc<PodRef>>,
    pub device: Arc<str>,
    /// Kernel's link kind ("veth", "vxlan", "bridge", ...); empty for hardware devices.
    pub kind: Arc<str>,
    pub ifindex: u32,
    /// Packets begin with an Ethernet header here, else with the IP header.
    pub has_ethernet_header: bool,
    pub direction: Direction,
    pub role: DeviceRole,
    /// ifindex of the bridge that the device is a port of.
    pub bridge: Option<u32>,
    /// Full names of other BPF programs on this hook, in running order.
    pub foreign_programs: Vec<Arc<str>>,
    /// The program that runs before ours and may end the chain, so that we see nothing here: full name. Only where
    /// ours is a legacy filter and that one TCX, or that one sits on a netkit pair and ours could not.
    pub hidden_by: Option<Arc<str>>,
}

/// One encapsulation around a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Encapsulation {
    /// `tracer_common::record::TUNNEL_*`.
    pub kind: u8,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Outer UDP destination port; 0 where there is none.
    pub port: u16,
    /// VNI or key; 0 where there is none.
    pub identifier: u32,
    pub ttl: u8,
}

/// What a packet says about itself. Only content that crosses a wire: nothing that holds on one machine only
/// (socket buffer address, hash, mark, socket cookie, checksum) may ever be added here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub fingerprint: u64,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// `None` where the protocol has no ports or the packet is a later fragment.
    pub ports: Option<(u16, u16)>,
    pub protocol: u8,
    pub ttl: u8,
    /// Bytes at the device, encapsulation included.
    pub length: u32,
    pub payload_length: u32,
    pub gso_segments: u16,
    pub gso_size: u16,
    /// TCP sequence number, SCTP TSN, ICMP echo sequence number, ID of a DNS message (UDP port 53).
    pub sequence: u32,
    pub acknowledgment: u32,
    /// TSval and TSecr.
    pub tcp_timestamps: Option<(u32, u32)>,
    pub tcp_flags: u8,
    pub window: u16,
    pub identification: u32,
    /// Offset in bytes and whether more follow.
    pub fragment: Option<(u16, bool)>,
    pub icmp: Option<IcmpHeader>,
    /// Of an ICMP error: the packet that caused it. Boxed, because all other packets go without.
    pub quote: Option<Box<Quote>>,
    /// Outermost first.
    pub encapsulation: Vec<Encapsulation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpHeader {
    pub kind: u8,
    pub code: u8,
    pub identifier: u16,
}

/// What an ICMP error says of the packet that caused it. That packet's source is the error's destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    pub destination: IpAddr,
    /// IANA protocol number; for IPv6 that of the first header behind the fixed one.
    pub protocol: u8,
    /// IPv4 identification; 0 for IPv6.
    pub identification: u16,
    /// Source and destination; `None` where the protocol has none or they are not quoted.
    pub ports: Option<(u16, u16)>,
    /// TCP sequence number, UDP payload length, ICMP echo sequence number; `None` for other protocols and where it
    /// is not quoted.
    pub sequence: Option<u32>,
    /// Longest packet that would have passed, bytes, where the error is about that; 65535 for any longer.
    pub mtu: Option<u16>,
}

/// A packet's first bytes at a point with the record of them in front, as the kernel side gave both, for capture files.
/// What joins packets does not look into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(pub Arc<[u8]>);

/// One packet seen at one observation point: the correlator's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub point: Arc<ObservationPoint>,
    /// CLOCK_MONOTONIC of the point's clock, nanoseconds.
    pub time_ns: u64,
    /// Bit n: follow n wanted it.
    pub follows: u64,
    pub packet: Packet,
    /// Where packets are captured.
    pub frame: Option<Frame>,
}

/// Where the kernel threw a packet away.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DropPlace {
    /// Name of the node in whose network namespace, or in that of one of whose pods, it happened.
    pub node: Arc<str>,
    /// The pod whose network namespace it was; `None` for the node's own.
    pub pod: Option<Arc<PodRef>>,
    /// The packet's device at that time, where it had one.
    pub device: Option<Arc<str>>,
    /// The kernel function that did it, where its name can be read.
    pub function: Option<Arc<str>>,
}

/// One packet that the kernel threw away, as its tracepoint `skb:kfree_skb` told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropSighting {
    pub place: Arc<DropPlace>,
    pub clock: ClockId,
    /// CLOCK_MONOTONIC of `clock`, nanoseconds.
    pub time_ns: u64,
    /// Bit n: follow n wanted it.
    pub follows: u64,
    /// The kernel's name without its prefix, such as `NETFILTER_DROP` (enum skb_drop_reason, by BTF).
    pub reason: Arc<str>,
    pub packet: Packet,
}

/// How a packet ended that the kernel threw away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The last hop before it; `None` if no hop was seen.
    pub after: Option<usize>,
    pub sighting: DropSighting,
    /// One sentence on what to look at.
    pub advice: String,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Seen entering the destination: the pod's device or, for a host or an address outside, the last device.
    Delivered,
    /// The kernel threw it away and said why.
    Dropped(Box<Dropped>),
    /// Not seen after `after`, where `expected` should have come next and no record was lost meanwhile.
    Lost { after: PointId, expected: String },
    /// Not known, and why.
    Unknown { reason: String },
}

/// One point that the packet passed, with all packets there that stand for it (a GSO packet may be cut into
/// segments and put together again).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    pub point: Arc<ObservationPoint>,
    /// Time of the first segment, in the point's clock.
    pub time_ns: u64,
    /// Number of packets at this point that carried this trajectory's bytes.
    pub segments: u32,
    /// The first of them.
    pub packet: Packet,
    /// All of them, where packets are captured.
    pub frames: Vec<Frame>,
}

/// Why an expected hop is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingHop {
    /// The hop's place: it should have come after `hops[after]`.
    pub after: usize,
    /// Its place is before the first hop instead; `after` is 0 then.
    pub before_first: bool,
    /// Device (or what is known of it) and direction, for people.
    pub point: String,
    pub reason: String,
    /// True if the absence is explained and normal (`bpf_redirect_peer`); false for a suspected loss.
    pub explained: bool,
}

/// From one hop to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Index of the earlier hop; the leg ends at `from + 1`.
    pub from: usize,
    pub latency: Latency,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// Both ends share a clock: exact.
    Exact { ns: u64 },
    /// Different clocks, whose offset the traffic itself gave: the true value is not further than `error_ns` from `ns`.
    Estimated { ns: u64, error_ns: u64 },
    /// Different clocks and no estimate of their offset.
    Unknown(NoEstimate),
}

/// Why a time between two points is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEstimate {
    /// No packet went from the later clock's node to the earlier one's, or none lately: a delay and an offset look
    /// alike then.
    OneDirectionOnly,
    /// What was seen contradicts itself, as when a clock has been stopped.
    Inconsistent,
    /// The packet was cut, and its first piece was not recorded at both points; or one of the two records may be another
    /// packet's.
    RecordsMissing,
    /// One end of the leg may be another packet's.
    Ambiguous,
}

impl NoEstimate {
    /// For people, in a few words.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::OneDirectionOnly => "one direction only",
            Self::Inconsistent => "clocks contradict each other",
            Self::RecordsMissing => "records are missing",
            Self::Ambiguous => "the packet is ambiguous",
        }
    }
}

/// The hops of one packet in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trajectory {
    /// Number within the run, from 1, in the order in which they are reported.
    pub id: u64,
    pub follows: u64,
    pub hops: Vec<Hop>,
    pub legs: Vec<Leg>,
    pub missing: Vec<MissingHop>,
    /// Hops that the path should have: those seen plus those missing without explanation.
    pub expected_hops: usize,
    /// Records lost (ring, channel) on the nodes involved while this packet was under way.
    pub lost_records: u64,
    pub verdict: Verdict,
    /// The id of the trajectory that carried the same bytes before.
    pub retransmission_of: Option<u64>,
    /// How long after it, nanoseconds: between the two at the first point that both passed.
    pub retransmission_after_ns: Option<u64>,
    /// The id of the trajectory that this is a copy of, made on the way by the network.
    pub duplicate_of: Option<u64>,
    /// Of an ICMP error: the id of the trajectory of the packet that it quotes.
    pub quotes: Option<u64>,
    /// More than one reading of the records is possible (identical packets), and why.
    pub ambiguous: Option<String>,
    /// What a reader should know to judge the joining: a rewrite that the inventory does not know, a packet
    /// that was merged with others on its way.
    pub notes: Vec<String>,
}

impl Trajectory {
    /// The packet where it was first seen, and when, by which clock. A packet that was dropped before the first hook has
    /// been seen by its drop alone.
    #[must_use]
    pub fn beginning(&self) -> Option<(&Packet, ClockId, u64)> {
        match (self.hops.first(), &self.verdict) {
            (Some(first), _) => Some((&first.packet, first.point.clock, first.time_ns)),
            (None, Verdict::Dropped(dropped)) => {
                let drop = &dropped.sighting;
                Some((&drop.packet, drop.clock, drop.time_ns))
            }
            (None, _) => None,
        }
    }
}
