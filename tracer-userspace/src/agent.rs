//! What runs on a node: load the programs, attach them, read their records.
//!
//! | module | holds |
//! |---|---|
//! | [`preflight`] | whether this process may and this kernel can |
//! | [`programs`] | the eBPF object: loading, maps shared between its copies |
//! | [`slots`] | which follow has which bit of the kernel's masks |
//! | [`bytes`] | how much of packets is captured |
//! | [`filters`] | the filter maps: what the armed follows want |
//! | [`attach`] | hooks: TCX at the head, clsact where TCX is missing |
//! | [`observer`] | all of it in one hand |
//! | [`points`] | from (namespace, device, direction, time) to observation point |
//! | [`ring`] | the thread that empties the ring buffer |
//! | [`decode`] | from a hop record to a sighting |
//! | [`drops`] | from a drop record to the sighting of a drop |
//! | [`metrics`] | what the kernel measured and what was lost, for Prometheus |
//! | [`symbols`] | names of the kernel's functions |

pub mod attach;
pub mod bytes;
pub mod decode;
pub mod drops;
pub mod filters;
pub mod metrics;
pub mod observer;
pub mod points;
pub mod preflight;
pub mod programs;
pub mod ring;
pub mod slots;
pub mod symbols;
