//! What the kernel answers about ways: routes, policy rules, neighbours, and where bridges and VXLAN devices have MAC
//! addresses. The same answers as `ip route get`, `ip rule`, `ip neigh` and `bridge fdb` print.

use std::io;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::netlink::{Connection, Message, attributes, octets, read_address, read_text, read_u32};
use super::netns::Netns;

/// `linux/rtnetlink.h`
const RTA_VIA: u16 = 18;
const RTA_METRIC_MTU: u16 = 2;
const RT_TABLE_LOCAL: u32 = 255;
/// `linux/neighbour.h`
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_MASTER: u16 = 9;
/// `linux/fib_rules.h`
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
/// The action that looks up a table.
const FR_ACT_TO_TBL: u8 = 1;

/// What is asked of the routing tables, as `ip route get DESTINATION from SOURCE iif DEVICE mark MARK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteQuestion {
    pub destination: IpAddr,
    /// Of packets that come from a device it must be given; it is checked as theirs are (rp_filter).
    pub source: Option<IpAddr>,
    /// The device that the packet comes from; `None` for packets of the namespace itself.
    pub from_device: Option<u32>,
    pub mark: u32,
}

impl RouteQuestion {
    /// Of a packet that the namespace itself sends.
    #[must_use]
    pub const fn to(destination: IpAddr, source: Option<IpAddr>) -> Self {
        Self { destination, source, from_device: None, mark: 0 }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// It leaves by a device.
    Unicast,
    /// It is for this namespace.
    Local,
    /// Thrown away, with or without an ICMP error (blackhole, unreachable, prohibit); or nothing a unicast packet meets.
    Other(u8),
}

/// The kernel's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteAnswer {
    pub kind: RouteKind,
    /// ifindex.
    pub device: Option<u32>,
    /// The next hop; `None` where the destination is on the device's own network.
    pub gateway: Option<IpAddr>,
    /// The source that the kernel would take.
    pub source: Option<IpAddr>,
    /// 254 is main, 255 local.
    pub table: u32,
    /// The route's own, bytes.
    pub mtu: Option<u32>,
}

/// A neighbour of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighbourEntry {
    /// ifindex.
    pub device: u32,
    pub address: IpAddr,
    pub mac: Vec<u8>,
    /// `NUD_*`.
    pub state: u16,
}

/// Where a bridge or VXLAN device has a MAC address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// ifindex: of a bridge's port, or of the VXLAN device.
    pub device: u32,
    /// ifindex of the bridge, for a port.
    pub bridge: Option<u32>,
    pub mac: Vec<u8>,
    /// The other end of the tunnel, of a VXLAN device.
    pub remote: Option<IpAddr>,
}

/// A policy rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleEntry {
    pub priority: u32,
    /// As `ip rule` prints it, without the priority.
    pub text: String,
}

/// The routing of one namespace.
pub struct Routing {
    connection: Connection,
}

impl Routing {
    /// # Errors
    /// The namespace cannot be entered.
    pub fn open(netns: &Netns) -> io::Result<Self> {
        Ok(Self { connection: Connection::open(netns, 0)? })
    }

    /// Asks for a route.
    ///
    /// # Errors
    /// What the kernel says: ENETUNREACH where there is none, EXDEV or EINVAL where it would not take the packet from
    /// that device and source.
    pub fn route(&mut self, question: &RouteQuestion) -> io::Result<RouteAnswer> {
        let answer = self.connection.get(libc::RTM_GETROUTE, &encode(question))?;
        answer
            .as_ref()
            .and_then(RouteAnswer::decode)
            .ok_or_else(|| io::Error::other("the kernel's answer about a route cannot be read"))
    }

    /// All neighbours of both families.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn neighbours(&mut self) -> io::Result<Vec<NeighbourEntry>> {
        let messages = self.connection.dump(libc::RTM_GETNEIGH, &[0; 12])?;
        Ok(messages.iter().filter_map(NeighbourEntry::decode).collect())
    }

    /// All MAC addresses that bridges and VXLAN devices have.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forwarding_database(&mut self) -> io::Result<Vec<FdbEntry>> {
        let mut header = [0; 12];
        header[0] = family_byte(libc::AF_BRIDGE);
        let messages = self.connection.dump(libc::RTM_GETNEIGH, &header)?;
        Ok(messages.iter().filter_map(FdbEntry::decode).collect())
    }

    /// The policy rules of an address's family, in order.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn rules(&mut self, like: IpAddr) -> io::Result<Vec<RuleEntry>> {
        let mut header = [0; 12];
        header[0] = family_of(like);
        let messages = self.connection.dump(libc::RTM_GETRULE, &header)?;
        Ok(messages.iter().filter_map(RuleEntry::decode).collect())
    }
}

/// `struct rtmsg` and attributes.
fn encode(question: &RouteQuestion) -> Vec<u8> {
    let length = if question.destination.is_ipv4() { 32 } else { 128 };
    let source_length = if question.source.is_some() { length } else { 0 };
    let mut bytes = vec![family_of(question.destination), length, source_length, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut add = |kind: u16, value: &[u8]| {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
    };
    add(libc::RTA_DST, &octets(question.destination));
    if let Some(source) = question.source {
        add(libc::RTA_SRC, &octets(source));
    }
    if let Some(device) = question.from_device {
        add(libc::RTA_IIF, &device.to_ne_bytes());
    }
    if question.mark != 0 {
        add(libc::RTA_MARK, &question.mark.to_ne_bytes());
    }
    bytes
}

impl RouteAnswer {
    fn decode(message: &Message) -> Option<Self> {
        // struct rtmsg: family, destination length, source length, TOS, table, protocol, scope, type, flags.
        let header: &[u8; 12] = message.payload.first_chunk()?;
        let kind = match header[7] {
            libc::RTN_UNICAST => RouteKind::Unicast,
            libc::RTN_LOCAL => RouteKind::Local,
            other => RouteKind::Other(other),
        };
        let mut answer =
            Self { kind, device: None, gateway: None, source: None, table: u32::from(header[4]), mtu: None };
        for (kind, value) in attributes(message.payload.get(header.len()..)?) {
            match kind {
                libc::RTA_OIF => answer.device = read_u32(value),
                libc::RTA_GATEWAY => answer.gateway = read_address(value),
                // A gateway of the other family: family, address.
                RTA_VIA => answer.gateway = read_address(value.get(2..)?),
                libc::RTA_PREFSRC => answer.source = read_address(value),
                libc::RTA_TABLE => answer.table = read_u32(value)?,
                libc::RTA_METRICS => {
                    let mtu = attributes(value).find(|(kind, _)| *kind == RTA_METRIC_MTU);
                    answer.mtu = mtu.and_then(|(_, value)| read_u32(value)).filter(|mtu| *mtu != 0);
                }
                _ => {}
            }
        }
        Some(answer)
    }
}

impl NeighbourEntry {
    fn decode(message: &Message) -> Option<Self> {
        let (device, state, _) = neighbour_header(message)?;
        let (mut address, mut mac) = (None, Vec::new());
        for (kind, value) in attributes(message.payload.get(12..)?) {
            match kind {
                NDA_DST => address = read_address(value),
                NDA_LLADDR => mac = value.to_vec(),
                _ => {}
            }
        }
        Some(Self { device, address: address?, mac, state })
    }
}

impl FdbEntry {
    fn decode(message: &Message) -> Option<Self> {
        let (device, _, family) = neighbour_header(message)?;
        if family != family_byte(libc::AF_BRIDGE) {
            return None;
        }
        let mut entry = Self { device, bridge: None, mac: Vec::new(), remote: None };
        for (kind, value) in attributes(message.payload.get(12..)?) {
            match kind {
                NDA_LLADDR => entry.mac = value.to_vec(),
                NDA_DST => entry.remote = read_address(value),
                NDA_MASTER => entry.bridge = read_u32(value),
                _ => {}
            }
        }
        Some(entry)
    }
}

/// ifindex, state and family of a `struct ndmsg`: family, padding, ifindex, state, flags, type.
fn neighbour_header(message: &Message) -> Option<(u32, u16, u8)> {
    let header: &[u8; 12] = message.payload.first_chunk()?;
    if message.kind != libc::RTM_NEWNEIGH {
        return None;
    }
    Some((read_u32(&header[4..])?, u16::from_ne_bytes([header[8], header[9]]), header[0]))
}

impl RuleEntry {
    fn decode(message: &Message) -> Option<Self> {
        // struct fib_rule_hdr: family, destination length, source length, TOS, table, two reserved, action, flags.
        let header: &[u8; 12] = message.payload.first_chunk()?;
        if message.kind != libc::RTM_NEWRULE {
            return None;
        }
        let (mut priority, mut table) = (0, u32::from(header[4]));
        let (mut from, mut to, mut mark, mut mask) = ("all".to_owned(), None, None, None);
        let mut devices = Vec::new();
        for (kind, value) in attributes(message.payload.get(header.len()..)?) {
            match kind {
                FRA_PRIORITY => priority = read_u32(value)?,
                FRA_TABLE => table = read_u32(value)?,
                FRA_SRC => from = format!("{}/{}", read_address(value)?, header[2]),
                FRA_DST => to = Some(format!("{}/{}", read_address(value)?, header[1])),
                FRA_FWMARK => mark = read_u32(value),
                FRA_FWMASK => mask = read_u32(value),
                FRA_IIFNAME => devices.push(format!("iif {}", read_text(value))),
                FRA_OIFNAME => devices.push(format!("oif {}", read_text(value))),
                _ => {}
            }
        }
        let mut words = vec![format!("from {from}")];
        words.extend(to.map(|to| format!("to {to}")));
        words.extend(mark.filter(|mark| *mark != 0).map(|mark| match mask {
            Some(mask) if mask != u32::MAX => format!("fwmark {mark:#x}/{mask:#x}"),
            _ => format!("fwmark {mark:#x}"),
        }));
        words.extend(devices);
        words.push(match header[7] {
            FR_ACT_TO_TBL => format!("lookup {}", table_name(table)),
            other => format!("action {other}"),
        });
        Some(Self { priority, text: words.join(" ") })
    }
}

/// As `ip` calls it without `/etc/iproute2/rt_tables` of somebody else's.
#[must_use]
pub fn table_name(table: u32) -> String {
    match table {
        253 => "default".to_owned(),
        254 => "main".to_owned(),
        RT_TABLE_LOCAL => "local".to_owned(),
        other => other.to_string(),
    }
}

/// As `ip neigh` prints it.
#[must_use]
pub fn neighbour_state(state: u16) -> &'static str {
    match state {
        0x01 => "INCOMPLETE",
        0x02 => "REACHABLE",
        0x04 => "STALE",
        0x08 => "DELAY",
        0x10 => "PROBE",
        0x20 => "FAILED",
        0x40 => "NOARP",
        0x80 => "PERMANENT",
        _ => "NONE",
    }
}

fn family_of(address: IpAddr) -> u8 {
    family_byte(if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 })
}

/// Families are small numbers; the kernel keeps them in a byte here.
fn family_byte(family: libc::c_int) -> u8 {
    u8::try_from(family).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, header: [u8; 12], attributes: &[(u16, &[u8])]) -> Message {
        let mut payload = header.to_vec();
        for (kind, value) in attributes {
            payload.extend_from_slice(&u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            payload.extend_from_slice(&kind.to_ne_bytes());
            payload.extend_from_slice(value);
            payload.resize(payload.len().next_multiple_of(4), 0);
        }
        Message { kind, payload }
    }

    #[test]
    fn a_question_has_whom_it_comes_from_and_by_which_device() {
        let question = RouteQuestion {
            destination: "10.244.1.246".parse().unwrap(),
            source: Some("10.244.0.153".parse().unwrap()),
            from_device: Some(257),
            mark: 0xf00,
        };
        let bytes = encode(&question);
        assert_eq!(bytes[..4], [2, 32, 32, 0]);
        let read: Vec<_> = attributes(&bytes[12..]).map(|(kind, value)| (kind, value.to_vec())).collect();
        assert_eq!(
            read,
            [
                (libc::RTA_DST, vec![10, 244, 1, 246]),
                (libc::RTA_SRC, vec![10, 244, 0, 153]),
                (libc::RTA_IIF, 257_u32.to_ne_bytes().to_vec()),
                (libc::RTA_MARK, 0xf00_u32.to_ne_bytes().to_vec()),
            ]
        );
    }

    #[test]
    fn a_route_is_read_with_its_gateway_whatever_the_gateways_family() {
        let header = [2, 32, 0, 0, 254, 0, 0, libc::RTN_UNICAST, 0, 0, 0, 0];
        let via: Vec<u8> =
            [[10, 0].as_slice(), &"fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets()].concat();
        let device = 7_u32.to_ne_bytes();
        let mtu: Vec<u8> = [8_u16.to_ne_bytes(), 2_u16.to_ne_bytes()]
            .concat()
            .into_iter()
            .chain(1450_u32.to_ne_bytes())
            .collect();
        let answer = RouteAnswer::decode(&message(
            libc::RTM_NEWROUTE,
            header,
            &[(libc::RTA_OIF, &device), (RTA_VIA, &via), (libc::RTA_METRICS, &mtu)],
        ));
        let expected = RouteAnswer {
            kind: RouteKind::Unicast,
            device: Some(7),
            gateway: Some("fe80::1".parse().unwrap()),
            source: None,
            table: 254,
            mtu: Some(1450),
        };
        assert_eq!(answer, Some(expected));
    }

    #[test]
    fn rules_read_as_ip_rule_prints_them() {
        let header = [2, 0, 24, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
        let words = |number: u32| number.to_ne_bytes();
        let rule = RuleEntry::decode(&message(
            libc::RTM_NEWRULE,
            header,
            &[
                (FRA_PRIORITY, &words(9)),
                (FRA_SRC, &[10, 244, 0, 0]),
                (FRA_FWMARK, &words(0x200)),
                (FRA_FWMASK, &words(0xf00)),
                (FRA_TABLE, &words(2004)),
            ],
        ));
        let text = "from 10.244.0.0/24 fwmark 0x200/0xf00 lookup 2004".to_owned();
        assert_eq!(rule, Some(RuleEntry { priority: 9, text }));
    }
}
