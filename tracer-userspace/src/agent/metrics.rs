//! What the kernel measured and what the agent lost, for Prometheus. All is read when it is asked for, and a scrape costs
//! what reading the maps costs; kept is only what counts need to go on: which drops were told already ([`drops`]), and
//! which number a group has ([`groups`]).
//!
//! | module | holds |
//! |---|---|
//! | [`kinds`] | kinds of points, as the kernel side numbers them and as labels name them |
//! | [`drops`] | pure: from drops by namespace and device to drops by node and role |
//! | [`groups`] | pure: which pods or workloads have legs of their own |
//! | [`source`] | all numbers of one scrape |
//! | [`render`] | from these to OpenMetrics text |
//! | [`serve`] | the HTTP endpoint |

pub mod drops;
pub mod groups;
pub mod kinds;
pub mod render;
pub mod serve;
pub mod source;
