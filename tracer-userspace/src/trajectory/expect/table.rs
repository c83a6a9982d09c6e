//! The device transition model: what may follow what, as data. One way through one node is a walk over this
//! table from an entrance to an exit; `when` picks the row, first match wins.
//!
//! | datapath | rows that make it |
//! |---|---|
//! | Calico iptables/nft, kindnet, ptp (routed veth) | pod, peer, NIC |
//! | the same with VXLAN, IPIP, Geneve | pod, peer, tunnel, NIC (`Encapsulated`) |
//! | flannel and other bridge CNIs | pod, peer, bridge (`SourceRoutedOverBridge`, `TargetRoutedOverBridge`), tunnel, NIC |
//! | two ports of one bridge | pod, peer, peer, pod: no bridge hook |
//! | Cilium legacy routing | as routed veth with tunnel; `cilium_host` is `Other` and never required |
//! | Cilium and Calico eBPF with `bpf_redirect_peer`, `bpf_redirect` | the same rows; [`SKIPS`] says what may be absent |
//! | WireGuard between nodes | the same as with VXLAN; [`OPAQUE`] says which hops show nothing of the packet |

use crate::trajectory::order::{
    BRIDGE_DOWN, BRIDGE_UP, NIC_IN, NIC_OUT, PEER_IN, PEER_OUT, POD_IN, POD_OUT, Stage, TUNNEL_IN, TUNNEL_OUT,
};

/// Where a walk through a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The source pod is on this node.
    FromPod,
    /// A process of the node itself sends.
    FromHost,
    /// Arrives from another machine.
    FromWire,
    /// Just before the way out: the node's IP stack or whatever stands for it.
    Through,
    Hook(Stage),
    /// The walk is over.
    Done,
}

/// What must hold for a row to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Always,
    /// The source's peer is a port of a bridge, and the packet went up to the IP stack.
    SourceRoutedOverBridge,
    /// The destination's peer is a port of a bridge, and the packet comes from the IP stack.
    TargetRoutedOverBridge,
    /// The packet arrived in a tunnel.
    ArrivedEncapsulated,
    /// The packet leaves in a tunnel.
    LeavesEncapsulated,
    /// The packet's destination is a pod here.
    ToPod,
    /// The packet goes on to another machine.
    ToWire,
}

/// One row: after `from` comes `to`, where `when` holds.
#[derive(Clone, Copy, Debug)]
pub struct Transition {
    pub from: At,
    pub to: At,
    pub when: When,
}

const fn row(from: At, to: At, when: When) -> Transition {
    Transition { from, to, when }
}

/// The table.
pub const TRANSITIONS: &[Transition] = &[
    row(At::FromPod, At::Hook(POD_OUT), When::Always),
    row(At::Hook(POD_OUT), At::Hook(PEER_OUT), When::Always),
    row(At::Hook(PEER_OUT), At::Hook(BRIDGE_UP), When::SourceRoutedOverBridge),
    row(At::Hook(PEER_OUT), At::Through, When::Always),
    row(At::Hook(BRIDGE_UP), At::Through, When::Always),
    row(At::FromHost, At::Through, When::Always),
    row(At::FromWire, At::Hook(NIC_IN), When::Always),
    row(At::Hook(NIC_IN), At::Hook(TUNNEL_IN), When::ArrivedEncapsulated),
    row(At::Hook(NIC_IN), At::Through, When::Always),
    row(At::Hook(TUNNEL_IN), At::Through, When::Always),
    row(At::Through, At::Hook(BRIDGE_DOWN), When::TargetRoutedOverBridge),
    row(At::Through, At::Hook(PEER_IN), When::ToPod),
    row(At::Hook(BRIDGE_DOWN), At::Hook(PEER_IN), When::Always),
    row(At::Hook(PEER_IN), At::Hook(POD_IN), When::Always),
    row(At::Hook(POD_IN), At::Done, When::Always),
    row(At::Through, At::Hook(TUNNEL_OUT), When::LeavesEncapsulated),
    row(At::Through, At::Hook(NIC_OUT), When::ToWire),
    row(At::Hook(TUNNEL_OUT), At::Hook(NIC_OUT), When::Always),
    row(At::Hook(NIC_OUT), At::Done, When::Always),
    row(At::Through, At::Done, When::Always),
];

/// The next place after `from`, given which conditions hold.
#[must_use]
pub fn next(from: At, holds: impl Fn(When) -> bool) -> At {
    TRANSITIONS
        .iter()
        .find(|row| row.from == from && (row.when == When::Always || holds(row.when)))
        .map_or(At::Done, |row| row.to)
}

/// How a hook can be passed by without the packet being lost.
#[derive(Clone, Copy, Debug)]
pub struct Skip {
    /// The hook that is not seen.
    pub missing: Stage,
    /// What must be seen next for this to be the reason; `None` for anything.
    pub next: Option<Stage>,
    /// The kernel's mechanism, for people.
    pub mechanism: &'static str,
}

/// Every skip needs a BPF program of somebody else on the hook just before it: only such a program can redirect.
pub const SKIPS: &[Skip] = &[
    Skip { missing: PEER_IN, next: Some(POD_IN), mechanism: "bpf_redirect_peer" },
    Skip { missing: BRIDGE_UP, next: None, mechanism: "bpf_redirect" },
    Skip { missing: BRIDGE_DOWN, next: None, mechanism: "bpf_redirect" },
    Skip { missing: TUNNEL_IN, next: None, mechanism: "bpf_redirect" },
    Skip { missing: TUNNEL_OUT, next: Some(NIC_OUT), mechanism: "bpf_redirect" },
];

/// The mechanism by which `missing` may have been passed by when `next` was seen after it.
#[must_use]
pub fn skip(missing: Stage, next: Stage) -> Option<&'static str> {
    SKIPS
        .iter()
        .find(|skip| skip.missing == missing && skip.next.is_none_or(|wanted| wanted == next))
        .map(|skip| skip.mechanism)
}

/// A tunnel that encrypts: hops of the node that hold nothing of the packet, though it passes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opaque {
    /// The kernel's link kind of the tunnel device.
    pub kind: &'static str,
    /// What encrypts, for people.
    pub name: &'static str,
    /// What passes in place of the packet, for people.
    pub carrier: &'static str,
    pub hides: &'static [Stage],
}

pub const OPAQUE: &[Opaque] =
    &[Opaque { kind: "wireguard", name: "WireGuard", carrier: "UDP", hides: &[NIC_OUT, NIC_IN] }];

/// What hides a hop where packets are in a tunnel of this kind.
#[must_use]
pub fn opaque(kind: &str, stage: Stage) -> Option<&'static Opaque> {
    OPAQUE.iter().find(|opaque| opaque.kind == kind && opaque.hides.contains(&stage))
}
