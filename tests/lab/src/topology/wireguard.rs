//! Calico's WireGuard: `wireguard.cali` for IPv4 and `wg-v6.cali` for IPv6, each a peer of the other node's. A rule
//! leads all that WireGuard has not sent itself (its packets have a mark) to a table with routes to the other nodes'
//! pods.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::TUNNEL;
use super::routed::Routed;
use crate::lab::Node;
use crate::netlink::{self, Route};

/// The wire's, less 80 bytes of outer IPv6, UDP and WireGuard headers.
const MTU: u32 = 1420;

/// felix's defaults.
const TABLE: u32 = 1;
const PRIORITY: u32 = 99;
const MARK: u32 = 0x10_0000;

/// A device of one address family.
struct Device {
    name: &'static str,
    ifindex: u32,
    port: u16,
    ipv6: bool,
    /// By node, private and public. They protect nothing but a test's packets.
    keys: [[&'static str; 2]; 2],
}

const DEVICES: [Device; 2] = [
    Device {
        name: "wireguard.cali",
        ifindex: TUNNEL,
        port: 51820,
        ipv6: false,
        keys: [
            ["cNAqpFE51y8jJwDeG3vmFNRSdJeWDvXvr5ZG9OBd9Ho=", "ilPx99leQN5exImIcyvNVMQTdz0afZ/037VdjGgkORk="],
            ["kCY7pWKCNLnXmQfDCfsLUJ8oUYXANImNh1quW6cPKU4=", "ljO7jD2At6T1NlTTGXcvz/H3A9LnoC7HRgJ2w8xqEhc="],
        ],
    },
    Device {
        name: "wg-v6.cali",
        ifindex: TUNNEL + 1,
        port: 51821,
        ipv6: true,
        keys: [
            ["kBE9ZIEodQQfvn53JNMQdj+mTrgfYNrbqdCUNyyI+mU=", "umSSXcGwbltyfSIhJQvqRNQjTdTwvVzX/3/mCLxz9nI="],
            ["WMlaDR5sXbJn1zWz6XeBDEMyn6ZlYkIwncqeoqZYlFk=", "dFicVpu7DYyYP2mW40UGilaCS0KJwQy1xa8iYK6g7xw="],
        ],
    },
];

pub(super) fn build(nodes: &[Node]) -> Result<Routed> {
    for (number, node) in nodes.iter().enumerate() {
        for device in &DEVICES {
            device.add(nodes, number)?;
            node.netns().feed(
                "wg",
                &["setconf", device.name, "/proc/self/fd/0"],
                &device.configuration(nodes, number),
            )?;
        }
    }
    Ok(Routed { mtu: MTU })
}

impl Device {
    fn add(&self, nodes: &[Node], number: usize) -> Result<()> {
        let node = &nodes[number];
        netlink::in_netns(node.netns(), async |link| {
            let own = self.address(node);
            link.add_wireguard(self.name, self.ifindex, MTU).await?;
            link.set_up(self.ifindex).await?;
            link.add_address(self.ifindex, own, host_bits(own)).await?;
            link.add_rule_unless_marked(own, PRIORITY, MARK, TABLE).await?;
            for other in others(nodes, number) {
                for (address, bits) in self.behind(other) {
                    link.add_route(Route::to(address, bits, self.ifindex).table(TABLE)).await?;
                }
            }
            Ok(())
        })
    }

    /// As `wg setconf` reads it.
    fn configuration(&self, nodes: &[Node], number: usize) -> String {
        let [private, _] = self.keys[number];
        let mut text =
            format!("[Interface]\nPrivateKey = {private}\nListenPort = {}\nFwMark = {MARK:#x}\n", self.port);
        for (other, [_, public]) in
            nodes.iter().zip(self.keys).filter(|(other, _)| other.name() != nodes[number].name())
        {
            let wire = if self.ipv6 { IpAddr::from(other.ipv6()) } else { other.ipv4().into() };
            let behind = self.behind(other).map(|(address, bits)| format!("{address}/{bits}")).join(", ");
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "[Peer]\nPublicKey = {public}\nEndpoint = {}\nAllowedIPs = {behind}\n",
                SocketAddr::new(wire, self.port)
            );
        }
        text
    }

    /// The device's own address, from the pods' network.
    fn address(&self, node: &Node) -> IpAddr {
        if self.ipv6 { node.plan.gateway_ipv6().into() } else { node.plan.gateway.into() }
    }

    /// What a node's peers send to it.
    fn behind(&self, node: &Node) -> [(IpAddr, u8); 2] {
        let own = self.address(node);
        let pods = if self.ipv6 {
            (node.plan.pod_net_ipv6().into(), 64)
        } else {
            (node.plan.pod_net_ipv4().into(), 24)
        };
        [pods, (own, host_bits(own))]
    }
}

fn others(nodes: &[Node], number: usize) -> impl Iterator<Item = &Node> {
    nodes.iter().enumerate().filter(move |(other, _)| *other != number).map(|(_, node)| node)
}

fn host_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
