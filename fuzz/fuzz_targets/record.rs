//! Any bytes as a sample of the ring buffer: a record is decoded if and only if the size is right.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer_common::record::{HOP_RECORD_SIZE, HopRecord};

fuzz_target!(|bytes: &[u8]| {
    let record = HopRecord::from_bytes(bytes);
    assert_eq!(record.is_some(), bytes.len() == HOP_RECORD_SIZE);
    // Reading all fields is what the address sanitizer watches.
    assert_eq!(record, HopRecord::from_bytes(bytes));
});
