//! `tracer path`: which way a packet would go, from the nodes' own state, before there is one.
//!
//! ```text
//! names ─► question ─► each node's half (look: netlink, bpf(2), /proc) ─► way there and back ─► findings ─► text, JSON
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`facts`] | what one node says: plain data, also between agent and client |
//! | [`look`] | reading it |
//! | `cni` | which maps of CNI plugins are the node's, and what they have |
//! | `services` | who translates Services |
//! | [`ways`] | pure: two halves as a way there and a way back |
//! | [`findings`] | pure: what looks wrong |
//! | [`compare`] | pure: the way beside a packet that was seen, or beside another way |
//! | `text` | for people |
//! | [`run`] | the command, on this machine and by a cluster's agents |

mod cni;
pub mod compare;
pub mod facts;
pub mod findings;
pub mod look;
pub mod run;
mod services;
mod text;
pub mod ways;
