//! From hop records to trajectories: pure, no I/O, time is an argument.
//!
//! | module | holds |
//! |---|---|
//! | [`model`] | the words: observation point, hop, leg, trajectory, verdict |
//! | [`correlate`] | joins sightings of one packet into a trajectory |
//! | [`clock`] | what the clocks of two machines differ by, from the packets between them |
//! | [`exchange`] | ties requests and answers together, and says where the time went |
//! | [`expect`] | which hops a packet should have shown, why one is missing, the verdict |
//! | [`drops`] | the kernel's drop reasons, and what to look at |
//! | [`icmp`] | ICMP errors by name |
//! | [`order`] | the order of hops on one clock and between clocks |
//! | [`rewrite`] | what NAT may do to a packet, checked against the inventory |

pub mod clock;
pub mod correlate;
pub mod drops;
pub mod exchange;
pub mod expect;
pub(crate) mod hash;
pub mod icmp;
pub mod model;
pub mod order;
mod recent;
pub mod rewrite;

#[cfg(test)]
pub(crate) mod testing;
