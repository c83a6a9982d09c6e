//! What tracer uses of the Kubernetes API.
//!
//! | module | holds |
//! |---|---|
//! | [`packet_trace`] | the custom resource by which a client asks agents to record |
//! | [`secret`] | what only the client and whoever it tells knows of a trace |
//! | [`cluster`] | connecting, and what an answer of the API server means to an operator |
//! | [`watch`] | objects as they come and go |
//! | [`agents`] | where the agents are, and connections to them |
//! | [`rights`] | what people need to be allowed |

pub mod agents;
pub mod cluster;
pub mod packet_trace;
pub mod rights;
pub mod secret;
pub mod watch;
