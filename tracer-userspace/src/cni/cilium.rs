//! Cilium's maps: `bpf/lib/eps.h`, `pkg/maps/{lxcmap,ipcache,lbmap,metricsmap}`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use super::{Layout, ipv4_at, ipv6_at, padded, u16_at, u16_be_at, u32_at};

/// Endpoints of this node by address.
pub const ENDPOINTS: Layout = Layout { name: "cilium_lxc", key_size: 20, value_size: 48 };
/// Identities, and the nodes that addresses are behind, until 1.18.
pub const IPCACHE: Layout = Layout { name: "cilium_ipcache", key_size: 24, value_size: 12 };
/// The same from 1.19 on.
pub const IPCACHE_V2: Layout = Layout { name: "cilium_ipcache_v2", key_size: 24, value_size: 24 };
/// Services.
pub const SERVICES: Layout = Layout { name: "cilium_lb4_services_v2", key_size: 12, value_size: 12 };
pub const BACKENDS: Layout = Layout { name: "cilium_lb4_backends_v3", key_size: 4, value_size: 12 };
/// Packets and bytes by reason, per CPU.
pub const METRICS: Layout = Layout { name: "cilium_metrics", key_size: 8, value_size: 16 };

/// All of them.
pub const LAYOUTS: &[Layout] = &[ENDPOINTS, IPCACHE, IPCACHE_V2, SERVICES, BACKENDS, METRICS];

const FAMILY_IPV4: u8 = 1;
const FAMILY_IPV6: u8 = 2;
/// Bits of an ipcache key before the address: cluster id, padding, family.
const IPCACHE_STATIC_BITS: u32 = 32;
const FLAG_HOST: u32 = 1;
const IPCACHE_SKIPS_TUNNEL: u8 = 1;
const IPCACHE_HAS_TUNNEL: u8 = 2;
const IPCACHE_TUNNEL_IS_IPV6: u8 = 4;

/// An endpoint of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    /// Of the pod's device on the node.
    pub ifindex: u32,
    pub id: u16,
    /// Security identity; 0 before Cilium 1.14.
    pub identity: u32,
    pub flags: u32,
    /// Of the pod's own device.
    pub mac: [u8; 6],
    /// Of the device on the node.
    pub node_mac: [u8; 6],
}

/// The key of an address in [`ENDPOINTS`].
#[must_use]
pub fn endpoint_key(address: IpAddr) -> Vec<u8> {
    let mut key = padded(address).to_vec();
    key.extend_from_slice(&[family(address), 0, 0, 0]);
    key
}

impl Endpoint {
    /// From a value of [`ENDPOINTS`].
    #[must_use]
    pub fn decode(address: IpAddr, value: &[u8]) -> Option<Self> {
        let mac = |at: usize| value.get(at..)?.first_chunk::<6>().copied();
        Some(Self {
            address,
            ifindex: u32_at(value, 0)?,
            id: u16_at(value, 6)?,
            flags: u32_at(value, 8)?,
            mac: mac(16)?,
            node_mac: mac(24)?,
            identity: u32_at(value, 32)?,
        })
    }

    /// Whether it is the node itself.
    #[must_use]
    pub const fn is_host(&self) -> bool {
        self.flags & FLAG_HOST != 0
    }
}

/// As `cilium map get cilium_lxc` prints it.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() {
            return write!(f, "{}:0 (localhost)", self.address);
        }
        write!(
            f,
            "{}:0 id={} sec_id={} flags=0x{:04x} ifindex={} mac={} nodemac={}",
            self.address,
            self.id,
            self.identity,
            self.flags,
            self.ifindex,
            upper(self.mac),
            upper(self.node_mac)
        )
    }
}

/// What the ipcache has of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpcacheEntry {
    pub identity: u32,
    pub encrypt_key: u8,
    /// The node's address; `None` for what is on this node, or is reached without a tunnel.
    pub tunnel_endpoint: Option<IpAddr>,
    /// Not sent through the tunnel, whatever its endpoint.
    pub skips_tunnel: bool,
}

/// The key in both layouts, for the longest prefix that has the address.
#[must_use]
pub fn ipcache_key(address: IpAddr) -> Vec<u8> {
    let bits: u32 = if address.is_ipv4() { 32 } else { 128 };
    let mut key = (IPCACHE_STATIC_BITS + bits).to_le_bytes().to_vec();
    key.extend_from_slice(&[0, 0, 0, family(address)]);
    key.extend_from_slice(&padded(address));
    key
}

/// Length of the prefix that a key of the ipcache stands for, if it has the address.
#[must_use]
pub fn ipcache_prefix(key: &[u8], address: IpAddr) -> Option<u32> {
    let bits = u32_at(key, 0)?.checked_sub(IPCACHE_STATIC_BITS)?;
    if key.get(7) != Some(&family(address)) {
        return None;
    }
    let (one, other) = match address {
        IpAddr::V4(address) => {
            (u128::from(address.to_bits()) << 96, u128::from(ipv4_at(key, 8)?.to_bits()) << 96)
        }
        IpAddr::V6(address) => (address.to_bits(), ipv6_at(key, 8)?.to_bits()),
    };
    let mask = u128::MAX.checked_shl(128_u32.checked_sub(bits)?).unwrap_or(0);
    (one & mask == other & mask).then_some(bits)
}

impl IpcacheEntry {
    /// From a value of [`IPCACHE`].
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        let endpoint = ipv4_at(value, 4)?;
        Some(Self {
            identity: u32_at(value, 0)?,
            encrypt_key: *value.get(10)?,
            tunnel_endpoint: (!endpoint.is_unspecified()).then_some(IpAddr::V4(endpoint)),
            skips_tunnel: value.get(11)? & IPCACHE_SKIPS_TUNNEL != 0,
        })
    }

    /// From a value of [`IPCACHE_V2`].
    #[must_use]
    pub fn decode_v2(value: &[u8]) -> Option<Self> {
        let flags = *value.get(23)?;
        let endpoint = if flags & IPCACHE_TUNNEL_IS_IPV6 != 0 {
            IpAddr::V6(ipv6_at(value, 4)?)
        } else {
            IpAddr::V4(ipv4_at(value, 4)?)
        };
        Some(Self {
            identity: u32_at(value, 0)?,
            encrypt_key: *value.get(22)?,
            tunnel_endpoint: (flags & IPCACHE_HAS_TUNNEL != 0).then_some(endpoint),
            skips_tunnel: flags & IPCACHE_SKIPS_TUNNEL != 0,
        })
    }

    /// As `cilium map get cilium_ipcache` prints it; the prefix where it is known.
    #[must_use]
    pub fn shown(&self, address: IpAddr, prefix: Option<u32>) -> String {
        let prefix = prefix.map(|bits| format!("/{bits}")).unwrap_or_default();
        let endpoint = self.tunnel_endpoint.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let flags = if self.skips_tunnel { " flags=skiptunnel" } else { "" };
        format!(
            "{address}{prefix} identity={} encryptkey={} tunnelendpoint={endpoint}{flags}",
            self.identity, self.encrypt_key
        )
    }
}

/// A Service's first entry, or one of its backends' places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// 0 in the first entry, where other things have its place.
    pub backend: u32,
    /// Backends; in the first entry.
    pub count: u16,
}

/// The key of a Service's entry: 0 is the first, backends follow from 1 on. `protocol` is 0 before Cilium tells protocols
/// apart.
#[must_use]
pub fn service_key(address: SocketAddrV4, slot: u16, protocol: u8) -> Vec<u8> {
    let mut key = address.ip().octets().to_vec();
    key.extend_from_slice(&address.port().to_be_bytes());
    key.extend_from_slice(&slot.to_le_bytes());
    key.extend_from_slice(&[protocol, 0, 0, 0]);
    key
}

impl ServiceEntry {
    /// From a value of [`SERVICES`].
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        Some(Self { backend: u32_at(value, 0)?, count: u16_at(value, 4)? })
    }
}

/// From a value of [`BACKENDS`].
#[must_use]
pub fn backend(value: &[u8]) -> Option<SocketAddrV4> {
    Some(SocketAddrV4::new(ipv4_at(value, 0)?, u16_be_at(value, 4)?))
}

/// A counter of [`METRICS`], of all CPUs together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// `bpf/lib/drop_reasons.h`; 0 is forwarded.
    pub reason: u8,
    /// 1 ingress, 2 egress.
    pub direction: u8,
    pub packets: u64,
}

impl Metric {
    /// From an entry of [`METRICS`], whose values are one of each CPU.
    #[must_use]
    pub fn decode(key: &[u8], values: &[u8]) -> Option<Self> {
        let counts =
            values.chunks_exact(16).filter_map(|value| value.first_chunk().copied().map(u64::from_le_bytes));
        Some(Self { reason: *key.first()?, direction: *key.get(1)?, packets: counts.sum() })
    }

    /// Whether it counts packets that were thrown away: reasons from 130 on are (`DROP_*`).
    #[must_use]
    pub const fn is_drop(&self) -> bool {
        self.reason >= 130
    }
}

/// What a drop reason means, as Cilium's monitor says it.
#[must_use]
pub fn drop_reason(reason: u8) -> String {
    let known = match reason {
        132 => "invalid source ip",
        133 => "policy denied",
        135 => "CT: map insertion failed",
        139 => "unsupported L3 protocol",
        140 => "missed tail call",
        151 => "no mapping for NAT masquerade, or unroutable",
        158 => "Service backend not found",
        160 => "no tunnel/encapsulation endpoint",
        169 => "FIB lookup failed",
        171 => "unknown sender identity",
        172 => "invalid identity",
        178 => "proxy lookup failed",
        181 => "policy denied by denylist",
        189 => "authentication required",
        195 => "traffic is unencrypted",
        196 => "TTL exceeded",
        202 => "host datapath not ready",
        203 => "endpoint policy program not available",
        other => return format!("reason {other}"),
    };
    format!("{known} ({reason})")
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 }
}

fn upper(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02X}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTTPBIN: &str = "10.244.1.246";

    fn address() -> IpAddr {
        HTTPBIN.parse().unwrap()
    }

    #[test]
    fn an_endpoint_reads_as_cilium_prints_it() {
        let mut value = vec![0; 48];
        value[0] = 131;
        value[6..8].copy_from_slice(&1574_u16.to_le_bytes());
        value[16..22].copy_from_slice(&[0xc2, 0x36, 0xa6, 0xd2, 0x9c, 0xce]);
        value[24..30].copy_from_slice(&[0xda, 0x22, 0x1a, 0x46, 0xfe, 0x6a]);
        value[32..36].copy_from_slice(&2735_u32.to_le_bytes());
        assert_eq!(
            Endpoint::decode(address(), &value).unwrap().to_string(),
            "10.244.1.246:0 id=1574 sec_id=2735 flags=0x0000 ifindex=131 mac=C2:36:A6:D2:9C:CE nodemac=DA:22:1A:46:FE:6A"
        );
        assert_eq!(Endpoint::decode(address(), &value[..30]), None);
        assert_eq!(endpoint_key(address()).len(), ENDPOINTS.key_size as usize);
    }

    #[test]
    fn an_address_in_the_ipcache_reads_as_cilium_prints_it_in_both_layouts() {
        let shown = "10.244.1.246/32 identity=2735 encryptkey=0 tunnelendpoint=10.135.0.12";
        let mut value = 2735_u32.to_le_bytes().to_vec();
        value.extend_from_slice(&[10, 135, 0, 12, 0, 0, 0, 0]);
        assert_eq!(IpcacheEntry::decode(&value).unwrap().shown(address(), Some(32)), shown);
        value.resize(24, 0);
        value[23] = IPCACHE_HAS_TUNNEL;
        assert_eq!(IpcacheEntry::decode_v2(&value).unwrap().shown(address(), Some(32)), shown);
        value[23] = 0;
        assert_eq!(IpcacheEntry::decode_v2(&value).unwrap().tunnel_endpoint, None);
    }

    #[test]
    fn a_prefix_of_the_ipcache_has_the_addresses_that_begin_with_it() {
        let mut key = ipcache_key(address());
        assert_eq!(ipcache_prefix(&key, address()), Some(32));
        key[0] = 32 + 24;
        assert_eq!(ipcache_prefix(&key, "10.244.1.7".parse().unwrap()), Some(24));
        assert_eq!(ipcache_prefix(&key, "10.244.2.7".parse().unwrap()), None);
        assert_eq!(ipcache_prefix(&key, "fd00::1".parse().unwrap()), None);
        key[0] = 32;
        assert_eq!(ipcache_prefix(&key, "8.8.8.8".parse().unwrap()), Some(0));
        assert_eq!(ipcache_prefix(&[255; 24], address()), None);
    }

    #[test]
    fn services_lead_to_backends() {
        let key = service_key("10.96.0.23:8000".parse().unwrap(), 1, 6);
        assert_eq!(key, [10, 96, 0, 23, 0x1f, 0x40, 1, 0, 6, 0, 0, 0]);
        let value = [7, 0, 0, 0, 2, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(ServiceEntry::decode(&value), Some(ServiceEntry { backend: 7, count: 2 }));
        let value = [10, 244, 1, 246, 0, 80, 6, 0, 0, 0, 0, 0];
        assert_eq!(backend(&value), Some("10.244.1.246:80".parse().unwrap()));
    }
}
