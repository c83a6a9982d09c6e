//! (under construction)

pub mod select;
