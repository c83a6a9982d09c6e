//! Which packets a follow wants: address sets of its two ends, protocols and ports, for up to
//! [`MAX_FOLLOWS`](crate::MAX_FOLLOWS) follows at once, as one bit each.
//!
//! A follow has two ends, A (the followed pod) and B (`--to`). It wants a packet whose innermost addresses are
//! one of A's and one of B's, in either direction. Several ends' addresses (pod IPs of both families, the
//! Service's ClusterIP and its endpoints, the node where SNAT may happen) go into one set.
//!
//! An ICMP error comes from whoever could not deliver a packet, so it is also wanted if the packet that it quotes is:
//! by addresses, by protocol and by ports.

mod quick;

pub use quick::Quick;

/// Which follows have an address in their end A and in their end B; the value of the address map, whose key is
/// the address as 16 bytes (IPv4 as IPv4-mapped IPv6).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Bit n: the address belongs to end A of follow n.
    pub a: u64,
    /// Bit n: the address belongs to end B of follow n.
    pub b: u64,
}

/// The part of the filter that is not keyed by address or port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterConfig {
    /// Bit n: follow n takes any address as its end B.
    pub any_peer: u64,
    /// Bit n: follow n asks for no port.
    pub any_port: u64,
    /// Bit n: follow n asks for no protocol.
    pub any_protocol: u64,
    /// Bit n: follow n wants packets' headers besides their records.
    pub with_headers: u64,
    /// Bit n: follow n wants packets' first bytes, payload or not.
    pub with_bytes: u64,
    /// UDP destination ports that carry VXLAN, native byte order; 0 for an unused entry.
    pub vxlan_ports: [u16; 4],
    /// Most bytes of a packet that any of `with_bytes` wants.
    pub snaplen: u32,
    /// Not 0 if anything is followed.
    pub armed: u32,
    /// Which addresses are in a set, as [`FilterConfig::is_maybe_known`] asks: a packet of other addresses, and most packets are, is
    /// told by it alone.
    pub known: [u64; KNOWN_WORDS],
}

/// Words of [`FilterConfig::known`]: a power of two.
pub const KNOWN_WORDS: usize = 64;
/// Places that addresses have there, and in [`Quick`]: one for each bit.
pub const KNOWN_PLACES: usize = KNOWN_WORDS * 64;

/// The place of an address, below [`KNOWN_PLACES`]; others may have the same. Neighbours in a network differ in their last
/// bits, so the highest bits of the product count (Knuth, multiplicative hashing).
#[inline(always)]
#[must_use]
pub const fn known_place(address: [u64; 2]) -> usize {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = (address[1] ^ address[0].rotate_left(32)).wrapping_mul(GOLDEN);
    (mixed >> (u64::BITS - KNOWN_PLACES.ilog2())) as usize & (KNOWN_PLACES - 1)
}

/// The 16 bytes of an address, as [`known_place`] takes them.
#[inline(always)]
#[must_use]
pub const fn words(address: &[u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

impl FilterConfig {
    /// Lets [`FilterConfig::is_maybe_known`] hold for an address.
    pub const fn learn(&mut self, address: &[u8; 16]) {
        let place = known_place(words(address));
        self.known[place / 64] |= 1 << (place % 64);
    }

    /// False only if an address is in no set. True as well for others that share a bit with one that is: with n addresses in
    /// sets, for about n of 4,096.
    #[inline(always)]
    #[must_use]
    pub const fn is_maybe_known(&self, address: &[u8; 16]) -> bool {
        let place = known_place(words(address));
        self.known[place / 64] & 1 << (place % 64) != 0
    }
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self {
            any_peer: 0,
            any_port: 0,
            any_protocol: 0,
            with_headers: 0,
            with_bytes: 0,
            vxlan_ports: [0; 4],
            snaplen: 0,
            armed: 0,
            known: [0; KNOWN_WORDS],
        }
    }
}

/// Follows whose two ends are the packet's source and destination, in either direction.
#[inline(always)]
#[must_use]
pub const fn match_ends(source: Ends, destination: Ends, any_peer: u64) -> u64 {
    (source.a & (destination.b | any_peer)) | (destination.a & (source.b | any_peer))
}

/// Narrows `follows` to those that want this protocol and one of the two ports. `protocol`, `source_port` and
/// `destination_port` are the masks of follows that ask for exactly these.
#[inline(always)]
#[must_use]
pub const fn narrow(
    follows: u64,
    config: &FilterConfig,
    protocol: u64,
    source_port: u64,
    destination_port: u64,
) -> u64 {
    follows & (config.any_protocol | protocol) & (config.any_port | source_port | destination_port)
}

/// Whether any of `follows` wants more of a packet than its record.
#[inline(always)]
#[must_use]
pub const fn wants_bytes(follows: u64, config: &FilterConfig) -> bool {
    follows & (config.with_headers | config.with_bytes) != 0
}

/// How many of a packet's bytes `follows` want, of which the first `headers` are headers.
#[inline(always)]
#[must_use]
pub const fn bytes_wanted(follows: u64, config: &FilterConfig, headers: u32) -> u32 {
    let headers = if follows & config.with_headers != 0 { headers } else { 0 };
    let any = if follows & config.with_bytes != 0 { config.snaplen } else { 0 };
    if any > headers { any } else { headers }
}

/// Whether any follow could want a packet of whose addresses (source, destination) it is known which ones are in no set at
/// all: the rest need not be looked up.
#[inline(always)]
#[must_use]
pub const fn is_possible((source, destination): (bool, bool), any_peer: u64) -> bool {
    if any_peer == 0 { source && destination } else { source || destination }
}

/// The key of the address map for an IPv4 address.
#[inline(always)]
#[must_use]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

#[cfg(feature = "user")]
mod user {
    use super::{Ends, FilterConfig, Quick};

    // SAFETY: repr(C), no padding (two u64), any bit pattern valid.
    unsafe impl aya::Pod for Ends {}
    // SAFETY: repr(C), no padding (five u64, four u16, two u32, u64 again), any bit pattern valid.
    unsafe impl aya::Pod for FilterConfig {}
    // SAFETY: repr(C), no padding (all u64), any bit pattern valid.
    unsafe impl aya::Pod for Quick {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_was_learnt_is_always_known_and_others_seldom_are() {
        let mut config = FilterConfig::default();
        assert!(!config.is_maybe_known(&mapped([10, 244, 0, 153])));
        for host in 1..=32 {
            config.learn(&mapped([10, 244, 0, host]));
        }
        config.learn(&[0xfd, 0, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x53]);

        assert!((1..=32).all(|host| config.is_maybe_known(&mapped([10, 244, 0, host]))));
        assert!(config.is_maybe_known(&[0xfd, 0, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x53]));
        let others = (1..=255_u8).flat_map(|net| (0..=255_u8).map(move |host| mapped([10, 245, net, host])));
        let mistaken = others.clone().filter(|other| config.is_maybe_known(other)).count();
        // 33 of 4,096 bits.
        assert!(mistaken * 60 < others.count(), "{mistaken}");
    }
}
