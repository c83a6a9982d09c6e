//! What the integration tests share. It talks to tracer as a user does, by its command line and its output, and links
//! nothing of it: what tracer believes cannot leak into what it is compared with.
//!
//! | module | holds |
//! |---|---|
//! | `tracer` | the program under test and how to call it; the lab that fits the run |
//! | `follow` | a running `tracer follow`: wait for a condition, stop, kill |
//! | `truth` | an independent capture of the same packets, and how the two are compared |
//! | `told` | its JSON output, as `docs/json.md` documents it |

mod follow;
mod told;
mod tracer;
mod truth;

pub use crate::follow::{Follow, Report};
pub use crate::told::{
    Address, Encapsulation, End, HookCounts, Hop, Icmp, Leg, Losses, Missing, PacketCounts, Summary, Tcp,
    Trajectory, Verdict, VerdictDetail,
};
pub use crate::tracer::{Attach, Tracer, attach, lab, program, run_to_its_end};
pub use crate::truth::{Seen, Transport, Watch, Watched};
