//! What the lab builds: names, addresses and MAC addresses, after walk 1 of the reference walks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::options::Topology;

/// Cilium's security identity of the reference pods.
pub(crate) const IDENTITY: u32 = 2735;

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A node as it is to be.
#[derive(Clone, Debug)]
pub(crate) struct NodePlan {
    pub(crate) name: &'static str,
    pub(crate) number: u8,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Ipv6Addr,
    pub(crate) mac: Mac,
    /// Where the tunnel device gets its own address, MAC and, in Cilium, the pods their next hop.
    pub(crate) gateway: Ipv4Addr,
    pub(crate) tunnel_mac: Mac,
}

impl NodePlan {
    /// The pods' network on this node, a /24.
    pub(crate) fn pod_net_ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number, 0)
    }

    /// The pods' network on this node, a /64.
    pub(crate) fn pod_net_ipv6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, 0x244, u16::from(self.number), 0, 0, 0, 0)
    }

    /// The node's own address in the pods' network.
    pub(crate) fn gateway_ipv6(&self) -> Ipv6Addr {
        pod_ipv6(self.gateway)
    }
}

/// The nodes of the walk. The walk gives httpbin's node address only; the other is its neighbour.
pub(crate) const NODES: [NodePlan; 2] = [
    NodePlan {
        name: "telekom-xwkb3",
        number: 0,
        ipv4: Ipv4Addr::new(10, 135, 0, 11),
        ipv6: Ipv6Addr::new(0xfd00, 0x10, 0x135, 0, 0, 0, 0, 0x11),
        mac: Mac([0x02, 0x0a, 0x87, 0x00, 0x00, 0x0b]),
        gateway: Ipv4Addr::new(10, 244, 0, 237),
        tunnel_mac: Mac([0x66, 0x0a, 0xf4, 0x00, 0x00, 0xed]),
    },
    NodePlan {
        name: "telekom-xwkb8",
        number: 1,
        ipv4: Ipv4Addr::new(10, 135, 0, 12),
        ipv6: Ipv6Addr::new(0xfd00, 0x10, 0x135, 0, 0, 0, 0, 0x12),
        mac: Mac([0x02, 0x0a, 0x87, 0x00, 0x00, 0x0c]),
        gateway: Ipv4Addr::new(10, 244, 1, 17),
        tunnel_mac: Mac([0x66, 0x0a, 0xf4, 0x00, 0x01, 0x11]),
    },
];

/// A pod as it is to be.
#[derive(Clone, Debug)]
pub(crate) struct PodPlan {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) node: usize,
    pub(crate) uid: String,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Ipv6Addr,
    /// MAC address of the pod's eth0.
    pub(crate) mac: Mac,
    /// MAC address of the host side.
    pub(crate) host_mac: Mac,
    /// Interface index of eth0 in the pod.
    pub(crate) ifindex: u32,
    /// Interface index of the host side on the node.
    pub(crate) host_ifindex: u32,
    /// Name of the host side on the node.
    pub(crate) host_device: String,
    /// Cilium's endpoint number.
    pub(crate) endpoint_id: u16,
}

/// What the walk says about a pod; the rest is derived.
struct Known {
    name: &'static str,
    namespace: &'static str,
    node: usize,
    ipv4: Ipv4Addr,
    mac: Mac,
    host_mac: Mac,
    ifindex: u32,
    host_ifindex: u32,
    lxc: &'static str,
    endpoint_id: u16,
}

const KNOWN: [Known; 4] = [
    Known {
        name: "curl",
        namespace: "default",
        node: 0,
        ipv4: Ipv4Addr::new(10, 244, 0, 153),
        mac: Mac([0x9a, 0xb4, 0xaa, 0x83, 0x18, 0x62]),
        host_mac: Mac([0xf6, 0x25, 0xf2, 0x9e, 0x91, 0x49]),
        ifindex: 256,
        host_ifindex: 257,
        lxc: "lxced3096cb2cb1",
        endpoint_id: 812,
    },
    Known {
        name: "httpbin",
        namespace: "default",
        node: 1,
        ipv4: Ipv4Addr::new(10, 244, 1, 246),
        mac: Mac([0xc2, 0x36, 0xa6, 0xd2, 0x9c, 0xce]),
        host_mac: Mac([0xda, 0x22, 0x1a, 0x46, 0xfe, 0x6a]),
        ifindex: 130,
        host_ifindex: 131,
        lxc: "lxc0f9f206e5d0b",
        endpoint_id: 1574,
    },
    // Not in the walk. Its eth0 has the index of curl's, which only their namespaces tell apart.
    Known {
        name: "httpbin-local",
        namespace: "default",
        node: 0,
        ipv4: Ipv4Addr::new(10, 244, 0, 42),
        mac: Mac([0x5e, 0x1d, 0x70, 0x0c, 0x42, 0x01]),
        host_mac: Mac([0x5e, 0x1d, 0x70, 0x0c, 0x42, 0x02]),
        ifindex: 256,
        host_ifindex: 259,
        lxc: "lxc5b7d0e42a91c",
        endpoint_id: 977,
    },
    Known {
        name: "coredns",
        namespace: "kube-system",
        node: 1,
        ipv4: Ipv4Addr::new(10, 244, 1, 33),
        mac: Mac([0x5e, 0x1d, 0x70, 0x0d, 0x33, 0x01]),
        host_mac: Mac([0x5e, 0x1d, 0x70, 0x0d, 0x33, 0x02]),
        ifindex: 132,
        host_ifindex: 133,
        lxc: "lxc8c21f7a0d3e4",
        endpoint_id: 1590,
    },
];

/// The pods that every lab starts with.
pub(crate) fn reference_pods(topology: Topology) -> Vec<PodPlan> {
    KNOWN
        .iter()
        .map(|known| PodPlan {
            namespace: known.namespace.to_owned(),
            name: known.name.to_owned(),
            node: known.node,
            uid: uid(&[known.namespace, known.name]),
            ipv4: known.ipv4,
            ipv6: pod_ipv6(known.ipv4),
            mac: mac(topology, known.mac),
            host_mac: host_mac(topology, known.host_mac),
            ifindex: known.ifindex,
            host_ifindex: known.host_ifindex,
            host_device: if topology.is_cilium() {
                known.lxc.to_owned()
            } else {
                host_device(topology, known.namespace, known.name, 0)
            },
            endpoint_id: known.endpoint_id,
        })
        .collect()
}

/// A pod that is added later; `birth` counts them, so that a pod of the same name is another pod, and `birth_on_node`
/// those of its node, of which each has an address of its own. `None` when there is none left.
pub(crate) fn later_pod(
    topology: Topology,
    node: usize,
    name: &str,
    birth: u16,
    birth_on_node: usize,
) -> Option<PodPlan> {
    let number = NODES[node].number;
    let taken = |host: &u8| {
        let address = Ipv4Addr::new(10, 244, number, *host);
        address == NODES[node].gateway || KNOWN.iter().any(|known| known.ipv4 == address)
    };
    let host = (100..=254).chain(2..100).filter(|host| !taken(host)).nth(birth_on_node)?;
    let ipv4 = Ipv4Addr::new(10, 244, number, host);
    let ifindex = 300 + 2 * u32::from(birth);
    let mac = |end| Mac([0x5e, 0x1d, 0x70, number, host, end]);
    Some(PodPlan {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        node,
        uid: uid(&["default", name, &birth.to_string()]),
        ipv4,
        ipv6: pod_ipv6(ipv4),
        mac: self::mac(topology, mac(1)),
        host_mac: host_mac(topology, mac(2)),
        ifindex,
        host_ifindex: ifindex + 1,
        host_device: host_device(topology, "default", name, birth),
        endpoint_id: 2000 + birth,
    })
}

/// Calico gives every host side the same MAC address.
const CALICO_HOST_MAC: Mac = Mac([0xee; 6]);

/// Devices without Ethernet neighbours have this one.
const NO_MAC: Mac = Mac([0; 6]);

fn mac(topology: Topology, plan: Mac) -> Mac {
    if topology == Topology::CiliumNetkit { NO_MAC } else { plan }
}

fn host_mac(topology: Topology, plan: Mac) -> Mac {
    if topology.is_calico() { CALICO_HOST_MAC } else { mac(topology, plan) }
}

fn host_device(topology: Topology, namespace: &str, name: &str, birth: u16) -> String {
    let hash = hash(&[namespace, name, &birth.to_string()]);
    if topology.is_calico() {
        format!("cali{:011x}", hash & 0xfff_ffff_ffff)
    } else if topology.is_cilium() {
        format!("lxc{:012x}", hash & 0xffff_ffff_ffff)
    } else {
        format!("veth{:08x}", hash & 0xffff_ffff)
    }
}

/// The IPv6 address that reads like the IPv4 one: 10.244.1.246 is fd00:10:244:1::246.
fn pod_ipv6(ipv4: Ipv4Addr) -> Ipv6Addr {
    let [_, _, node, host] = ipv4.octets();
    let digits = u16::from(host / 100) << 8 | u16::from(host / 10 % 10) << 4 | u16::from(host % 10);
    Ipv6Addr::new(0xfd00, 0x10, 0x244, u16::from(node), 0, 0, 0, digits)
}

/// A `metadata.uid` that is the same in every run.
pub(crate) fn uid(parts: &[&str]) -> String {
    let high = hash(parts);
    let low = hash(&[parts, &["uid"]].concat());
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 48 & 0xfff,
        low & 0xffff_ffff_ffff
    )
}

/// 64-bit FNV-1a.
pub(crate) fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// One port of a [`Service`].
#[derive(Clone, Debug)]
pub struct ServicePort {
    pub name: &'static str,
    pub protocol: Protocol,
    /// The port of the ClusterIP.
    pub port: u16,
    /// The port of the pods.
    pub target_port: u16,
}

/// The transport of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// As packet filters call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A Service: its ClusterIPs, ports and the pods behind it.
#[derive(Clone, Debug)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub cluster_ipv4: Ipv4Addr,
    pub cluster_ipv6: Ipv6Addr,
    pub ports: Vec<ServicePort>,
    /// Pods behind the Service as `(namespace, name)`; those that do not exist get no traffic.
    pub endpoints: Vec<(String, String)>,
}

impl Service {
    /// Both ClusterIPs, IPv4 first.
    #[must_use]
    pub fn cluster_ips(&self) -> [IpAddr; 2] {
        [self.cluster_ipv4.into(), self.cluster_ipv6.into()]
    }
}

/// The Services that every lab starts with: httpbin (8000 to 80), httpbin-local (8000 to 80) and
/// kube-dns (53/UDP), each with one pod behind it.
pub(crate) fn reference_services() -> Vec<Service> {
    let http = vec![ServicePort { name: "http", protocol: Protocol::Tcp, port: 8000, target_port: 80 }];
    let dns = vec![ServicePort { name: "dns", protocol: Protocol::Udp, port: 53, target_port: 53 }];
    vec![
        service("default", "httpbin", 0x17, http.clone(), &["httpbin"]),
        service("default", "httpbin-local", 0x42, http, &["httpbin-local"]),
        service("kube-system", "kube-dns", 0x0a, dns, &["coredns"]),
    ]
}

/// A Service whose ClusterIPs are 10.96.0.`host` and fd00:10:96::`host`.
pub(crate) fn service(
    namespace: &str,
    name: &str,
    host: u8,
    ports: Vec<ServicePort>,
    pods: &[&str],
) -> Service {
    Service {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid(&["service", namespace, name]),
        cluster_ipv4: Ipv4Addr::new(10, 96, 0, host),
        cluster_ipv6: Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, u16::from(host)),
        ports,
        endpoints: pods.iter().map(|pod| (namespace.to_owned(), (*pod).to_owned())).collect(),
    }
}
