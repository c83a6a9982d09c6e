//! This machine under observation: what is asked for, kept attached as pods and devices come and go. Whoever asks (a
//! follow, an agent, a measurement) is not known here.
//!
//! | module | holds |
//! |---|---|
//! | [`machine`] | all of it in one hand: observing, and what is to be done when something happens |
//! | [`devices`] | the devices that are wanted, kept as the machine is |
//! | [`site`], [`looks`] | the inventory and what this machine has of it, kept up to date |
//! | [`event`] | what observing gives |

pub mod devices;
pub mod event;
pub mod looks;
pub mod machine;
pub mod site;
