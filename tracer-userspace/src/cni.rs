//! What CNI plugins keep in BPF maps, decoded. Pure: bytes in, words out. Which layout a map has is told by its name and the
//! sizes of its keys and values; any other is named and not guessed.
//!
//! | module | holds |
//! |---|---|
//! | [`cilium`] | endpoints, ipcache, Services, counters |
//! | [`calico`] | routes, Services, connections of Calico's eBPF datapath |
//!
//! Layouts are those of the sources named in `facts/cni-datapath.md`, C; numbers are little-endian, addresses in network
//! order.

pub mod calico;
pub mod cilium;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::host::maps::MapAbout;

/// A layout that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// As its owner calls the map; the kernel keeps the first 15 characters.
    pub name: &'static str,
    pub key_size: u32,
    pub value_size: u32,
}

impl Layout {
    /// Whether the map has this name, as far as the kernel keeps it.
    #[must_use]
    pub fn names(&self, about: &MapAbout) -> bool {
        about.name == self.name.get(..15).unwrap_or(self.name)
    }

    /// Whether the map is laid out so.
    #[must_use]
    pub fn is_of(&self, about: &MapAbout) -> bool {
        self.names(about) && (about.key_size, about.value_size) == (self.key_size, self.value_size)
    }
}

/// A map that has a known name and another layout than those that are known.
#[must_use]
pub fn unknown_layout(about: &MapAbout) -> Option<String> {
    let mut known =
        cilium::LAYOUTS.iter().chain(calico::LAYOUTS).filter(|layout| layout.names(about)).peekable();
    known.peek()?;
    if known.any(|layout| layout.is_of(about)) {
        return None;
    }
    Some(format!(
        "map {} (id {}) has keys of {} and values of {} bytes, a layout that this version of tracer does not know: it is not \
         read",
        about.name, about.id, about.key_size, about.value_size
    ))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

fn u16_be_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn ipv4_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    bytes.get(at..)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

fn ipv6_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    bytes.get(at..)?.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets))
}

/// 16 bytes that begin with the address.
fn padded(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
        IpAddr::V6(address) => address.octets(),
    }
}
