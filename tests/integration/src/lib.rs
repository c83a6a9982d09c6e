//! What the integration tests share. It talks to tracer as a user does, by its command line and its output, and links
//! nothing of it: what tracer believes cannot leak into what it is compared with.
//!
//! | module | holds |
//! |---|---|
//! | `tracer` | the program under test and how to call it; the lab that fits the run |
//! | `follow` | a running `tracer follow`: wait for a condition, stop, kill |
//! | `capture` | what is in a capture file, by a reader that is not tracer's |
//! | `observe` | a running `tracer observe`, and a follow of what it writes |
//! | `points` | `tracer points`, and the same hooks as tc and bpftool see them |
//! | `truth` | an independent capture of the same packets, and how the two are compared |
//! | `told` | its JSON output, as `docs/json.md` documents it |

mod capture;
mod follow;
mod observe;
mod points;
mod told;
mod tracer;
mod truth;

pub use crate::capture::{CaptureFile, FilePacket, trajectories};
pub use crate::follow::{Follow, Report};
pub use crate::observe::{Observe, fifo};
pub use crate::points::{
    Filter, Hook, HookProgram, Hooked, Point, assert_unloaded, device_counters, has_clsact, has_tcx, ip,
    kernel_has_program, kernel_version, run_in, tc_filters, url, wait_until,
};
pub use crate::told::{
    Address, DropDetail, Encapsulation, End, Exchange, HookCounts, Hop, Icmp, Latency, Leg, Losses, Missing,
    PacketCounts, Stream, Summary, Tcp, Times, Trajectory, Verdict, VerdictDetail,
};
pub use crate::tracer::{Attach, Tracer, attach, fact, lab, patient, program, run_to_its_end};
pub use crate::truth::{ECHO_WEB_AND_DNS, Seen, Transport, Watch, Watched, Way};
