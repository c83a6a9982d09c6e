//! What goes wrong in a cluster: faults at a node that make its kernel drop packets.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;

use crate::lab::Lab;
use crate::netlink::{self, Route};
use crate::netns::Netns;

/// A fault at a node, for what it forwards.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An nftables rule drops UDP to this port.
    DropRule { port: u16 },
    /// An nftables rule rejects UDP to this port, with an ICMP error.
    RejectRule { port: u16 },
    /// An nftables rule drops what conntrack calls invalid.
    DropInvalid,
    /// A route says that nothing gets to this address, and no error goes back.
    Blackhole { to: Ipv4Addr },
    /// A device takes smaller packets than the senders think. `restored` is its MTU afterwards.
    SmallMtu { device: String, mtu: u32, restored: u32 },
    /// The way back to `source` leaves by `elsewhere`, and `device` filters by the reverse path.
    ReversePathFilter { device: String, source: Ipv4Addr, elsewhere: String },
}

/// A fault that is there. Dropping it mends it.
pub struct Injected {
    netns: Netns,
    fault: Fault,
}

impl Lab {
    /// Breaks something at a node until what is returned is dropped.
    ///
    /// # Errors
    /// When the kernel refuses it.
    ///
    /// # Panics
    /// When the lab has no such node.
    pub fn inject(&self, node: &str, fault: Fault) -> Result<Injected> {
        let injected = Injected { netns: self.node(node).netns().clone(), fault };
        injected.apply()?;
        Ok(injected)
    }
}

impl Injected {
    fn apply(&self) -> Result<()> {
        match &self.fault {
            Fault::DropRule { port } => self.add_rule(&format!("udp dport {port} drop")),
            Fault::RejectRule { port } => self.add_rule(&format!("udp dport {port} reject")),
            Fault::DropInvalid => self.add_rule("ct state invalid drop"),
            Fault::Blackhole { to } => self.add_route(Route::blackhole(*to)),
            Fault::SmallMtu { device, mtu, .. } => self.set_mtu(device, *mtu),
            Fault::ReversePathFilter { device, source, elsewhere } => {
                self.add_route(Route::to(*source, 32, self.netns.ifindex(elsewhere)?))?;
                self.filter_reverse_path(device, true)
            }
        }
    }

    fn mend(&self) -> Result<()> {
        match &self.fault {
            Fault::DropRule { .. } | Fault::RejectRule { .. } | Fault::DropInvalid => {
                self.netns.feed("nft", &["-f", "-"], "delete table inet fault\n")
            }
            Fault::Blackhole { to } => self.delete_route(Route::blackhole(*to)),
            Fault::SmallMtu { device, restored, .. } => self.set_mtu(device, *restored),
            Fault::ReversePathFilter { device, source, elsewhere } => {
                self.delete_route(Route::to(*source, 32, self.netns.ifindex(elsewhere)?))?;
                self.filter_reverse_path(device, false)
            }
        }
    }

    fn add_rule(&self, rule: &str) -> Result<()> {
        let table = format!(
            "table inet fault {{ chain forward {{ type filter hook forward priority filter; {rule}; }}\n}}\n"
        );
        self.netns.feed("nft", &["-f", "-"], &table)
    }

    fn add_route(&self, route: Route) -> Result<()> {
        netlink::in_netns(&self.netns, async |link| link.add_route(route).await)
    }

    fn delete_route(&self, route: Route) -> Result<()> {
        netlink::in_netns(&self.netns, async |link| link.delete_route(route).await)
    }

    fn set_mtu(&self, device: &str, mtu: u32) -> Result<()> {
        let ifindex = self.netns.ifindex(device)?;
        netlink::in_netns(&self.netns, async |link| link.set_mtu(ifindex, mtu).await)
    }

    fn filter_reverse_path(&self, device: &str, on: bool) -> Result<()> {
        let name = format!("net/ipv4/conf/{device}/rp_filter");
        self.netns.set_sysctls(&[(&name, if on { "1" } else { "0" })])
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        // The lab may be on its way out; what it leaves behind goes with its namespaces.
        let _ = self.mend();
    }
}

impl Route {
    /// Nothing gets to this address.
    fn blackhole(to: impl Into<IpAddr>) -> Self {
        let to = to.into();
        Self::to(to, if to.is_ipv4() { 32 } else { 128 }, 0).dead()
    }
}
