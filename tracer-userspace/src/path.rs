//! `tracer path`: which way a packet would go, from the nodes' own state, before there is one.
//!
//! ```text
//! names ─► question ─► each node's half (look: netlink, bpf(2), /proc) ─► way there and back ─┬► findings ─► text, JSON
//!                                                                                             └► expected hops of follow
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`ask`] | pure: what nodes are asked about a way |
//! | [`facts`] | what one node says: plain data, also between agent and client |
//! | [`look`] | reading it |
//! | `cni` | which maps of CNI plugins are the node's, and what they have |
//! | `services` | who translates Services |
//! | [`halves`] | where the halves come from: this machine or agents |
//! | [`ways`] | pure: two halves as a way there and a way back |
//! | [`findings`] | pure: what looks wrong |
//! | [`expected`] | pure: the devices between two nodes, for a follow |
//! | [`compare`] | pure: the way beside a packet that was seen, or beside another way |
//! | `text` | for people |
//! | [`run`] | the command, on this machine and by a cluster's agents |

pub mod ask;
mod cni;
pub mod compare;
pub mod expected;
pub mod facts;
pub mod findings;
pub mod halves;
pub mod look;
pub mod run;
mod services;
mod text;
pub mod ways;
