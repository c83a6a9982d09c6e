//! Capture files: what tcpdump, dumpcap and Wireshark write, read as a stream.
//!
//! | module | holds |
//! |---|---|
//! | [`read`] | the reader: from bytes to packets, bounded in memory whatever the file says |
//! | [`link`] | what stands before a packet's IP header: Ethernet, nothing, Linux' cooked headers |
//! | [`write`] | the writer of pcapng |
//!
//! An own reader, because what crates offer holds a whole block or fails at what Wireshark only shrugs at; and a crate of
//! its own, so that it can be fuzzed without all that a tracer needs.

pub mod link;
pub mod read;
pub mod write;
