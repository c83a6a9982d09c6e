//! Following: what to follow, and the run itself.
//!
//! | module | holds |
//! |---|---|
//! | [`select`], [`wanted`] | from names to the addresses and ports of two ends |
//! | [`observation`] | observing this machine for a selection; its events go to whoever takes them |
//! | [`joining`] | from events to told trajectories |
//! | [`cluster`], `agents`, `trace` | by a cluster's agents: the API server's names, the agents' streams, what they are asked |
//! | [`local`] | `tracer follow --local`: both in one process |
//! | `expected` | what the nodes' own state says of the way, before a packet has shown it |
//! | [`observe`] | `tracer observe`: the events as a stream |
//! | [`merge`] | `tracer follow --from`: the streams of several machines |
//! | `clocks` | what is said of clocks: whose they are, that one was set or stopped |
//! | [`wall`] | which wall-clock time moments are told as |
//! | [`teller`] | where finished trajectories go: text or JSON, and the summary |
//! | [`silence`] | what to say when nothing is seen |
//! | [`run`], [`signals`] | what ends a run in good order |
//! | [`measure`] | `tracer metrics`: no follow, but the legs of all packets, sampled |
//! | [`points`] | `tracer points` |
//! | [`read`] | `tracer read`: captures instead of a machine |

mod agents;
mod clocks;
pub mod cluster;
mod expected;
pub mod joining;
pub mod local;
pub mod measure;
pub mod merge;
pub mod observation;
pub mod observe;
pub mod points;
pub mod read;
pub mod run;
pub mod select;
pub mod signals;
pub mod silence;
pub mod teller;
mod trace;
pub mod wall;
pub mod wanted;
