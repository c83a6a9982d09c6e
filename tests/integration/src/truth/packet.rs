//! A captured packet, parsed to the innermost one with etherparse.

use std::net::IpAddr;

use anyhow::{Result, anyhow, bail};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use tracer_lab::{CapturedPacket, Direction};

use crate::told::{Address, Encapsulation};

const VXLAN_PORTS: [u16; 2] = [4789, 8472];
const VXLAN_HEADER: usize = 8;
const GENEVE_PORT: u16 = 6081;
/// Without options.
const GENEVE_HEADER: usize = 8;
const ICMP_HEADER: usize = 8;

/// Hardware types: `ARPHRD_ETHER`; `tunl0` (`ARPHRD_TUNNEL`) and WireGuard (`ARPHRD_NONE`) begin with IP.
const ETHERNET: u16 = 1;
const IPIP: u16 = 768;
const NO_HEADER: u16 = 65534;

/// A captured packet.
#[derive(Clone, Debug)]
pub struct Seen {
    /// A node's name, or a pod's `namespace/name`.
    pub place: String,
    pub device: String,
    pub ifindex: u32,
    /// As tracer says it.
    pub direction: &'static str,
    /// Nanoseconds since the epoch.
    pub time_ns: u64,
    /// Bytes on the device.
    pub length: u32,
    pub encapsulation: Vec<Encapsulation>,
    pub src: Address,
    pub dst: Address,
    pub ttl: u8,
    pub protocol: u8,
    /// IPv4's identification; that of IPv6's fragment header.
    pub identification: Option<u32>,
    /// Bytes; `None` when the packet is no fragment.
    pub fragment_offset: Option<u32>,
    pub transport: Transport,
    pub payload: Vec<u8>,
}

/// What NAT leaves alone in the header behind IP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    Tcp {
        seq: u32,
        ack: u32,
        flags: Vec<&'static str>,
        window: u16,
        options: Vec<u8>,
    },
    Udp,
    Icmp {
        r#type: u8,
        code: u8,
        /// Of an echo, else 0.
        seq: u16,
    },
    /// A later fragment, or a protocol that the tests do not send.
    Other,
}

impl Seen {
    /// `None` for what is not IP.
    ///
    /// # Errors
    /// When the packet is broken: nothing in the lab sends such.
    pub fn parse(packet: &CapturedPacket) -> Result<Option<Self>> {
        let sliced = match packet.hardware {
            ETHERNET => SlicedPacket::from_ethernet(&packet.bytes),
            IPIP | NO_HEADER => SlicedPacket::from_ip(&packet.bytes),
            other => bail!("{} has hardware type {other}, which the lab has nowhere", packet.device),
        };
        let mut encapsulation = Vec::new();
        let parsed = sliced
            .map_err(anyhow::Error::from)
            .and_then(|sliced| innermost(&sliced, &mut encapsulation))
            .map_err(|error| anyhow!("{error}: {} {}: {:02x?}", packet.place, packet.device, packet.bytes))?;
        Ok(parsed.map(|inner| Self {
            place: packet.place.to_string(),
            device: packet.device.to_string(),
            ifindex: packet.ifindex,
            direction: match packet.direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            },
            time_ns: packet.time_ns,
            length: packet.bytes.len() as u32,
            encapsulation,
            ..inner
        }))
    }

    /// What stays the same on a packet's whole way.
    #[must_use]
    pub fn essence(&self) -> (u8, Option<u32>, Option<u32>, &Transport, &[u8]) {
        (self.protocol, self.identification, self.fragment_offset, &self.transport, &self.payload)
    }
}

/// Place, length and so on are left empty.
fn innermost(packet: &SlicedPacket<'_>, outer: &mut Vec<Encapsulation>) -> Result<Option<Seen>> {
    let Some(ip) = &packet.net else { return Ok(None) };
    let Some(mut seen) = addressed(ip) else { return Ok(None) };
    if seen.protocol == etherparse::ip_number::IPV4.0 {
        outer.push(Encapsulation {
            kind: "ipip".to_owned(),
            src: seen.src.ip,
            dst: seen.dst.ip,
            port: None,
            identifier: 0,
            ttl: seen.ttl,
        });
        let payload = packet.ip_payload().map(|payload| payload.payload).unwrap_or_default();
        return innermost(&SlicedPacket::from_ip(payload)?, outer);
    }
    match &packet.transport {
        Some(TransportSlice::Udp(udp)) if udp.destination_port() == GENEVE_PORT => {
            let header = udp.payload();
            let options = header.first().map_or(0, |first| usize::from(first & 0x3f) * 4);
            let Some((header, inner)) = header.split_at_checked(GENEVE_HEADER + options) else {
                bail!("a Geneve packet of {} bytes", header.len());
            };
            outer.push(Encapsulation {
                kind: "geneve".to_owned(),
                src: seen.src.ip,
                dst: seen.dst.ip,
                port: Some(udp.destination_port()),
                identifier: u32::from_be_bytes([0, header[4], header[5], header[6]]),
                ttl: seen.ttl,
            });
            return innermost(&SlicedPacket::from_ethernet(inner)?, outer);
        }
        Some(TransportSlice::Udp(udp)) if VXLAN_PORTS.contains(&udp.destination_port()) => {
            let Some((header, inner)) = udp.payload().split_at_checked(VXLAN_HEADER) else {
                bail!("a VXLAN packet of {} bytes", udp.payload().len());
            };
            outer.push(Encapsulation {
                kind: "vxlan".to_owned(),
                src: seen.src.ip,
                dst: seen.dst.ip,
                port: Some(udp.destination_port()),
                identifier: u32::from_be_bytes([0, header[4], header[5], header[6]]),
                ttl: seen.ttl,
            });
            return innermost(&SlicedPacket::from_ethernet(inner)?, outer);
        }
        Some(TransportSlice::Udp(udp)) => {
            seen.set_ports(udp.source_port(), udp.destination_port());
            seen.transport = Transport::Udp;
            seen.payload = udp.payload().to_vec();
        }
        Some(TransportSlice::Tcp(tcp)) => {
            seen.set_ports(tcp.source_port(), tcp.destination_port());
            let flags = [
                ("fin", tcp.fin()),
                ("syn", tcp.syn()),
                ("rst", tcp.rst()),
                ("psh", tcp.psh()),
                ("ack", tcp.ack()),
                ("urg", tcp.urg()),
                ("ece", tcp.ece()),
                ("cwr", tcp.cwr()),
            ];
            seen.transport = Transport::Tcp {
                seq: tcp.sequence_number(),
                ack: tcp.acknowledgment_number(),
                flags: flags.into_iter().filter_map(|(name, set)| set.then_some(name)).collect(),
                window: tcp.window_size(),
                options: tcp.options().to_vec(),
            };
            seen.payload = tcp.payload().to_vec();
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let is_echo = [0, 8].contains(&icmp.type_u8());
            seen.set_icmp(icmp.type_u8(), icmp.code_u8(), is_echo, icmp.bytes5to8(), icmp.slice());
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let is_echo = [128, 129].contains(&icmp.type_u8());
            seen.set_icmp(icmp.type_u8(), icmp.code_u8(), is_echo, icmp.bytes5to8(), icmp.slice());
        }
        _ => {
            seen.transport = Transport::Other;
            seen.payload = packet.ip_payload().map(|payload| payload.payload.to_vec()).unwrap_or_default();
            if seen.fragment_offset == Some(0) && seen.protocol == etherparse::ip_number::UDP.0 {
                seen.take_udp_header()?;
            }
        }
    }
    Ok(Some(seen))
}

fn addressed(ip: &NetSlice<'_>) -> Option<Seen> {
    let (src, dst, ttl, identification, fragment_offset, protocol): (IpAddr, IpAddr, _, _, _, _) = match ip {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let offset = u32::from(header.fragments_offset().value()) * 8;
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                header.ttl(),
                Some(u32::from(header.identification())),
                ip.is_payload_fragmented().then_some(offset),
                ip.payload_ip_number().0,
            )
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                header.hop_limit(),
                None,
                None,
                ip.payload().ip_number.0,
            )
        }
        NetSlice::Arp(_) => return None,
    };
    Some(Seen {
        place: String::new(),
        device: String::new(),
        ifindex: 0,
        direction: "",
        time_ns: 0,
        length: 0,
        encapsulation: Vec::new(),
        src: Address { ip: src, port: None },
        dst: Address { ip: dst, port: None },
        ttl,
        protocol,
        identification,
        fragment_offset,
        transport: Transport::Other,
        payload: Vec::new(),
    })
}

impl Seen {
    fn set_ports(&mut self, src: u16, dst: u16) {
        self.src.port = Some(src);
        self.dst.port = Some(dst);
    }

    fn set_icmp(&mut self, r#type: u8, code: u8, is_echo: bool, rest: [u8; 4], message: &[u8]) {
        let seq = if is_echo { u16::from_be_bytes([rest[2], rest[3]]) } else { 0 };
        self.transport = Transport::Icmp { r#type, code, seq };
        self.payload = message[ICMP_HEADER..].to_vec();
    }

    /// etherparse leaves a fragment's transport header to whoever assembles them.
    fn take_udp_header(&mut self) -> Result<()> {
        let header = etherparse::UdpHeaderSlice::from_slice(&self.payload)?;
        let (src, dst) = (header.source_port(), header.destination_port());
        self.set_ports(src, dst);
        self.transport = Transport::Udp;
        self.payload.drain(..etherparse::UdpHeader::LEN);
        Ok(())
    }
}
