//! Any bytes as a packet: the parser and the fingerprint neither panic nor loop, and what they say makes sense.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer_common::{
    packet::{DEFAULT_VXLAN_PORTS, Headers, Link, ParseError, SliceReader},
    record::{HopRecord, MAX_TUNNELS},
};

const ETHERNET_HEADER: usize = 14;

fuzz_target!(|bytes: &[u8]| {
    let _ = described(bytes, Link::Ethernet);
    let Ok((headers, record)) = described(bytes, Link::None) else { return };

    // The same packet behind an Ethernet header is the same packet.
    let mut frame = vec![0; ETHERNET_HEADER];
    let ether_type: u16 = if bytes[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    frame[12..].copy_from_slice(&ether_type.to_be_bytes());
    frame.extend_from_slice(bytes);
    match described(&frame, Link::Ethernet) {
        Ok((with_ethernet, same)) => {
            assert_eq!(with_ethernet.network, headers.network + ETHERNET_HEADER as u32);
            assert_eq!(same, record);
        }
        // The header is one more step, and moves the rest back.
        Err(error) => assert_eq!(error, ParseError::TooDeep),
    }
});

/// Parses twice, the second time with what the first one left behind.
fn described(bytes: &[u8], link: Link) -> Result<(Headers, HopRecord), ParseError> {
    let reader = SliceReader::new(bytes);
    let mut headers = Headers::default();
    let first = parsed(&mut headers, &reader, link);
    let mut used = headers;
    assert_eq!(parsed(&mut used, &reader, link), first);

    let record = first?;
    assert!(matches!(record.version, 4 | 6));
    assert!(usize::from(record.tunnel_count) <= MAX_TUNNELS);
    assert!(record.tunnels[usize::from(record.tunnel_count)..].iter().all(|tunnel| tunnel.kind == 0));
    assert!(headers.network < headers.transport);
    assert!((headers.network as usize) < bytes.len());
    assert!(headers.transport <= headers.end);
    Ok((headers, record))
}

fn parsed(headers: &mut Headers, reader: &SliceReader<'_>, link: Link) -> Result<HopRecord, ParseError> {
    let mut record = HopRecord::default();
    headers.parse(reader, link, &DEFAULT_VXLAN_PORTS)?;
    headers.describe(reader, &mut record)?;
    Ok(record)
}
