//! The words of an exchange.

use crate::trajectory::exchange::times::{NoTimes, Times};
use crate::trajectory::model::{ClockId, Packet, Trajectory};
use crate::trajectory::rewrite::Endpoint;

/// What kind of conversation it is, and so how an answer finds its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// By connection and sequence numbers.
    Tcp,
    /// DNS over UDP, by the message's ID.
    Dns,
    /// Other datagrams with ports: the next one the other way is the answer.
    Udp,
    /// ICMP and ICMPv6 echo, by identifier and sequence number.
    Echo,
    /// As [`Kind::Udp`]; the number is IANA's.
    Other(u8),
}

/// What a packet is within its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Syn,
    SynAck,
    /// Payload from the requester.
    Request,
    /// Payload from the responder.
    Answer,
    Ack,
    /// The receive window has grown, and nothing else is said.
    WindowUpdate,
    /// No room: the other side must wait.
    ZeroWindow,
    /// Asks a side without room whether it has some again.
    WindowProbe,
    /// Asks whether the other side is still there.
    KeepAlive,
    Fin,
    Reset,
    /// Some of its bytes were sent before.
    Retransmission,
    /// A later fragment of a packet of the exchange.
    Fragment,
}

impl Role {
    /// For JSON: stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::SynAck => "syn-ack",
            Self::Request => "request",
            Self::Answer => "answer",
            Self::Ack => "ack",
            Self::WindowUpdate => "window-update",
            Self::ZeroWindow => "zero-window",
            Self::WindowProbe => "window-probe",
            Self::KeepAlive => "keep-alive",
            Self::Fin => "fin",
            Self::Reset => "reset",
            Self::Retransmission => "retransmission",
            Self::Fragment => "fragment",
        }
    }
}

/// One packet of an exchange.
#[derive(Clone, Debug)]
pub struct Member {
    pub trajectory: Trajectory,
    pub role: Role,
    /// Which way it went.
    pub from_requester: bool,
    /// When the requester's side saw it, in [`Exchange::clock`], nanoseconds; `None` if it was seen in other clocks only.
    pub time_ns: Option<u64>,
}

impl Member {
    /// As first seen.
    #[must_use]
    pub fn packet(&self) -> Option<&Packet> {
        self.trajectory.beginning().map(|(packet, _, _)| packet)
    }
}

/// How a request fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// An answer was seen to arrive, or nothing says that it did not.
    Answered,
    /// An answer was seen, and was lost or dropped.
    AnswerLost,
    /// A request and no answer to it.
    Unanswered,
    /// A connection was asked for and refused with a reset.
    Refused,
    /// The connection was reset before an answer.
    Reset,
    /// No payload of the requester: a handshake or an end alone, or an answer whose request was not seen.
    NoRequest,
}

impl Outcome {
    /// For JSON: stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::AnswerLost => "answer-lost",
            Self::Unanswered => "unanswered",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::NoRequest => "no-request",
        }
    }
}

/// Why nothing more is expected of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The connection ended, or the one answer that there can be has come.
    Complete,
    /// The requester sent the next request on the same connection.
    NextRequest,
    /// Nothing came for a while.
    Quiet,
    /// Memory was needed for others.
    Evicted,
    /// The run ended.
    RunEnded,
}

impl Ending {
    /// For JSON: stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::NextRequest => "next-request",
            Self::Quiet => "quiet",
            Self::Evicted => "evicted",
            Self::RunEnded => "run-ended",
        }
    }
}

/// A request, its answer, and what belongs to them.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Number within the run, from 1, in the order in which exchanges began to be told.
    pub id: u64,
    pub kind: Kind,
    /// Who asks, under the address that it has itself.
    pub requester: Endpoint,
    /// Whom it asks, under the address that it uses: a Service's, perhaps.
    pub addressed: Endpoint,
    /// Who is asked in the end, under the address that it has itself. As `addressed` where no rewrite was seen.
    pub responder: Endpoint,
    /// The requester's clock, in which the members' times are.
    pub clock: ClockId,
    /// The exchange before on the same connection.
    pub previous: Option<u64>,
    /// In the order in which the requester's side saw them, as far as that can be known.
    pub members: Vec<Member>,
    /// Further packets that there was no room for.
    pub left_out: u64,
    /// How many of the members have been shown before, when the exchange had paused.
    pub told: usize,
    /// `None` while more may come.
    pub ending: Option<Ending>,
    pub outcome: Outcome,
    /// From the requester's first SYN to the SYN ACK or, if refused, the reset; `None` if either was not seen.
    pub handshake: Option<Times>,
    /// From the request's last byte to the answer's first.
    pub times: Result<Times, NoTimes>,
    /// TCP sequence numbers that count as 0: the requester's and the responder's.
    pub bases: [u32; 2],
}

impl Exchange {
    /// When it began, in [`Exchange::clock`], nanoseconds; `None` if no member was seen in that clock.
    #[must_use]
    pub fn start_ns(&self) -> Option<u64> {
        self.members.iter().filter_map(|member| member.time_ns).min()
    }
}
