//! What the kernel is set to and what it counts: sysctls of a namespace, its connection tracking, and who translates
//! Services there.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::netlink::{Connection, attributes, read_text};
use super::netns::Netns;

/// `linux/netlink.h`
const NETLINK_NETFILTER: isize = 12;
/// `linux/netfilter/nf_tables.h`, in the subsystem NFNL_SUBSYS_NFTABLES.
const NFT_MSG_GETTABLE: u16 = 10 << 8 | 1;
const NFT_MSG_GETCHAIN: u16 = 10 << 8 | 4;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;

/// Sysctls of a namespace that decide about forwarding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub forwards_ipv4: Option<bool>,
    pub forwards_ipv6: Option<bool>,
    /// Entries of connection tracking, and how many there may be.
    pub conntrack: Option<(u64, u64)>,
}

/// Which parts of the kernel translate Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translators {
    /// Names of nftables' tables.
    pub nft_tables: BTreeSet<String>,
    /// `table chain` of nftables, where iptables' rules are when iptables is iptables-nft.
    pub nft_chains: BTreeSet<(String, String)>,
    /// Names of the legacy iptables' tables.
    pub iptables: BTreeSet<String>,
    pub ipvs: Vec<VirtualServer>,
    /// What could not be read.
    pub problems: Vec<String>,
}

/// A Service in IPVS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualServer {
    /// "TCP", "UDP", "SCTP".
    pub protocol: String,
    pub address: SocketAddr,
    pub scheduler: String,
    /// Those with a weight.
    pub real_servers: Vec<SocketAddr>,
}

/// Reads the sysctls.
///
/// # Errors
/// The namespace cannot be entered.
pub fn settings(netns: &Netns) -> io::Result<Settings> {
    netns.run(|| {
        let flag = |name: &str| sysctl(name).map(|value| value != "0");
        let number = |name: &str| sysctl(name).and_then(|value| value.parse().ok());
        let count = number("netfilter/nf_conntrack_count").zip(number("netfilter/nf_conntrack_max"));
        Settings {
            forwards_ipv4: flag("ipv4/ip_forward"),
            forwards_ipv6: flag("ipv6/conf/all/forwarding"),
            conntrack: count,
        }
    })
}

/// How strictly a device checks where packets come from: 0 not, 1 strictly, 2 loosely. The larger of the device's own and
/// all devices' holds (Documentation/networking/ip-sysctl.rst).
///
/// # Errors
/// The namespace cannot be entered.
pub fn reverse_path_filter(netns: &Netns, device: &str) -> io::Result<Option<u8>> {
    netns.run(|| {
        let value =
            |device: &str| -> Option<u8> { sysctl(&format!("ipv4/conf/{device}/rp_filter"))?.parse().ok() };
        Some(value(device)?.max(value("all")?))
    })
}

/// Must run inside the namespace, on a thread that is there.
fn sysctl(name: &str) -> Option<String> {
    // A device's name may have dots, and a path takes it as it is.
    let text = fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
    Some(text.trim().to_owned())
}

/// Reads who could translate Services.
///
/// # Errors
/// The namespace cannot be entered.
pub fn translators(netns: &Netns) -> io::Result<Translators> {
    let mut found = Translators::default();
    let (iptables, ipvs) = netns.run(|| {
        let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        let names = ["ip_tables_names", "ip6_tables_names"].map(|file| read(file).unwrap_or_default());
        (names.concat(), read("ip_vs"))
    })?;
    found.iptables = iptables.lines().map(str::to_owned).collect();
    match ipvs {
        Ok(ipvs) => found.ipvs = virtual_servers(&ipvs),
        // Without the module.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => found.problems.push(format!("IPVS cannot be read: {error}")),
    }
    match nftables(netns) {
        Ok((tables, chains)) => (found.nft_tables, found.nft_chains) = (tables, chains),
        // Without the module there is nothing to read.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {}
        Err(error) => found.problems.push(format!("nftables cannot be read: {error}")),
    }
    Ok(found)
}

type Tables = (BTreeSet<String>, BTreeSet<(String, String)>);

fn nftables(netns: &Netns) -> io::Result<Tables> {
    /// `struct nfgenmsg`: family (all), version, resource.
    const HEADER: [u8; 4] = [0; 4];
    let mut connection = Connection::open_protocol(netns, NETLINK_NETFILTER, 0)?;
    let name = |payload: &[u8], wanted: u16| {
        let mut found = attributes(payload.get(HEADER.len()..).unwrap_or_default());
        found.find(|(kind, _)| *kind == wanted).map(|(_, value)| read_text(value))
    };
    let tables = connection.dump(NFT_MSG_GETTABLE, &HEADER)?;
    let chains = connection.dump(NFT_MSG_GETCHAIN, &HEADER)?;
    Ok((
        tables.iter().filter_map(|message| name(&message.payload, NFTA_TABLE_NAME)).collect(),
        chains
            .iter()
            .filter_map(|message| {
                name(&message.payload, NFTA_CHAIN_TABLE).zip(name(&message.payload, NFTA_CHAIN_NAME))
            })
            .collect(),
    ))
}

/// Reads `/proc/net/ip_vs`: a line for each Service, and one below it for each real server.
fn virtual_servers(text: &str) -> Vec<VirtualServer> {
    let mut servers: Vec<VirtualServer> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["->", address, _, weight, ..] => {
                let (Some(server), Some(address)) = (servers.last_mut(), socket_address(address)) else {
                    continue;
                };
                if weight != "0" {
                    server.real_servers.push(address);
                }
            }
            [protocol @ ("TCP" | "UDP" | "SCTP"), address, scheduler, ..] => {
                if let Some(address) = socket_address(address) {
                    servers.push(VirtualServer {
                        protocol: protocol.to_owned(),
                        address,
                        scheduler: scheduler.to_owned(),
                        real_servers: Vec::new(),
                    });
                }
            }
            _ => {}
        }
    }
    servers
}

/// `0A600017:1F40`, or `[fd00:0010:...]:1F40`.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once(':')?;
    let address = match address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => IpAddr::V6(address.parse().ok()?),
        None => IpAddr::V4(u32::from_str_radix(address, 16).ok()?.into()),
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_ipvs_are_read_with_the_servers_that_get_something() {
        let text = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600017:1F40 rr
  -> 0AF401F6:0050      Masq    1      0          0
  -> 0AF40107:0050      Masq    0      0          0
UDP  [fd00:0010:0096:0000:0000:0000:0000:000a]:0035 rr
";
        let servers = virtual_servers(text);
        assert_eq!(servers.len(), 2);
        assert_eq!(servers[0].address, "10.96.0.23:8000".parse().unwrap());
        assert_eq!(servers[0].real_servers, ["10.244.1.246:80".parse().unwrap()]);
        assert_eq!(servers[1].address, "[fd00:10:96::a]:53".parse().unwrap());
        assert_eq!(virtual_servers("-> 0AF401F6:0050 Masq 1\nTCP x y\n\u{0}"), []);
    }
}
