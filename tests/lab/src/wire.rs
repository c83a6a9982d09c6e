//! The wire between the nodes' NICs.
//!
//! It is a veth pair or, on demand, two with a relay between them ([`relay`]). A veth pair is quick, and a veth hands over whatever the stack gives it: packets of 64 KiB that no real wire
//! carries. With `gso_max_segs 1` the stack cuts them before the device. Nothing merges them again at the other
//! NIC; the tunnel device there does.

mod impairment;
mod port;
mod relay;

use anyhow::Result;

use crate::lab::Node;
use crate::netlink::{self, End, Route};
use crate::netns::Netns;
use crate::options::Wire;

pub use self::impairment::{Chance, Impairment};
pub use self::relay::{Arrival, Departure, Fate, Relay, RelayLog, RelayOptions};

/// Interface index of `eth0` on every node, the lowest that the lab gives. The kernel gives those below to the devices
/// that tunnels' modules put into every new namespace (`tunl0`, `sit0`, `ip6tnl0`, `gre0`, ...).
pub(crate) const NIC: u32 = 20;

/// MTU of the wire.
const MTU: u32 = 1500;

/// Gives both nodes an `eth0` with addresses, and makes them routers. A relay lives in a namespace that is called
/// `prefix`-wire.
pub(crate) fn connect(a: &Node, b: &Node, wire: Wire, prefix: &str) -> Result<Option<Relay>> {
    let relay = match wire {
        Wire::Veth => {
            add_pair(a, b)?;
            None
        }
        Wire::Relay(options) => {
            Some(Relay::connect([a, b], options, Netns::create(&format!("{prefix}-wire"))?)?)
        }
    };
    [a, b].into_iter().try_for_each(|node| configure(node, NIC))?;
    Ok(relay)
}

fn add_pair(a: &Node, b: &Node) -> Result<()> {
    let end = |node| {
        let node: &Node = node;
        End {
            netns: node.netns(),
            name: "eth0",
            ifindex: NIC,
            mac: node.plan.mac,
            mtu: MTU,
            gso_max_segs: Some(1),
        }
    };
    let (near, far) = (end(a), end(b));
    netlink::in_netns(a.netns(), async |link| link.add_veth(&near, &far).await)
}

/// Makes a device of this thread's namespace, behind which the other node is, the node's `eth0`. Returns its index,
/// which it keeps.
pub(crate) fn adopt(node: &Node, device: &str) -> Result<u32> {
    let nic = netlink::give_away(device, node.netns())?;
    netlink::in_netns(node.netns(), async |link| {
        link.rename(nic, "eth0").await?;
        link.set_mac(nic, node.plan.mac).await
    })?;
    configure(node, nic)?;
    Ok(nic)
}

fn configure(node: &Node, nic: u32) -> Result<()> {
    netlink::in_netns(node.netns(), async |link| {
        link.set_up(nic).await?;
        link.add_address(nic, node.plan.ipv4, 24).await?;
        link.add_address(nic, node.plan.ipv6, 64).await?;
        // Where everything goes that is not the lab's. Nothing there answers, but without it a node would
        // not answer ARP for its pods (proxy_arp) nor take Service addresses.
        for address in [node.plan.ipv4.into(), node.plan.ipv6.into()] {
            link.add_route(Route::default_like(address, nic)).await?;
        }
        Ok(())
    })?;
    node.netns().set_sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])
}
