//! `tracer agent`: what one node observes, for those who may look. See `docs/agent.md` for who that is.
//!
//! ```text
//! watches of the API server ─► traces ─► verify ─► filters and devices ─► machine     one task; the programs are
//! gRPC calls ─► admission ─► subscribers ◄─ events ◄────────────────────────┘          in its hands only
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`request`] | what a PacketTrace asks for, its words checked |
//! | [`traces`] | pure: which traces are armed in which slot, who may have their records, what is said of each |
//! | [`verify`] | whose addresses a request's names stand for, as the API server says |
//! | [`outbox`] | messages to one caller, who is never waited for |
//! | [`subscribers`] | the streams of those who were admitted |
//! | [`api`] | gRPC |
//! | [`client`] | the other end of it |
//! | [`describe`] | what it says of its node |
//! | [`health`] | /healthz and /readyz |
//! | [`run`] | all of it together |

pub mod api;
pub mod client;
pub mod describe;
pub mod health;
pub mod outbox;
pub mod request;
pub mod run;
pub mod subscribers;
pub mod traces;
pub mod verify;
