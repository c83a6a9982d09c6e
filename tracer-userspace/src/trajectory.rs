//! From hop records to trajectories: pure, no I/O, time is an argument.
//!
//! | module | holds |
//! |---|---|
//! | [`model`] | the words: observation point, hop, leg, trajectory, verdict |

pub mod model;
