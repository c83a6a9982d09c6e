//! Which follows want a packet. Userspace fills the maps; the rules are in `tracer_common::filter`.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap};
use tracer_common::filter::{Ends, FilterConfig, Quick, is_possible, match_ends, narrow};
use tracer_common::packet::glance::Glance;
use tracer_common::packet::{Headers, ParseError, Reader};
use tracer_common::record::FLAG_MORE_FRAGMENTS;

#[map]
static CONFIG: Array<FilterConfig> = Array::with_max_entries(1, 0);

/// Address (IPv4 as IPv4-mapped IPv6) to the follows that have it in one of their ends.
#[map]
static ENDS: HashMap<[u8; 16], Ends> = HashMap::with_max_entries(16_384, 0);

/// In front of `ENDS`.
#[map]
static QUICK: Array<Quick> = Array::with_max_entries(1, 0);

/// Port to the follows that ask for it.
#[map]
static PORTS: HashMap<u16, u64> = HashMap::with_max_entries(1_024, 0);

/// IANA protocol number to the follows that ask for it.
#[map]
static PROTOCOLS: Array<u64> = Array::with_max_entries(256, 0);

/// Datagram to the follows that ask for ports and want its first fragment, the only one that has them.
#[map]
static FRAGMENTED: LruHashMap<Datagram, u64> = LruHashMap::with_max_entries(4_096, 0);

/// What the fragments of one datagram have in common. The addresses differ from hook to hook where NAT rewrites them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Datagram {
    source: [u8; 16],
    destination: [u8; 16],
    identification: u32,
    protocol: u32,
}

#[inline(always)]
pub(crate) fn config() -> Option<&'static FilterConfig> {
    CONFIG.get(0)
}

/// Mask of the follows that want the packet.
#[inline(always)]
pub(crate) fn wanted_by<R: Reader>(
    reader: &R,
    headers: &Headers,
    config: &FilterConfig,
) -> Result<u64, ParseError> {
    if config.armed == 0 {
        return Ok(0);
    }
    let (source, destination) = headers.addresses(reader)?;
    let mut follows = wanted_between(&source, &destination, config);
    if headers.quote != 0 {
        let (source, destination) = headers.quoted_addresses(reader)?;
        follows |= wanted_between(&source, &destination, config);
    }
    if follows & !(config.any_port & config.any_protocol) == 0 {
        return Ok(follows);
    }
    let (source_port, destination_port) = headers.ports(reader)?;
    let mut protocol = askers_of_protocol(headers.protocol);
    if headers.quote != 0 {
        protocol |= askers_of_protocol(headers.quote_protocol);
    }
    if headers.is_later_fragment() {
        let datagram = datagram(source, destination, headers);
        // SAFETY: as in `ends_of`.
        let by_port = unsafe { FRAGMENTED.get(&datagram) }.copied().unwrap_or(0);
        return Ok(narrow(follows, config, protocol, by_port, 0));
    }
    let wanted = narrow(follows, config, protocol, askers_of(source_port), askers_of(destination_port));
    if headers.flags & u32::from(FLAG_MORE_FRAGMENTS) != 0 && wanted & !config.any_port != 0 {
        // Where the map has no room the later fragments are left out, as they would be without it.
        let _ = FRAGMENTED.insert(&datagram(source, destination, headers), &wanted, 0);
    }
    Ok(wanted)
}

/// As [`wanted_by`], of a packet for which a glance was enough.
#[inline(always)]
pub(crate) fn wanted_at_a_glance(glance: &Glance, config: &FilterConfig) -> u64 {
    if config.armed == 0 {
        return 0;
    }
    let follows = wanted_between(&glance.source, &glance.destination, config);
    if follows & !(config.any_port & config.any_protocol) == 0 {
        return follows;
    }
    let (source_port, destination_port) = glance.ports;
    let protocol = askers_of_protocol(glance.protocol());
    narrow(follows, config, protocol, askers_of(source_port), askers_of(destination_port))
}

#[inline(always)]
fn datagram(source: [u8; 16], destination: [u8; 16], headers: &Headers) -> Datagram {
    Datagram { source, destination, identification: headers.identification, protocol: headers.protocol }
}

#[inline(always)]
fn wanted_between(source: &[u8; 16], destination: &[u8; 16], config: &FilterConfig) -> u64 {
    // Nearly all packets are nobody's: a test of a bit in place of a lookup.
    let known = (config.is_maybe_known(source), config.is_maybe_known(destination));
    if !is_possible(known, config.any_peer) {
        return 0;
    }
    let source = if known.0 { ends_of(source) } else { Ends::default() };
    if !is_possible((source != Ends::default(), known.1), config.any_peer) {
        return 0;
    }
    let destination = if known.1 { ends_of(destination) } else { Ends::default() };
    match_ends(source, destination, config.any_peer)
}

#[inline(always)]
fn askers_of_protocol(protocol: u32) -> u64 {
    PROTOCOLS.get(protocol & 0xff).copied().unwrap_or(0)
}

/// The follows that have an address in their ends. verifier: no `Option` of them, of which the rest may be anything.
#[inline(always)]
fn ends_of(address: &[u8; 16]) -> Ends {
    if let Some(quick) = QUICK.get(0)
        && let Some(ends) = quick.ends_of(address)
    {
        return *ends;
    }
    // SAFETY: the pointer is to a live map value. Userspace may change the map meanwhile and the kernel use the
    // element again: then the copy is another address's, and one packet is recorded too many or too few. The same holds
    // for a place of `QUICK`.
    match unsafe { ENDS.get(address) } {
        Some(ends) => *ends,
        None => Ends::default(),
    }
}

#[inline(always)]
fn askers_of(port: u16) -> u64 {
    // SAFETY: as in `ends_of`.
    unsafe { PORTS.get(port) }.copied().unwrap_or(0)
}
