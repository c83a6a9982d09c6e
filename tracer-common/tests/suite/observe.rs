//! What the program at a device does with a packet, in memory.

use tracer_common::packet::glance::{Glance, Identify};
use tracer_common::packet::{DEFAULT_VXLAN_PORTS, Headers, Link, ParseError, Reader, SliceReader};
use tracer_common::record::{HOP_RECORD_SIZE, HopRecord};

/// The record of a packet that begins with an Ethernet header.
pub(crate) fn ethernet(packet: &[u8]) -> Result<HopRecord, ParseError> {
    observe(packet, Link::Ethernet, 0)
}

/// The record of a packet that begins with its IP header.
pub(crate) fn ip(packet: &[u8]) -> Result<HopRecord, ParseError> {
    observe(packet, Link::None, 0)
}

pub(crate) fn observe(packet: &[u8], link: Link, gso_size: u16) -> Result<HopRecord, ParseError> {
    observe_with(&SliceReader::new(packet), link, &DEFAULT_VXLAN_PORTS, gso_size)
}

/// Starts from a record full of rubbish: nothing of it may shine through. The observation's own fields, which the
/// parser leaves alone, are cleared afterwards.
pub(crate) fn observe_with<R: Reader>(
    reader: &R,
    link: Link,
    vxlan_ports: &[u16; 4],
    gso_size: u16,
) -> Result<HopRecord, ParseError> {
    let mut headers = Headers::default();
    let glance = (link == Link::Ethernet)
        .then(|| Glance::of(reader, vxlan_ports, Identify { is_asked_for: true, gso_size }))
        .flatten();
    if let Err(error) = headers.parse(reader, link, vxlan_ports) {
        assert_eq!(glance, None, "{error:?}");
        return Err(error);
    }
    let mut record = HopRecord::from_bytes(&[0xa5; HOP_RECORD_SIZE]).expect("size of a record");
    record.gso_size = gso_size;
    let described = headers.describe(reader, &mut record);
    if let Some(glance) = glance {
        agree(reader, &glance, (described, &record));
    }
    described?;
    // Every packet of the suite proves it: who only measures computes the same fingerprint as who records.
    let mut scratch = HopRecord::from_bytes(&[0x5a; HOP_RECORD_SIZE]).expect("size of a record");
    scratch.gso_size = gso_size;
    assert_eq!(headers.fingerprint(reader, &mut scratch), Ok(record.fingerprint));
    Ok(packet(&record))
}

/// Every packet of the suite proves it: what a glance tells is what the whole walk tells.
fn agree<R: Reader>(reader: &R, glance: &Glance, (described, record): (Result<(), ParseError>, &HopRecord)) {
    let mut headers = glance.headers();
    let mut again = HopRecord { gso_size: record.gso_size, ..HopRecord::default() };
    assert_eq!(headers.describe(reader, &mut again), described, "{glance:?}");
    assert_eq!(headers.addresses(reader), Ok((glance.source, glance.destination)));
    assert_eq!(headers.ports(reader), Ok(glance.ports));
    let mut soon = HopRecord {
        gso_size: record.gso_size,
        ..HopRecord::from_bytes(&[0x5a; HOP_RECORD_SIZE]).expect("a size")
    };
    let is_soon = glance.describe(reader, &mut soon).is_some();
    assert_eq!(is_soon, glance.fingerprint().is_some(), "{glance:?}");
    if described.is_err() {
        assert!(!is_soon, "{described:?}");
        return;
    }
    if is_soon {
        // What the ring does not take is left alone.
        let unused = usize::from(soon.tunnel_count)..;
        soon.tunnels[unused.clone()].copy_from_slice(&record.tunnels[unused]);
        assert_eq!(packet(&soon), packet(record), "{glance:?}");
    }
    assert_eq!(packet(&again), packet(record));
    assert!(glance.fingerprint().is_none_or(|fingerprint| fingerprint == record.fingerprint), "{glance:?}");
}

/// A record without what the parser leaves alone.
const fn packet(record: &HopRecord) -> HopRecord {
    HopRecord {
        time_ns: 0,
        follows: 0,
        space: 0,
        ifindex: 0,
        length: 0,
        direction: 0,
        gso_segments: 0,
        ..*record
    }
}
