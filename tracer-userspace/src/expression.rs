//! Expressions as tcpdump and Wireshark's capture dialogue know them (pcap-filter(7)), about the innermost packet.
//!
//! They are evaluated here and not in the kernel: what comes out of the ring has passed the kernel's filter by address,
//! port and protocol already, and an expression must hold at one hop of a packet only, which no single hook can know.
//! What is understood is what makes sense for an IP packet; the rest is refused by name.
//!
//! | module | holds |
//! |---|---|
//! | `token` | words, numbers and signs |
//! | `parse` | from these to an expression, with pcap-filter's rules for what is left out |

mod parse;
#[cfg(test)]
mod tests;
mod token;

use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::trajectory::model::{Packet, Trajectory, Verdict};

pub use parse::ExpressionError;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Protocol(Protocol),
    /// An address of this network.
    Net(Way, Net),
    /// A port out of this range.
    Port(Way, RangeInclusive<u16>),
    /// A number of the packet, of which only these bits are looked at.
    Compare {
        field: Field,
        mask: u32,
        relation: Relation,
        to: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Ipv4,
    Ipv6,
    /// IANA number.
    Number(u8),
}

/// Which end is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Source,
    Destination,
    Either,
    Both,
}

/// Addresses with the same first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    pub address: IpAddr,
    /// Bits that count.
    pub length: u8,
}

/// What can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Bytes at the device, encapsulation included.
    Length,
    TimeToLive,
    HopLimit,
    TcpFlags,
    IcmpType,
    IcmpCode,
    Icmp6Type,
    Icmp6Code,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Expression {
    /// Reads an expression, given as tcpdump takes it: in one argument or in several.
    ///
    /// # Errors
    /// [`ExpressionError`]: no expression, or one about something that is not looked at.
    pub fn parse(words: &[String]) -> Result<Option<Self>, ExpressionError> {
        let text = words.join(" ");
        if text.trim().is_empty() { Ok(None) } else { parse::parse(&text).map(Some) }
    }

    /// Whether tcpdump with this expression would have shown the packet at any of its hops. NAT changes addresses on the
    /// way, and who asks for one of them means the packet.
    #[must_use]
    pub fn wants(&self, trajectory: &Trajectory) -> bool {
        let dropped = match &trajectory.verdict {
            Verdict::Dropped(dropped) => Some(&dropped.sighting.packet),
            _ => None,
        };
        trajectory.hops.iter().map(|hop| &hop.packet).chain(dropped).any(|packet| self.holds(packet))
    }

    /// Whether it is true of a packet.
    #[must_use]
    pub fn holds(&self, packet: &Packet) -> bool {
        match self {
            Self::And(left, right) => left.holds(packet) && right.holds(packet),
            Self::Or(left, right) => left.holds(packet) || right.holds(packet),
            Self::Not(inner) => !inner.holds(packet),
            Self::Protocol(protocol) => protocol.is_of(packet),
            Self::Net(way, net) => way.holds(net.contains(packet.source), net.contains(packet.destination)),
            Self::Port(way, range) => packet.ports.is_some_and(|(source, destination)| {
                way.holds(range.contains(&source), range.contains(&destination))
            }),
            Self::Compare { field, mask, relation, to } => {
                field.of(packet).is_some_and(|value| relation.holds(value & mask, *to))
            }
        }
    }
}

impl Protocol {
    fn is_of(self, packet: &Packet) -> bool {
        match self {
            Self::Ipv4 => packet.source.is_ipv4(),
            Self::Ipv6 => packet.source.is_ipv6(),
            Self::Number(number) => packet.protocol == number,
        }
    }
}

impl Way {
    const fn holds(self, source: bool, destination: bool) -> bool {
        match self {
            Self::Source => source,
            Self::Destination => destination,
            Self::Either => source || destination,
            Self::Both => source && destination,
        }
    }
}

impl Net {
    fn contains(self, address: IpAddr) -> bool {
        let (own, other) = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (u128::from(own.to_bits()) << 96, u128::from(other.to_bits()) << 96)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits()),
            _ => return false,
        };
        // A shift by all bits is none at all in the machine.
        own.checked_shr(128 - u32::from(self.length)) == other.checked_shr(128 - u32::from(self.length))
    }
}

impl Field {
    /// `None`: the packet has no such field.
    fn of(self, packet: &Packet) -> Option<u32> {
        let version = |v4: bool| (packet.source.is_ipv4() == v4).then_some(u32::from(packet.ttl));
        let icmp = |protocol| packet.icmp.filter(|_| packet.protocol == protocol);
        match self {
            Self::Length => Some(packet.length),
            Self::TimeToLive => version(true),
            Self::HopLimit => version(false),
            Self::TcpFlags => {
                (packet.protocol == TCP && packet.ports.is_some()).then_some(packet.tcp_flags.into())
            }
            Self::IcmpType => icmp(ICMP).map(|icmp| icmp.kind.into()),
            Self::IcmpCode => icmp(ICMP).map(|icmp| icmp.code.into()),
            Self::Icmp6Type => icmp(ICMPV6).map(|icmp| icmp.kind.into()),
            Self::Icmp6Code => icmp(ICMPV6).map(|icmp| icmp.code.into()),
        }
    }
}

impl Relation {
    const fn holds(self, left: u32, right: u32) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}
