//! The tests of what kernel and user side share, as one binary.
//!
//! | module | proves |
//! |---|---|
//! | `network` | link and IP headers, extensions and fragments, from hand-made bytes |
//! | `transports` | TCP, UDP, ICMP, SCTP and what is none of them |
//! | `tunnels` | every encapsulation, alone and nested, and what only looks like one |
//! | `glance` | the short way for plain packets: where it is enough, and that it tells what the whole walk tells |
//! | `differential` | the same answers as `etherparse`, on packets that it writes |
//! | `laws` | what keeps a fingerprint and what changes it |
//! | `hostile` | no panic, no read outside, bounded work, whatever the bytes |
//! | `quotes` | what an ICMP error says of the packet that caused it |
//! | `quality` | fingerprints do not collide and their low bits are uniform |
//! | `layout` | the record's bytes, the filter's truth tables, the outcomes |
//!
//! Below them: `bytes` writes packets and shares no code with the parser, `random` makes arbitrary ones, `observe`
//! is what a program at a device does.

mod bytes;
mod differential;
mod glance;
mod hostile;
mod laws;
mod layout;
mod network;
mod observe;
mod quality;
mod quotes;
mod random;
mod transports;
mod tunnels;
