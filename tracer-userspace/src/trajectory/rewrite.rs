//! What NAT may do to a packet. Going one way, a packet has its destination rewritten at most once and its
//! source at most once; the inventory says which rewrites it knows.

use std::net::IpAddr;

use crate::trajectory::model::{Directory, Owner, Packet};

/// One end of a packet; `port` is `None` where the protocol has none or a fragment does not carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: Option<u16>,
}

impl Endpoint {
    /// The packet's source.
    #[must_use]
    pub fn source(packet: &Packet) -> Self {
        Self { address: packet.source, port: packet.ports.map(|(source, _)| source) }
    }

    /// The packet's destination.
    #[must_use]
    pub fn destination(packet: &Packet) -> Self {
        Self { address: packet.destination, port: packet.ports.map(|(_, destination)| destination) }
    }

    /// Whether two sightings can show the same end: later fragments have no ports.
    #[must_use]
    pub fn may_be(self, other: Self) -> bool {
        self.address == other.address
            && (self.port == other.port || self.port.is_none() || other.port.is_none())
    }

    fn pair(self) -> (IpAddr, u16) {
        (self.address, self.port.unwrap_or(0))
    }
}

/// Which of a packet's ends changed and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rewrite {
    /// Destination: from a Service (or a port of a node) to an endpoint.
    Dnat,
    /// Source: to an address of a node.
    Snat,
    /// Source, on replies: from the endpoint back to the Service.
    ReverseDnat,
    /// Destination, on replies: from the node's address back to the pod.
    ReverseSnat,
}

impl Rewrite {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dnat => "DNAT",
            Self::Snat => "SNAT",
            Self::ReverseDnat => "reverse DNAT",
            Self::ReverseSnat => "reverse SNAT",
        }
    }
}

/// What the inventory says about a rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The inventory has this translation.
    Known(Rewrite),
    /// Possible, but the inventory does not have it.
    Unknown(Rewrite),
    /// No NAT does this: two pods' addresses, which are two packets.
    Impossible,
}

impl Judgement {
    /// What the rewrite is called, if it is one.
    #[must_use]
    pub const fn rewrite(self) -> Option<Rewrite> {
        match self {
            Self::Known(rewrite) | Self::Unknown(rewrite) => Some(rewrite),
            Self::Impossible => None,
        }
    }
}

/// Judges a change of the source on the way.
pub fn judge_source(
    directory: &(impl Directory + ?Sized),
    protocol: u8,
    from: Endpoint,
    to: Endpoint,
    at_ns: u64,
) -> Judgement {
    if directory.is_service_translation(protocol, to.pair(), from.pair()) {
        return Judgement::Known(Rewrite::ReverseDnat);
    }
    match (directory.owner(from.address, at_ns), directory.owner(to.address, at_ns)) {
        (Owner::Service(_), _) => Judgement::Impossible,
        (Owner::Pod { pod: a, .. }, Owner::Pod { pod: b, .. }) if a == b => Judgement::Unknown(Rewrite::Snat),
        (_, Owner::Pod { .. }) => Judgement::Impossible,
        (_, Owner::Node(_)) => Judgement::Known(Rewrite::Snat),
        (_, Owner::Service(_)) => Judgement::Unknown(Rewrite::ReverseDnat),
        (_, Owner::Unknown) => Judgement::Unknown(Rewrite::Snat),
    }
}

/// Judges a change of the destination on the way.
pub fn judge_destination(
    directory: &(impl Directory + ?Sized),
    protocol: u8,
    from: Endpoint,
    to: Endpoint,
    at_ns: u64,
) -> Judgement {
    if directory.is_service_translation(protocol, from.pair(), to.pair()) {
        return Judgement::Known(Rewrite::Dnat);
    }
    match (directory.owner(from.address, at_ns), directory.owner(to.address, at_ns)) {
        (_, Owner::Service(_)) => Judgement::Impossible,
        (Owner::Pod { pod: a, .. }, Owner::Pod { pod: b, .. }) if a != b => Judgement::Impossible,
        (Owner::Node(_), Owner::Pod { .. }) => Judgement::Known(Rewrite::ReverseSnat),
        (Owner::Node(_), _) => Judgement::Unknown(Rewrite::ReverseSnat),
        _ => Judgement::Unknown(Rewrite::Dnat),
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.address, self.port) {
            (address, None) => write!(f, "{address}"),
            (IpAddr::V4(address), Some(port)) => write!(f, "{address}:{port}"),
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
        }
    }
}
