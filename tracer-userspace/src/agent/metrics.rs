//! What the kernel measured and what the agent lost, for Prometheus. Nothing is kept here: all is read when it is asked
//! for, and a scrape costs what reading the maps costs.
//!
//! | module | holds |
//! |---|---|
//! | [`kinds`] | kinds of points, as the kernel side numbers them and as labels name them |
//! | [`source`] | all numbers of one scrape |
//! | [`render`] | from these to OpenMetrics text |
//! | [`serve`] | the HTTP endpoint |

pub mod kinds;
pub mod render;
pub mod serve;
pub mod source;
