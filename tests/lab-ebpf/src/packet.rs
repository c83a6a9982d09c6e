//! What the stand-ins need to know of a packet.

use aya_ebpf::programs::TcContext;
use tracer_lab_ebpf::{FAMILY_IPV4, FAMILY_IPV6, Flow};

/// Length of an Ethernet header in bytes; every device here has one.
pub const ETHERNET_LEN: usize = 14;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6_FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;

/// Addresses, ports and hop limit of one packet.
pub struct Packet {
    pub family: u8,
    pub ttl: u8,
    pub flow: Flow,
}

impl Packet {
    /// Reads the IP packet behind the Ethernet header; `None` for anything else.
    #[inline(always)]
    pub fn parse(ctx: &TcContext) -> Option<Self> {
        match u16::from_be(ctx.load(12).ok()?) {
            ETHERTYPE_IPV4 => Self::parse_ipv4(ctx),
            ETHERTYPE_IPV6 => Self::parse_ipv6(ctx),
            _ => None,
        }
    }

    #[inline(always)]
    fn parse_ipv4(ctx: &TcContext) -> Option<Self> {
        let header: [u32; 5] = ctx.load(ETHERNET_LEN).ok()?;
        let [ttl, protocol, ..] = header[2].to_ne_bytes();
        // More fragments, or an offset.
        let fragment = u32::from_be(header[1]) & 0x3fff != 0;
        let l4 = ETHERNET_LEN + (u32::from_be(header[0]) >> 24 & 0x0f) as usize * 4;
        let flow = with_ports(ctx, [header[3], 0, 0, 0], [header[4], 0, 0, 0], protocol, l4, fragment)?;
        Some(Self { family: FAMILY_IPV4, ttl, flow })
    }

    #[inline(always)]
    fn parse_ipv6(ctx: &TcContext) -> Option<Self> {
        let header: [u32; 2] = ctx.load(ETHERNET_LEN).ok()?;
        let [_, _, protocol, ttl] = header[1].to_ne_bytes();
        let source = ctx.load(ETHERNET_LEN + 8).ok()?;
        let destination = ctx.load(ETHERNET_LEN + 24).ok()?;
        let fragment = protocol == IPV6_FRAGMENT;
        let flow = with_ports(ctx, source, destination, protocol, ETHERNET_LEN + 40, fragment)?;
        Some(Self { family: FAMILY_IPV6, ttl, flow })
    }

    /// The flow as its answers carry it.
    #[inline(always)]
    pub fn reverse(&self) -> Flow {
        Flow {
            source: self.flow.destination,
            destination: self.flow.source,
            source_port: self.flow.destination_port,
            destination_port: self.flow.source_port,
            protocol: self.flow.protocol,
        }
    }

    /// What stands for the packets between the two addresses that carry no ports.
    #[inline(always)]
    pub fn pair(&self) -> Flow {
        Flow {
            source: self.flow.source,
            destination: self.flow.destination,
            source_port: 0,
            destination_port: 0,
            protocol: 0,
        }
    }
}

/// Fragments and ICMP errors become the pair of their addresses: they belong to a flow whose ports they do not
/// carry, or not all of them do.
#[inline(always)]
fn with_ports(
    ctx: &TcContext,
    source: [u32; 4],
    destination: [u32; 4],
    protocol: u8,
    l4: usize,
    fragment: bool,
) -> Option<Flow> {
    let mut flow =
        Flow { source, destination, source_port: 0, destination_port: 0, protocol: u32::from(protocol) };
    if fragment {
        flow.protocol = 0;
        return Some(flow);
    }
    match protocol {
        TCP | UDP => {
            let ports: [u16; 2] = ctx.load(l4).ok()?;
            flow.source_port = ports[0];
            flow.destination_port = ports[1];
        }
        ICMP => {
            let kind: u8 = ctx.load(l4).ok()?;
            if matches!(kind, 3 | 11 | 12) {
                flow.protocol = 0;
            }
        }
        ICMPV6 => {
            let kind: u8 = ctx.load(l4).ok()?;
            if kind < 128 {
                flow.protocol = 0;
            }
        }
        _ => {}
    }
    Some(flow)
}
