//! A lab as a cluster: a double of the Kubernetes API that knows its pods and nodes, an agent for each node, and clients
//! that ask as `tracer follow` does.
//!
//! | module | holds |
//! |---|---|
//! | `agent` | a running `tracer agent` |
//! | `chart` | what the Helm chart gives |
//! | `client` | who makes a PacketTrace and reads its records |
//! | `cluster` | the lab's objects in the double |
//! | `installed` | a cluster with tracer in it, and people who use it |

mod agent;
mod chart;
mod client;
mod cluster;
mod installed;

pub use crate::agent::Agent;
pub use crate::chart::Chart;
pub use crate::client::{Records, TraceAsked, expires_in};
pub use crate::cluster::Cluster;
pub use crate::installed::{Installed, get};

use std::time::Duration;

/// How long anything here may take.
pub const SOON: Duration = Duration::from_secs(20);
