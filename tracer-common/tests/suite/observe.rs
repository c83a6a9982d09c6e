//! What the program at a device does with a packet, in memory.

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
    headers.parse(reader, link, vxlan_ports)?;
    let mut record = HopRecord::from_bytes(&[0xa5; HOP_RECORD_SIZE]).expect("size of a record");
    record.gso_size = gso_size;
    headers.describe(reader, &mut record)?;
    // Every packet of the suite proves it: who only measures computes the same fingerprint as who records.
    let mut scratch = HopRecord::from_bytes(&[0x5a; HOP_RECORD_SIZE]).expect("size of a record");
    scratch.gso_size = gso_size;
    assert_eq!(headers.fingerprint(reader, &mut scratch), Ok(record.fingerprint));
    Ok(HopRecord {
        time_ns: 0,
        follows: 0,
        space: 0,
        ifindex: 0,
        length: 0,
        direction: 0,
        gso_segments: 0,
        ..record
    })
}
