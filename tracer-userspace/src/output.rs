//! What people and programs read. Each format writes the model on its own; they share no logic beyond the clock.
//!
//! | module | writes |
//! |---|---|
//! | [`text`] | one trajectory as a person would tell it |
//! | [`estimate`] | a time that is known within a bound |
//! | [`ladder`] | one exchange as a sequence diagram |
//! | [`json`] | one trajectory as one line, `tracer.trajectory/v1` |
//! | [`points`] | every observation point, as a table or as `tracer.points/v1` |
//! | [`summary`] | at the end: legs, verdicts, losses, as a table or as `tracer.summary/v1` |

pub mod estimate;
mod histogram;
pub mod json;
pub mod ladder;
pub mod points;
pub mod summary;
pub mod text;

use crate::trajectory::model::ClockId;

/// Turns a time of a clock (CLOCK_MONOTONIC of one node, nanoseconds) into nanoseconds since the Unix epoch.
pub type WallClock<'a> = &'a dyn Fn(ClockId, u64) -> u64;
