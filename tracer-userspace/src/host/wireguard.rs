//! To whom a WireGuard device sends: its peers, by generic netlink (`linux/wireguard.h`). Keys of others than the peers'
//! public ones are not kept.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use netlink_sys::protocols::NETLINK_GENERIC;

use super::netlink::{Connection, attribute, attributes, read_address, read_u16, read_u32};
use super::netns::Netns;

/// `linux/genetlink.h`
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// struct genlmsghdr: command, version, reserved.
const GENERIC_HEADER: usize = 4;

const FAMILY: &[u8] = b"wireguard\0";
const WG_CMD_GET_DEVICE: u8 = 0;
const WGDEVICE_A_IFINDEX: u16 = 1;
const WGDEVICE_A_FWMARK: u16 = 7;
const WGDEVICE_A_PEERS: u16 = 8;
const WGPEER_A_PUBLIC_KEY: u16 = 1;
const WGPEER_A_ENDPOINT: u16 = 4;
const WGPEER_A_LAST_HANDSHAKE_TIME: u16 = 6;
const WGPEER_A_ALLOWEDIPS: u16 = 9;
const WGALLOWEDIP_A_IPADDR: u16 = 2;
const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;

/// A device and its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WireGuard {
    /// Of the device's own packets; 0 for none.
    pub mark: u32,
    pub peers: Vec<Peer>,
}

/// Who is at another end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// As `wg` prints it.
    pub public_key: String,
    /// Where its packets go; `None` before it has said anything itself.
    pub endpoint: Option<IpAddr>,
    /// Since 1970; `None` before the first.
    pub last_handshake: Option<Duration>,
    /// Networks behind it.
    pub allowed: Vec<(IpAddr, u8)>,
}

impl WireGuard {
    /// The peer to which packets for an address go, and the network that says so: the longest that has it.
    #[must_use]
    pub fn peer_for(&self, address: IpAddr) -> Option<(&Peer, (IpAddr, u8))> {
        let networks =
            self.peers.iter().flat_map(|peer| peer.allowed.iter().map(move |network| (peer, *network)));
        networks
            .filter(|(_, (network, bits))| is_within(address, *network, *bits))
            .max_by_key(|(_, (_, bits))| *bits)
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            (u128::from(u32::from(address)), u128::from(u32::from(network)), 32)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => (u128::from(address), u128::from(network), 128),
        _ => return false,
    };
    let rest = width - u32::from(bits).min(width);
    address.checked_shr(rest).unwrap_or(0) == network.checked_shr(rest).unwrap_or(0)
}

/// Reads a device. Needs CAP_NET_ADMIN.
///
/// # Errors
/// The kernel has no WireGuard, the device is none, or it may not be read.
pub fn read(netns: &Netns, ifindex: u32) -> io::Result<WireGuard> {
    let mut connection = Connection::open_protocol(netns, NETLINK_GENERIC, 0)?;
    let family = family(&mut connection)?;
    let mut question = vec![WG_CMD_GET_DEVICE, 1, 0, 0];
    question.extend_from_slice(&attribute(WGDEVICE_A_IFINDEX, ifindex.to_ne_bytes()));
    let mut found = WireGuard::default();
    for message in connection.dump(family, &question)? {
        take_device(&mut found, message.payload.get(GENERIC_HEADER..).unwrap_or_default());
    }
    Ok(found)
}

fn family(connection: &mut Connection) -> io::Result<u16> {
    let mut question = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
    let length = u16::try_from(4 + FAMILY.len()).unwrap_or(u16::MAX);
    question.extend_from_slice(&length.to_ne_bytes());
    question.extend_from_slice(&CTRL_ATTR_FAMILY_NAME.to_ne_bytes());
    question.extend_from_slice(FAMILY);
    question.resize(question.len().next_multiple_of(4), 0);
    let answer = connection.get(GENL_ID_CTRL, &question)?;
    let payload = answer.map(|message| message.payload).unwrap_or_default();
    attributes(payload.get(GENERIC_HEADER..).unwrap_or_default())
        .find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID)
        .and_then(|(_, value)| read_u16(value))
        .ok_or_else(|| io::Error::other("the kernel does not say which number its WireGuard has"))
}

/// A device with many peers comes in several messages, and a peer with many networks in several of those.
fn take_device(found: &mut WireGuard, bytes: &[u8]) {
    for (kind, value) in attributes(bytes) {
        match kind {
            WGDEVICE_A_FWMARK => found.mark = read_u32(value).unwrap_or(0),
            WGDEVICE_A_PEERS => {
                for (_, peer) in attributes(value) {
                    let peer = peer_of(peer);
                    match found.peers.last_mut() {
                        Some(last) if last.public_key == peer.public_key => last.allowed.extend(peer.allowed),
                        _ => found.peers.push(peer),
                    }
                }
            }
            _ => {}
        }
    }
}

fn peer_of(bytes: &[u8]) -> Peer {
    let mut peer = Peer::default();
    for (kind, value) in attributes(bytes) {
        match kind {
            WGPEER_A_PUBLIC_KEY => peer.public_key = STANDARD.encode(value),
            WGPEER_A_ENDPOINT => peer.endpoint = socket_address(value),
            // struct __kernel_timespec: two 64-bit numbers, all zeros before the first handshake.
            WGPEER_A_LAST_HANDSHAKE_TIME => {
                let seconds = value.first_chunk().copied().map_or(0, i64::from_ne_bytes);
                peer.last_handshake =
                    u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
            }
            WGPEER_A_ALLOWEDIPS => {
                peer.allowed = attributes(value).filter_map(|(_, network)| network_of(network)).collect();
            }
            _ => {}
        }
    }
    peer
}

fn network_of(bytes: &[u8]) -> Option<(IpAddr, u8)> {
    let (mut address, mut bits) = (None, None);
    for (kind, value) in attributes(bytes) {
        match kind {
            WGALLOWEDIP_A_IPADDR => address = read_address(value),
            WGALLOWEDIP_A_CIDR_MASK => bits = value.first().copied(),
            _ => {}
        }
    }
    Some((address?, bits?))
}

/// struct sockaddr_in (family, port, address) or sockaddr_in6 (family, port, flow, address).
fn socket_address(bytes: &[u8]) -> Option<IpAddr> {
    match i32::from(read_u16(bytes)?) {
        libc::AF_INET => read_address(bytes.get(4..8)?),
        libc::AF_INET6 => read_address(bytes.get(8..24)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Peer, WireGuard, is_within, take_device};

    fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn network(address: [u8; 4], bits: u8) -> Vec<u8> {
        nested(0, &[nested(1, &[2, 0]), nested(2, &address), nested(3, &[bits])].concat())
    }

    #[test]
    fn a_peer_in_two_messages_is_one_and_the_longest_network_wins() {
        let peer = |networks: &[Vec<u8>]| {
            let endpoint = [&[2, 0, 0xca, 0x6c][..], &[10, 135, 0, 12], &[0; 8]].concat();
            let parts = [nested(1, &[7; 32]), nested(4, &endpoint), nested(9, &networks.concat())].concat();
            nested(8, &nested(0, &parts))
        };
        let other = nested(
            8,
            &nested(0, &[nested(1, &[8; 32]), nested(9, &network([10, 244, 1, 246], 32))].concat()),
        );
        let mut found = WireGuard::default();
        take_device(&mut found, &[nested(7, &[0, 0, 16, 0]), peer(&[network([10, 244, 0, 0], 16)])].concat());
        take_device(&mut found, &peer(&[network([10, 245, 0, 0], 16)]));
        take_device(&mut found, &other);

        assert_eq!((found.mark, found.peers.len()), (0x10_0000, 2));
        let endpoint = |peer: &Peer| peer.endpoint.map(|address| address.to_string());
        let (peer, network) = found.peer_for([10, 244, 1, 1].into()).unwrap();
        assert_eq!((endpoint(peer).as_deref(), network.1), (Some("10.135.0.12"), 16));
        assert_eq!(found.peer_for([10, 245, 1, 1].into()).unwrap().0.public_key, peer.public_key);
        assert_eq!(found.peer_for([10, 244, 1, 246].into()).unwrap().1.1, 32);
        assert!(found.peer_for([10, 246, 0, 1].into()).is_none());
    }

    #[test]
    fn networks_of_no_bits_have_everything_of_their_family_and_hostile_ones_nothing_breaks() {
        assert!(is_within([192, 0, 2, 1].into(), [0, 0, 0, 0].into(), 0));
        assert!(!is_within([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), 255));
        assert!(!is_within("fd00::1".parse().unwrap(), [0, 0, 0, 0].into(), 0));
        for length in 0..40 {
            take_device(&mut WireGuard::default(), &vec![0xff; length]);
            take_device(&mut WireGuard::default(), &nested(8, &nested(0, &nested(4, &vec![2; length]))));
        }
    }
}
