//! Any bytes as a capture file: the reader ends with them, keeps to its bounds, and what it gives makes sense.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer_pcap::{
    link::unframe,
    read::{CaptureReader, Custom, Item, MAX_INTERFACES, MAX_PACKET, Packet},
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut reader) = CaptureReader::begin(bytes) else { return };
    let (mut packet, mut note) = (Packet::default(), Custom::default());
    // Each item takes four bytes of the file at least.
    for _ in 0..=bytes.len() / 4 {
        match reader.read_item(&mut packet, &mut note) {
            Err(_) | Ok(Item::End) => return,
            Ok(Item::Note) => assert!(note.value.len() <= bytes.len()),
            Ok(Item::Packet) => check(&reader, &packet),
        }
    }
    panic!("the reader gives more than there is");
});

fn check(reader: &CaptureReader<&[u8]>, packet: &Packet) {
    let interface = &reader.interfaces()[packet.interface];
    assert!(reader.interfaces().len() <= MAX_INTERFACES);
    assert!(packet.bytes.len() <= MAX_PACKET as usize);
    assert!(packet.length as usize >= packet.bytes.len());
    if let Ok(framed) = unframe(interface.link_type, &packet.bytes) {
        assert_eq!(framed.bytes.len() + framed.taken_off as usize, packet.bytes.len());
    }
}
