//! Following: what to follow, and the run itself.
//!
//! | module | holds |
//! |---|---|
//! | [`select`] | from names to the addresses and ports of two ends |
//! | [`local`] | `tracer follow --local`: observe, correlate and tell on one machine |
//! | [`devices`] | the devices of a follow, kept as the machine is |
//! | [`site`] | the inventory and what this machine has of it, kept up to date |
//! | [`teller`] | where finished trajectories go: text or JSON, and the summary |
//! | [`silence`] | what to say when nothing is seen |
//! | [`signals`] | what ends a run in good order |
//! | [`points`] | `tracer points` |

pub mod devices;
pub mod local;
pub mod points;
pub mod select;
pub mod signals;
pub mod silence;
pub mod site;
pub mod teller;
