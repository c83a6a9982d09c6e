//! (under construction)

pub mod points;
