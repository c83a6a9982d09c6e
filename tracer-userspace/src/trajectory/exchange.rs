//! From trajectories to exchanges: a request, its answer, and what belongs to them. Pure: no I/O, time is an argument.
//!
//! **One conversation** is what goes between two ends under any of the addresses that NAT gave them on the way: every
//! pair of addresses and ports at every hop leads to it, so a request to a Service and the answer from an endpoint
//! meet. Echo requests are told apart by identifier and sequence number, DNS messages by their ID.
//!
//! **One exchange** is a run of payload from the requester and its answer, with what surrounds them: the handshake
//! before the first, retransmissions, window updates, the end of the connection. A connection with several requests
//! gives several exchanges. For TCP an answer is payload that acknowledges the request's last byte.
//!
//! **Order.** Trajectories come in order of report, a lost one much later than its neighbours. A conversation holds
//! them for [`Config::hold_ns`] and reads them in the order in which the requester saw them.
//!
//! **Times** ([`times`]) are read where request and answer passed the same device, so each is a difference within
//! one clock: the whole, as the requester saw it, and the stay in the answering pod. What remains is the time on both
//! paths together; how it splits between them is exact within one clock and an interval between two.
//!
//! **Memory** is bounded by [`Config`]; what was ended early or left out is counted and told.
//!
//! | module | holds |
//! |---|---|
//! | [`model`] | the words: exchange, member, role, outcome |
//! | [`times`] | path there, application, path back |
//! | `tuple` | what leads a packet to its conversation |
//! | `tcp` | what a TCP packet is in its connection |
//! | `conversation` | order, and where an exchange begins and ends |
//! | `collect` | all conversations, their memory and their timers |

mod collect;
mod conversation;
pub mod model;
mod tcp;
pub mod times;
mod tuple;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use collect::{Config, Counters, Exchanges, Finding};
pub use model::{Ending, Exchange, Kind, Member, Outcome, Role};
pub use times::{NoSplit, NoTimes, Split, Times, Turn};
