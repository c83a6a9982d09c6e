//! The maps of Calico's eBPF datapath: `felix/bpf-gpl/{routes,nat_types,conntrack_types}.h`. Ports are in host order.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Layout, ipv4_at, u16_at, u32_at};
use crate::host::netlink::read_text;

/// Whose addresses are what.
pub const ROUTES: Layout = Layout { name: "cali_v4_routes", key_size: 8, value_size: 8 };
/// Services.
pub const FRONTENDS: Layout = Layout { name: "cali_v4_nat_fe3", key_size: 16, value_size: 20 };
pub const BACKENDS: Layout = Layout { name: "cali_v4_nat_be", key_size: 8, value_size: 8 };
/// Devices, since 3.28.
pub const INTERFACES: Layout = Layout { name: "cali_iface4", key_size: 4, value_size: 52 };
/// Devices, in 3.26.
pub const INTERFACES_2: Layout = Layout { name: "cali_iface2", key_size: 4, value_size: 20 };
/// Connections until 3.30, and since.
pub const CONNECTIONS_3: Layout = Layout { name: "cali_v4_ct3", key_size: 16, value_size: 88 };
pub const CONNECTIONS_4: Layout = Layout { name: "cali_v4_ct4", key_size: 16, value_size: 88 };

/// All of them.
pub const LAYOUTS: &[Layout] =
    &[ROUTES, FRONTENDS, BACKENDS, INTERFACES, INTERFACES_2, CONNECTIONS_3, CONNECTIONS_4];

/// Flags of a route and their names, in order.
const FLAGS: [(u32, &str); 8] = [
    (0x01, "in-pool"),
    (0x02, "nat-out"),
    (0x04, "workload"),
    (0x08, "local"),
    (0x10, "host"),
    (0x20, "same-subnet"),
    (0x40, "tunneled"),
    (0x400, "vxlan"),
];
/// Sent to other nodes through a tunnel.
pub const TUNNELED: u32 = 0x40;
const LOCAL_WORKLOAD: u32 = 0x04 | 0x08;
/// Bits of a front end's key before the client's address: address, port, protocol.
const FRONTEND_BITS: u32 = 32 + 16 + 8;

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub flags: u32,
    pub next: NextHop,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// A pod of this node, by its device.
    Device(u32),
    /// Another node.
    Node(Ipv4Addr),
    Nowhere,
}

/// The key for the longest prefix that has the address.
#[must_use]
pub fn route_key(address: Ipv4Addr) -> Vec<u8> {
    [32_u32.to_le_bytes(), address.octets()].concat()
}

impl Route {
    /// From a value of [`ROUTES`].
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        let flags = u32_at(value, 0)?;
        let next = if flags & LOCAL_WORKLOAD == LOCAL_WORKLOAD {
            NextHop::Device(u32_at(value, 4)?)
        } else {
            match ipv4_at(value, 4)? {
                address if address.is_unspecified() => NextHop::Nowhere,
                address => NextHop::Node(address),
            }
        };
        Some(Self { flags, next })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = FLAGS.iter().filter(|(flag, _)| self.flags & flag != 0).map(|(_, name)| *name);
        write!(f, "{}", names.collect::<Vec<_>>().join(" "))?;
        match self.next {
            NextHop::Device(ifindex) => write!(f, " ifindex {ifindex}"),
            NextHop::Node(address) => write!(f, " next hop {address}"),
            NextHop::Nowhere => Ok(()),
        }
    }
}

/// A Service's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    pub id: u32,
    pub count: u32,
}

/// The key of a Service for a client.
#[must_use]
pub fn frontend_key(address: SocketAddrV4, protocol: u8, client: Ipv4Addr) -> Vec<u8> {
    let mut key = (FRONTEND_BITS + 32).to_le_bytes().to_vec();
    key.extend_from_slice(&address.ip().octets());
    key.extend_from_slice(&address.port().to_le_bytes());
    key.push(protocol);
    key.extend_from_slice(&client.octets());
    key.push(0);
    key
}

impl Frontend {
    /// From a value of [`FRONTENDS`].
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        Some(Self { id: u32_at(value, 0)?, count: u32_at(value, 4)? })
    }
}

/// The key of a Service's backend, from 0 on.
#[must_use]
pub fn backend_key(frontend: Frontend, number: u32) -> Vec<u8> {
    [frontend.id.to_le_bytes(), number.to_le_bytes()].concat()
}

/// From a value of [`BACKENDS`].
#[must_use]
pub fn backend(value: &[u8]) -> Option<SocketAddrV4> {
    Some(SocketAddrV4::new(ipv4_at(value, 0)?, u16_at(value, 4)?))
}

/// The name of a device, from a value of [`INTERFACES`] or [`INTERFACES_2`].
#[must_use]
pub fn interface_name(value: &[u8]) -> Option<String> {
    value.get(4..20).map(read_text)
}

/// Both ends of a connection, from a key of [`CONNECTIONS_3`] or [`CONNECTIONS_4`], and its protocol.
#[must_use]
pub fn connection(key: &[u8]) -> Option<(u32, SocketAddrV4, SocketAddrV4)> {
    let one = SocketAddrV4::new(ipv4_at(key, 4)?, u16_at(key, 12)?);
    let other = SocketAddrV4::new(ipv4_at(key, 8)?, u16_at(key, 14)?);
    Some((u32_at(key, 0)?, one, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_leads_to_a_device_or_to_a_node() {
        let local = Route::decode(&[0x0d, 0, 0, 0, 131, 0, 0, 0]).unwrap();
        assert_eq!(local.to_string(), "in-pool workload local ifindex 131");
        let remote = Route::decode(&[0x45, 0, 0, 0, 10, 135, 0, 12]).unwrap();
        assert_eq!(remote.to_string(), "in-pool workload tunneled next hop 10.135.0.12");
        assert_eq!(Route::decode(&[1, 0, 0, 0, 0, 0, 0, 0]).unwrap().next, NextHop::Nowhere);
        assert_eq!(Route::decode(&[1, 0]), None);
        assert_eq!(route_key("10.244.1.246".parse().unwrap()), [32, 0, 0, 0, 10, 244, 1, 246]);
    }

    #[test]
    fn a_service_leads_to_its_backends() {
        let service = "10.96.0.23:8000".parse().unwrap();
        let key = frontend_key(service, 6, "10.244.0.153".parse().unwrap());
        assert_eq!(key, [88, 0, 0, 0, 10, 96, 0, 23, 0x40, 0x1f, 6, 10, 244, 0, 153, 0]);
        let frontend = Frontend::decode(&[9, 0, 0, 0, 2, 0, 0, 0]).unwrap();
        assert_eq!(backend_key(frontend, 1), [9, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(backend(&[10, 244, 1, 246, 80, 0, 0, 0]), Some("10.244.1.246:80".parse().unwrap()));
    }
}
