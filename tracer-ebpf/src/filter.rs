//! Which follows want a packet. Userspace fills the maps; the rules are in `tracer_common::filter`.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use tracer_common::filter::{Ends, FilterConfig, match_ends, narrow, source_decides};
use tracer_common::packet::{Headers, ParseError, Reader};

#[map]
static CONFIG: Array<FilterConfig> = Array::with_max_entries(1, 0);

/// Address (IPv4 as IPv4-mapped IPv6) to the follows that have it in one of their ends.
#[map]
static ENDS: HashMap<[u8; 16], Ends> = HashMap::with_max_entries(16_384, 0);

/// Port to the follows that ask for it.
#[map]
static PORTS: HashMap<u16, u64> = HashMap::with_max_entries(1_024, 0);

/// IANA protocol number to the follows that ask for it.
#[map]
static PROTOCOLS: Array<u64> = Array::with_max_entries(256, 0);

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
    let (source, destination) = headers.addresses(reader)?;
    let source = ends_of(&source);
    if source_decides(source, config.any_peer) {
        return Ok(0);
    }
    let destination = ends_of(&destination).unwrap_or_default();
    let follows = match_ends(source.unwrap_or_default(), destination, config.any_peer);
    if follows & !(config.any_port & config.any_protocol) == 0 {
        return Ok(follows);
    }
    let (source_port, destination_port) = headers.ports(reader)?;
    let protocol = PROTOCOLS.get(headers.protocol & 0xff).copied().unwrap_or(0);
    Ok(narrow(follows, config, protocol, askers_of(source_port), askers_of(destination_port)))
}

#[inline(always)]
fn ends_of(address: &[u8; 16]) -> Option<Ends> {
    // SAFETY: the pointer is to a live map value. Userspace may change the map meanwhile and the kernel use the
    // element again: then the copy is another address's, and one packet is recorded too many or too few.
    unsafe { ENDS.get(address) }.copied()
}

#[inline(always)]
fn askers_of(port: u16) -> u64 {
    // SAFETY: as in `ends_of`.
    unsafe { PORTS.get(port) }.copied().unwrap_or(0)
}
