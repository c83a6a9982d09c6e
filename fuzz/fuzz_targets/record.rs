//! Any bytes as a sample of the ring buffer: a record is decoded if and only if the size is right, and a sample as the
//! kind that its size and its direction both say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer_common::record::{
    DIRECTION_NONE, DROP_RECORD_SIZE, HOP_RECORD_SIZE, HopRecord, Record, size_in_ring,
};

fuzz_target!(|bytes: &[u8]| {
    let record = HopRecord::from_bytes(bytes);
    assert_eq!(record.is_some(), bytes.len() == HOP_RECORD_SIZE);
    // Reading all fields is what the address sanitizer watches.
    assert_eq!(record, HopRecord::from_bytes(bytes));
    match Record::from_bytes(bytes) {
        Some(Record::Hop(hop)) => {
            assert_eq!(
                (Some(hop), bytes.len()),
                (HopRecord::from_ring(bytes), size_in_ring(hop.tunnel_count))
            );
        }
        Some(Record::Drop(drop)) => {
            assert_eq!((drop.packet.direction, bytes.len()), (DIRECTION_NONE, DROP_RECORD_SIZE));
        }
        None => {}
    }
});
