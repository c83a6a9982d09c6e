//! What one node says about the way of one pod's packets: both what the pod sends to somebody, and what somebody sends to
//! the pod. Plain data, which agents hand on as JSON; everything in it was read and nothing concluded.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::host::routes::RuleEntry;
use crate::host::settings::Settings;
use crate::host::tunnels::Tunnel;

/// Whose way is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// An address of a pod of this node, or of the node itself.
    pub own: IpAddr,
    /// Whom it talks to, as it knows it: a pod, a Service, anybody.
    pub addressed: IpAddr,
    /// Who that is behind a Service; else the same.
    pub target: IpAddr,
    /// Of the Service: a port, and its IP protocol number.
    pub port: Option<(u16, u8)>,
}

/// One node's half of the way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Half {
    pub node: String,
    pub kernel: String,
    /// `None` where the address is the node's own.
    pub pod: Option<PodSide>,
    /// The node's end of the pod's pair.
    pub device: Option<Device>,
    /// The bridge whose port that is.
    pub bridge: Option<Device>,
    /// Policy rules of the node, in order.
    pub rules: Vec<RuleEntry>,
    pub outgoing: Outgoing,
    pub incoming: Incoming,
    /// Who translates the addressed Service here.
    pub services: Vec<Translation>,
    pub settings: Settings,
    /// Addresses of the node's devices.
    pub addresses: Vec<IpAddr>,
    /// Entries of the CNI's maps about these addresses.
    pub entries: Vec<Entry>,
    /// Packets that the CNI's programs threw away since they were loaded, by its reasons.
    pub cni_drops: Vec<CniDrop>,
    /// What could not be read, and maps whose layout is not known.
    pub problems: Vec<String>,
}

/// What is inside the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSide {
    /// `namespace/name`.
    pub pod: String,
    /// How its network namespace was found.
    pub found: String,
    pub device: Device,
    /// To whom it talks.
    pub route: Answer,
    pub next_hop: Option<Neighbour>,
}

/// From the node on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// The kernel's own answer.
    pub route: Option<Answer>,
    /// Where it leads.
    pub device: Option<Device>,
    pub next_hop: Option<Neighbour>,
    /// Through a tunnel, whoever decides that.
    pub tunnel: Option<TunnelHop>,
}

/// A way through a tunnel, and of the tunnel's own packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelHop {
    pub device: Device,
    /// The other end.
    pub remote: Option<IpAddr>,
    /// What says so: "cilium_ipcache", "bridge fdb", "route", "device".
    pub told_by: String,
    /// VNI or key that these packets have, as far as known.
    pub identifier: Option<u32>,
    pub route: Option<Answer>,
    pub nic: Option<Device>,
    pub next_hop: Option<Neighbour>,
}

/// To the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// Of a packet to the pod, as the node itself would send it.
    pub route: Option<Answer>,
    /// The device that the route has.
    pub device: Option<Device>,
    /// The pod, as the node knows it.
    pub neighbour: Option<Neighbour>,
    /// The bridge's port that has the pod's MAC address.
    pub bridge_port: Option<String>,
    /// The devices by which packets of the target may come: NICs and tunnels.
    pub arrivals: Vec<Arrival>,
}

/// A device by which packets may come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    pub device: Device,
    /// Whether the node would take them from there, as it checks each (rp_filter).
    pub accepted: Answer,
}

/// A device with everything on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub ifindex: u32,
    pub name: String,
    /// The kernel's link kind; empty for hardware.
    pub kind: String,
    /// As `ip link` prints it; empty where there is none.
    pub mac: String,
    /// Bytes.
    pub mtu: u32,
    pub up: bool,
    /// ifindex of a pair's other end.
    pub peer: Option<u32>,
    /// ifindex of the bridge, bond or VRF that it is part of.
    pub master: Option<u32>,
    pub addresses: Vec<IpAddr>,
    pub tunnel: Option<Tunnel>,
    /// 0 not, 1 strictly, 2 loosely.
    pub rp_filter: Option<u8>,
    pub ingress: Vec<Program>,
    pub egress: Vec<Program>,
    /// What runs on what the pod sends into a netkit pair.
    pub netkit_peer: Vec<Program>,
    pub xdp: Option<Program>,
}

/// A program on a hook, in running order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    pub id: Option<u32>,
    /// Hexadecimal; empty for what is no eBPF program.
    pub tag: String,
    /// "tcx", "clsact", "netkit", "xdp".
    pub attached: String,
    /// Of a legacy filter.
    pub priority: Option<u16>,
    pub handle: Option<u32>,
    /// RFC 3339; empty where it is not known.
    pub loaded_at: String,
    pub uid: u32,
    pub gpl: bool,
    /// Bytes.
    pub xlated: u32,
    pub jited: u32,
    pub memlock: u32,
    pub map_ids: Vec<u32>,
    pub btf_id: u32,
    /// tracer's own.
    pub ours: bool,
}

/// What a routing table answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Route(Route),
    /// The kernel's refusal, in words; its number.
    Refused {
        why: String,
        errno: i32,
    },
}

/// See [`crate::host::routes::RouteAnswer`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub destination: Option<IpAddr>,
    /// "unicast", "local", "blackhole", ...
    pub kind: String,
    pub gateway: Option<IpAddr>,
    pub device: String,
    pub ifindex: u32,
    pub source: Option<IpAddr>,
    pub table: String,
    pub mtu: Option<u32>,
}

/// A neighbour, or that there is none yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    pub address: Option<IpAddr>,
    pub device: String,
    /// Empty where it is not known.
    pub mac: String,
    /// As `ip neigh` prints it; "absent" where nobody has asked yet.
    pub state: String,
}

/// Somebody who translates Services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translation {
    /// "nftables", "iptables", "IPVS", "Cilium", "Calico eBPF".
    pub by: String,
    /// What was found.
    pub evidence: String,
    /// To whom, where it can be told; it is chosen anew for each connection.
    pub backends: Vec<SocketAddr>,
    /// Whether `backends` is all of them.
    pub tells_backends: bool,
}

/// An entry of a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub map: String,
    pub id: u32,
    /// As the CNI's own tool prints it.
    pub text: String,
    pub what: EntryKind,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// An address is a pod of this node.
    Endpoint {
        address: IpAddr,
        ifindex: u32,
        mac: String,
        node_mac: String,
    },
    /// An address is behind a node, or here (`None`).
    Behind {
        address: IpAddr,
        node: Option<IpAddr>,
    },
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniDrop {
    pub reason: String,
    /// "ingress", "egress".
    pub direction: String,
    pub packets: u64,
}

impl Device {
    /// All programs, as they run.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.xdp.iter().chain(&self.ingress).chain(&self.egress).chain(&self.netkit_peer)
    }
}

impl Answer {
    #[must_use]
    pub const fn route(&self) -> Option<&Route> {
        match self {
            Self::Route(route) => Some(route),
            Self::Refused { .. } => None,
        }
    }
}

impl std::fmt::Display for Answer {
    /// As `ip route get` prints it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { why, .. } => f.write_str(why),
            Self::Route(route) => {
                if route.kind != "unicast" {
                    write!(f, "{} ", route.kind)?;
                }
                if let Some(destination) = route.destination {
                    write!(f, "{destination}")?;
                }
                if let Some(gateway) = route.gateway {
                    write!(f, " via {gateway}")?;
                }
                write!(f, " dev {}", route.device)?;
                if let Some(source) = route.source {
                    write!(f, " src {source}")?;
                }
                if route.table != "main" && route.table != "local" {
                    write!(f, " table {}", route.table)?;
                }
                if let Some(mtu) = route.mtu {
                    write!(f, " mtu {mtu}")?;
                }
                Ok(())
            }
        }
    }
}
