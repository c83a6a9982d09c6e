//! The filter maps of the kernel side: what the armed follows want. Rules: `tracer_common::filter`.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use aya::Pod;
use aya::maps::{HashMap as BpfHashMap, MapData, MapError};
use tracer_common::filter::{Ends, FilterConfig, Quick};
use tracer_common::packet::DEFAULT_VXLAN_PORTS;
use tracer_common::record::MAX_SNAPLEN;

use super::bytes::CaptureBytes;
use super::decode::{address, address_key};
use super::programs::{LoadError, Programs};
use super::slots::Slot;

/// What one follow wants of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FollowFilter {
    /// Addresses of end A, with those that SNAT may put in their place.
    pub a: Vec<IpAddr>,
    /// Addresses of end B; `None`: any.
    pub b: Option<Vec<IpAddr>>,
    /// IANA protocol numbers; empty: any.
    pub protocols: Vec<u8>,
    /// Ports on either end; empty: any.
    pub ports: Vec<u16>,
    /// The bytes of packets that are wanted besides their records; `None`: none.
    pub capture: Option<CaptureBytes>,
}

#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("no room for address {0} in the kernel's filter: the follow has too many addresses")]
    Full(IpAddr, #[source] MapError),
    #[error("cannot write the kernel's filter")]
    Map(#[from] MapError),
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Writes the filter for `follows`, each with its slot. `vxlan_port` is looked for besides the usual ones.
/// What is in the maps and no longer wanted is removed.
///
/// # Errors
/// [`FilterError`].
pub fn arm(
    programs: &mut Programs,
    follows: &[(Slot, FollowFilter)],
    vxlan_port: Option<u16>,
) -> Result<(), FilterError> {
    let wanted = Masks::of(follows);
    let ends: HashMap<_, _> =
        wanted.ends.iter().map(|(address, ends)| (address_key(*address), *ends)).collect();
    let full = |key: &[u8; 16], error| FilterError::Full(address(*key), error);
    make_equal(&mut programs.ends()?, &ends, full)?;
    programs.quick()?.set(0, quick(&ends), 0)?;
    let full = |_: &u16, error| FilterError::Map(error);
    make_equal(&mut programs.ports()?, &wanted.ports, full)?;
    let mut protocols = programs.protocols()?;
    for number in 0..=255_u8 {
        let mask = wanted.protocols.get(&number).copied().unwrap_or(0);
        protocols.set(u32::from(number), mask, 0)?;
    }
    let mut config = wanted.config;
    config.armed = u32::from(!follows.is_empty());
    ends.keys().for_each(|address| config.learn(address));
    config.vxlan_ports = DEFAULT_VXLAN_PORTS;
    config.vxlan_ports[2] = vxlan_port.unwrap_or(0);
    // Last: from here on the programs match.
    programs.config()?.set(0, config, 0)?;
    Ok(())
}

/// The table in front of the address map. In an order that does not change: of those that share a place, the first has it.
fn quick(ends: &HashMap<[u8; 16], Ends>) -> Box<Quick> {
    let mut quick = Box::new(Quick::EMPTY);
    let mut addresses: Vec<_> = ends.iter().collect();
    addresses.sort_unstable_by_key(|(address, _)| **address);
    addresses.into_iter().for_each(|(address, ends)| quick.learn(address, *ends));
    quick
}

/// Makes a map of the kernel hold what is wanted and nothing else. First what is new, so that nothing that stays
/// wanted is missed meanwhile.
fn make_equal<K: Pod + Eq + Hash, V: Pod>(
    map: &mut BpfHashMap<&mut MapData, K, V>,
    wanted: &HashMap<K, V>,
    full: impl Fn(&K, MapError) -> FilterError,
) -> Result<(), FilterError> {
    for (key, value) in wanted {
        map.insert(key, value, 0).map_err(|error| full(key, error))?;
    }
    let stale: Vec<K> = map.keys().filter_map(Result::ok).filter(|key| !wanted.contains_key(key)).collect();
    for key in stale {
        map.remove(&key)?;
    }
    Ok(())
}

/// The follows as bit masks.
#[derive(Debug, Default)]
struct Masks {
    ends: HashMap<IpAddr, Ends>,
    ports: HashMap<u16, u64>,
    protocols: HashMap<u8, u64>,
    config: FilterConfig,
}

impl Masks {
    fn of(follows: &[(Slot, FollowFilter)]) -> Self {
        let mut masks = Self::default();
        for (slot, follow) in follows {
            masks.add(slot.bit(), follow);
        }
        masks
    }

    fn add(&mut self, bit: u64, follow: &FollowFilter) {
        for address in &follow.a {
            self.ends.entry(*address).or_default().a |= bit;
        }
        match &follow.b {
            Some(addresses) => {
                for address in addresses {
                    self.ends.entry(*address).or_default().b |= bit;
                }
            }
            None => self.config.any_peer |= bit,
        }
        match follow.capture {
            None => {}
            Some(CaptureBytes::Headers) => self.config.with_headers |= bit,
            Some(CaptureBytes::Most(bytes)) => {
                self.config.with_bytes |= bit;
                self.config.snaplen = self.config.snaplen.max(bytes.clamp(1, MAX_SNAPLEN as u32));
            }
        }
        if follow.ports.is_empty() {
            self.config.any_port |= bit;
        }
        for port in &follow.ports {
            *self.ports.entry(*port).or_default() |= bit;
        }
        if follow.protocols.is_empty() {
            self.config.any_protocol |= bit;
        }
        for protocol in &follow.protocols {
            *self.protocols.entry(*protocol).or_default() |= bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::slots::Slots;

    #[test]
    fn each_follow_has_its_own_bit_in_every_mask() {
        let client: IpAddr = "10.244.0.153".parse().unwrap();
        let server: IpAddr = "fd00::1".parse().unwrap();
        let mut slots = Slots::default();
        let mut slot = || slots.take(0).unwrap();
        let first = FollowFilter {
            a: vec![client],
            b: Some(vec![server]),
            protocols: vec![6],
            ports: vec![80],
            ..FollowFilter::default()
        };
        let second = FollowFilter { a: vec![server], b: None, ..FollowFilter::default() };

        let masks = Masks::of(&[(slot(), first), (slot(), second)]);

        assert_eq!(masks.ends[&client], Ends { a: 0b01, b: 0 });
        assert_eq!(masks.ends[&server], Ends { a: 0b10, b: 0b01 });
        assert_eq!((masks.ports[&80], masks.protocols[&6]), (0b01, 0b01));
        assert_eq!(masks.config.any_peer, 0b10);
        assert_eq!(masks.config.any_port, 0b10);
        assert_eq!(masks.config.any_protocol, 0b10);
    }
}
