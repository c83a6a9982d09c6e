//! One conversation: its packets in the order in which the requester saw them, cut into exchanges.

use crate::trajectory::exchange::model::{Ending, Exchange, Kind, Member, Outcome, Role};
use crate::trajectory::exchange::tcp::{self, Connection, carries, is_before, payload_end};
use crate::trajectory::exchange::times::{NoTimes, Times, measure};
use crate::trajectory::exchange::tuple::{ICMP, ICMPV6, TCP, Tuple, UDP, is_dns};
use crate::trajectory::model::{ClockId, Hop, Packet, Trajectory, Verdict};
use crate::trajectory::rewrite::Endpoint;

/// Members of an exchange that are kept when nothing is special about them.
const MAX_PLAIN: usize = 128;
/// Members of an exchange that are kept at all: the others are retransmissions and packets that did not arrive.
const MAX_MEMBERS: usize = 256;
/// Packets that wait at most; beyond, they are read at once.
const MAX_WAITING: usize = 4_096;
/// Pairs of clocks whose rough difference is remembered.
const MAX_CLOCKS: usize = 8;

pub(super) struct Conversation {
    pub(super) kind: Kind,
    /// What leads here.
    pub(super) tuples: Vec<Tuple>,
    /// Sequence number of the SYN that began it.
    pub(super) began_with: Option<u32>,
    /// Observer's time of the last packet.
    pub(super) touched_ns: u64,
    pub(super) open: Option<Open>,
    waiting: Vec<Waiting>,
    clocks: Clocks,
    connection: Connection,
    previous: Option<u64>,
}

struct Waiting {
    trajectory: Trajectory,
    from_requester: bool,
    /// Observer's time.
    until_ns: u64,
}

/// An exchange to which more may come.
pub(super) struct Open {
    pub(super) exchange: Exchange,
    progress: Progress,
    /// Since when there is something that was not shown, in the observer's time.
    untold_since_ns: Option<u64>,
}

#[derive(Default)]
struct Progress {
    /// Behind the request's last byte.
    request_end: Option<u32>,
    has_request: bool,
    is_answered: bool,
}

impl Conversation {
    pub(super) fn new(packet: &Packet) -> Self {
        Self {
            kind: kind_of(packet),
            tuples: Vec::new(),
            began_with: None,
            touched_ns: 0,
            open: None,
            waiting: Vec::new(),
            clocks: Clocks::default(),
            connection: Connection::default(),
            previous: None,
        }
    }

    /// Takes in a packet, to be read with others at `until_ns`.
    pub(super) fn hold(&mut self, trajectory: Trajectory, from_requester: bool, until_ns: u64) {
        if let Some((first, ..)) = trajectory.beginning()
            && from_requester
            && tcp_of(first).is_some_and(tcp::is_syn)
        {
            self.began_with.get_or_insert(first.sequence);
        }
        self.clocks.learn(&trajectory, from_requester);
        self.waiting.push(Waiting { trajectory, from_requester, until_ns });
    }

    /// Whether a SYN with this sequence number asks for another connection than this one.
    pub(super) fn is_older_than(&self, syn: Option<u32>) -> bool {
        self.began_with != syn
    }

    /// Whether so many packets wait that they are to be read before their time.
    pub(super) fn is_crowded(&self) -> bool {
        self.waiting.len() > MAX_WAITING
    }

    /// Packets in memory.
    pub(super) fn held(&self) -> usize {
        self.waiting.len() + self.open.as_ref().map_or(0, |open| open.exchange.members.len())
    }

    /// When the next packet is to be read, in the observer's time.
    pub(super) fn reads_at_ns(&self) -> Option<u64> {
        self.waiting.iter().map(|waiting| waiting.until_ns).min()
    }

    /// Reads the packets whose time has come, and those that the requester saw before them. `number` numbers exchanges,
    /// `emit` gets those that end, `spare` packets that an exchange has no room for but must not be silent about.
    pub(super) fn read(
        &mut self,
        now_ns: u64,
        number: &mut u64,
        emit: &mut dyn FnMut(Exchange),
        spare: &mut dyn FnMut(&Trajectory),
    ) {
        let key = |clocks: &Clocks, waiting: &Waiting| {
            clocks.order_ns(&waiting.trajectory, waiting.from_requester).unwrap_or(i128::MAX)
        };
        let clocks = &self.clocks;
        self.waiting.sort_by_key(|waiting| (key(clocks, waiting), waiting.trajectory.id));
        let Some(last) = self.waiting.iter().rposition(|waiting| waiting.until_ns <= now_ns) else { return };
        for waiting in self.waiting.drain(..=last).collect::<Vec<_>>() {
            self.take(waiting.trajectory, waiting.from_requester, number, emit, spare);
        }
        let is_complete = match self.kind {
            Kind::Tcp => self.connection.is_closed(),
            Kind::Dns | Kind::Echo => self.open.as_ref().is_some_and(|open| open.progress.is_answered),
            Kind::Udp | Kind::Other(_) => false,
        };
        if is_complete && self.waiting.is_empty() {
            self.end(Ending::Complete, emit);
        }
    }

    fn take(
        &mut self,
        trajectory: Trajectory,
        from_requester: bool,
        number: &mut u64,
        emit: &mut dyn FnMut(Exchange),
        spare: &mut dyn FnMut(&Trajectory),
    ) {
        let Some((first, first_clock, _)) = trajectory.beginning() else { return };
        let role = self.role(first, &trajectory, from_requester);
        if role == Role::Request && self.open.as_ref().is_some_and(Open::is_over_for_a_request) {
            self.end(Ending::NextRequest, emit);
        }
        let time_ns = self.clocks.time_ns(&trajectory, from_requester);
        let clock = self.clocks.requester.unwrap_or(first_clock);
        let (kind, previous) = (self.kind, self.previous);
        let open = self.open.get_or_insert_with(|| {
            *number += 1;
            Open::begin(*number, kind, clock, previous, &trajectory, from_requester)
        });
        open.exchange.bases = self.connection.bases();
        if open.exchange.clock != clock && open.exchange.members.iter().all(|member| member.time_ns.is_none())
        {
            open.exchange.clock = clock;
        }
        open.add(Member { trajectory, role, from_requester, time_ns }, spare);
    }

    fn role(&mut self, packet: &Packet, trajectory: &Trajectory, from_requester: bool) -> Role {
        if packet.fragment.is_some_and(|(offset, _)| offset > 0) {
            return Role::Fragment;
        }
        if let Some(packet) = tcp_of(packet) {
            return self.connection.take(packet, from_requester, trajectory.retransmission_of.is_some());
        }
        if !from_requester {
            return Role::Answer;
        }
        // A question that is asked again under the same number.
        let is_asked = self.open.as_ref().is_some_and(|open| open.progress.has_request);
        if is_asked && matches!(self.kind, Kind::Dns | Kind::Echo) {
            Role::Retransmission
        } else {
            Role::Request
        }
    }

    /// Ends the exchange under way, if there is one.
    pub(super) fn end(&mut self, ending: Ending, emit: &mut dyn FnMut(Exchange)) {
        let Some(mut open) = self.open.take() else { return };
        open.exchange.judge();
        open.exchange.ending = Some(ending);
        self.previous = Some(open.exchange.id);
        emit(open.exchange);
    }
}

impl Open {
    fn begin(
        id: u64,
        kind: Kind,
        clock: ClockId,
        previous: Option<u64>,
        trajectory: &Trajectory,
        from_requester: bool,
    ) -> Self {
        let ends = Ends::of(trajectory, from_requester);
        let exchange = Exchange {
            id,
            kind,
            requester: ends.requester,
            addressed: ends.addressed,
            responder: ends.responder,
            clock,
            previous,
            members: Vec::new(),
            left_out: 0,
            told: 0,
            ending: None,
            outcome: Outcome::NoRequest,
            handshake: None,
            times: Err(NoTimes::NoRequest),
            bases: [0; 2],
        };
        Self { exchange, progress: Progress::default(), untold_since_ns: None }
    }

    fn add(&mut self, member: Member, spare: &mut dyn FnMut(&Trajectory)) {
        self.follow_progress(&member);
        self.learn_ends(&member);
        let is_plain = member.trajectory.verdict == Verdict::Delivered && member.role != Role::Retransmission;
        let members = &mut self.exchange.members;
        if members.len() < if is_plain { MAX_PLAIN } else { MAX_MEMBERS } {
            members.push(member);
            return;
        }
        self.exchange.left_out += 1;
        if member.trajectory.verdict != Verdict::Delivered {
            spare(&member.trajectory);
        }
    }

    fn follow_progress(&mut self, member: &Member) {
        let Some(packet) = member.packet() else { return };
        let progress = &mut self.progress;
        let carries_payload = match member.role {
            Role::Request | Role::Answer => true,
            Role::Retransmission => packet.payload_length > 0,
            _ => false,
        };
        if !carries_payload {
            return;
        }
        if member.from_requester {
            progress.has_request = true;
            let end = payload_end(packet);
            if progress.request_end.is_none_or(|before| is_before(before, end)) {
                progress.request_end = Some(end);
            }
        } else {
            let answers_all = |end| !is_before(packet.acknowledgment, end);
            // TCP sends a lost answer again; a datagram's requester may ask again.
            let is_lost = matches!(member.trajectory.verdict, Verdict::Lost { .. } | Verdict::Dropped(_));
            progress.is_answered |=
                if packet.protocol == TCP { progress.request_end.is_none_or(answers_all) } else { !is_lost };
        }
    }

    /// A longer way shows more of the ends: a lost request may not have reached its translation.
    fn learn_ends(&mut self, member: &Member) {
        let ends = Ends::of(&member.trajectory, member.from_requester);
        let exchange = &mut self.exchange;
        let is_first = exchange.members.is_empty();
        if is_first || member.trajectory.verdict == Verdict::Delivered {
            (exchange.requester, exchange.addressed) = (ends.requester, ends.addressed);
            exchange.responder = ends.responder;
        }
    }

    /// Whether a further request would be the next exchange's.
    fn is_over_for_a_request(&self) -> bool {
        self.progress.is_answered
    }

    /// Whether something has been there for so long that was not shown.
    pub(super) fn is_silent_for(&mut self, time_ns: u64, now_ns: u64) -> bool {
        if self.exchange.told == self.exchange.members.len() {
            self.untold_since_ns = None;
            return false;
        }
        let since_ns = *self.untold_since_ns.get_or_insert(now_ns);
        now_ns.saturating_sub(since_ns) >= time_ns
    }

    pub(super) fn mark_shown(&mut self) {
        self.exchange.told = self.exchange.members.len();
        self.untold_since_ns = None;
    }

    /// Whether an answer may still come.
    pub(super) fn waits_for_an_answer(&self) -> bool {
        let asks = self.exchange.members.iter().filter(|member| member.from_requester);
        let may_be_answered = match self.exchange.kind {
            // What was lost is sent again.
            Kind::Tcp => self.progress.has_request || asks.clone().any(|member| member.role == Role::Syn),
            _ => asks.clone().any(|member| {
                !matches!(member.trajectory.verdict, Verdict::Lost { .. } | Verdict::Dropped(_))
            }),
        };
        may_be_answered && !self.progress.is_answered
    }
}

/// Both ends as one packet shows them.
struct Ends {
    requester: Endpoint,
    addressed: Endpoint,
    responder: Endpoint,
}

impl Ends {
    fn of(trajectory: &Trajectory, from_requester: bool) -> Self {
        let nowhere = Endpoint { address: std::net::Ipv4Addr::UNSPECIFIED.into(), port: None };
        let Some((first, ..)) = trajectory.beginning() else {
            return Self { requester: nowhere, addressed: nowhere, responder: nowhere };
        };
        let last = trajectory.hops.last().map_or(first, |hop| &hop.packet);
        if from_requester {
            return Self {
                requester: Endpoint::source(first),
                addressed: Endpoint::destination(first),
                responder: Endpoint::destination(last),
            };
        }
        Self {
            requester: Endpoint::destination(last),
            addressed: Endpoint::source(last),
            responder: Endpoint::source(first),
        }
    }
}

impl Exchange {
    /// Says what its members mean together.
    pub(super) fn judge(&mut self) {
        let of = |role: Role, from_requester: bool| {
            let wanted =
                move |member: &&Member| member.role == role && member.from_requester == from_requester;
            self.members.iter().any(|member| wanted(&member))
        };
        let (has_request, is_reset) =
            (self.has_payload(true), of(Role::Reset, true) || of(Role::Reset, false));
        let times = self.measure_answer();
        let is_answered = !matches!(times, Err(NoTimes::NoAnswer | NoTimes::NoRequest));
        self.outcome = match (has_request, is_answered) {
            (true, true) if times == Err(NoTimes::AnswerLost) => Outcome::AnswerLost,
            (true, true) => Outcome::Answered,
            (true, false) if is_reset => Outcome::Reset,
            (true, false) => Outcome::Unanswered,
            (false, _) if of(Role::Syn, true) && of(Role::Reset, false) => Outcome::Refused,
            (false, _) if of(Role::Syn, true) && !of(Role::SynAck, false) => Outcome::Unanswered,
            (false, _) => Outcome::NoRequest,
        };
        self.handshake = self.measure_handshake();
        self.times = times;
    }

    fn has_payload(&self, from_requester: bool) -> bool {
        self.with_payload(from_requester).next().is_some()
    }

    /// Members with payload of one side, those that carry it again included.
    fn with_payload(&self, from_requester: bool) -> impl Iterator<Item = (&Member, &Packet)> {
        self.members.iter().filter(move |member| member.from_requester == from_requester).filter_map(
            |member| {
                let packet = member.packet()?;
                let carries = match member.role {
                    Role::Request | Role::Answer => true,
                    Role::Retransmission => packet.payload_length > 0 || packet.protocol != TCP,
                    _ => false,
                };
                carries.then_some((member, packet))
            },
        )
    }

    fn measure_answer(&self) -> Result<Times, NoTimes> {
        if self.kind == Kind::Tcp { self.measure_stream() } else { self.measure_datagrams() }
    }

    /// By sequence numbers: the first answer that acknowledges the request's last byte.
    fn measure_stream(&self) -> Result<Times, NoTimes> {
        let ends = self.with_payload(true).map(|(_, packet)| payload_end(packet));
        let end = ends.reduce(|a, b| if is_before(a, b) { b } else { a }).ok_or(NoTimes::NoRequest)?;
        let asked = self.with_payload(true).filter(|(_, packet)| carries(packet, end.wrapping_sub(1)));
        let answer = self
            .with_payload(false)
            .filter(|(_, packet)| !is_before(packet.acknowledgment, end))
            .map(|(_, packet)| packet.sequence)
            .reduce(|a, b| if is_before(b, a) { b } else { a })
            .ok_or(NoTimes::NoAnswer)?;
        let answered = self.with_payload(false).filter(|(_, packet)| carries(packet, answer));
        measure(&in_order_of_sending(asked), &in_order_of_sending(answered))
    }

    fn measure_datagrams(&self) -> Result<Times, NoTimes> {
        let mut asked = in_order_of_sending(self.with_payload(true));
        let mut answered = in_order_of_sending(self.with_payload(false));
        if !matches!(self.kind, Kind::Dns | Kind::Echo) {
            // Each says something else: the last question before the first answer counts.
            answered.truncate(1);
            let before =
                |member: &Member| answered.first().is_some_and(|first| first.id == member.trajectory.id);
            let place = self.members.iter().position(before).unwrap_or(self.members.len());
            let last = self.members[..place].iter().rfind(|member| member.role == Role::Request);
            asked = last.map(|member| vec![&member.trajectory]).unwrap_or_default();
        }
        measure(&asked, &answered)
    }

    /// Until the connection stood or was refused.
    fn measure_handshake(&self) -> Option<Times> {
        const SYN: u8 = 0x02;
        const RST: u8 = 0x04;
        let refusal = self.outcome == Outcome::Refused;
        let with_syn = |from_requester: bool| {
            let members = self.members.iter().filter(move |member| member.from_requester == from_requester);
            members.filter_map(|member| Some((member, tcp_of(member.packet()?)?))).filter(
                move |(_, packet)| {
                    packet.tcp_flags & SYN != 0 || (refusal && !from_requester && packet.tcp_flags & RST != 0)
                },
            )
        };
        measure(&in_order_of_sending(with_syn(true)), &in_order_of_sending(with_syn(false))).ok()
    }
}

/// The sender has one clock, so its packets can be ordered by it. Members are in the order of the requester's.
fn in_order_of_sending<'a>(members: impl Iterator<Item = (&'a Member, &'a Packet)>) -> Vec<&'a Trajectory> {
    let mut sent: Vec<_> = members.map(|(member, _)| &member.trajectory).collect();
    let time = |sent: &Trajectory| sent.beginning().map(|(_, clock, time_ns)| (clock, time_ns));
    let first_clock = sent.first().and_then(|sent| time(sent)).map(|(clock, _)| clock);
    if sent.iter().all(|sent| time(sent).map(|(clock, _)| clock) == first_clock) {
        sent.sort_by_key(|sent| time(sent).map(|(_, time_ns)| time_ns));
    }
    sent
}

fn tcp_of(packet: &Packet) -> Option<&Packet> {
    (packet.protocol == TCP && packet.ports.is_some()).then_some(packet)
}

fn kind_of(packet: &Packet) -> Kind {
    match packet.protocol {
        TCP => Kind::Tcp,
        UDP if is_dns(packet) => Kind::Dns,
        UDP => Kind::Udp,
        ICMP | ICMPV6 => Kind::Echo,
        other => Kind::Other(other),
    }
}

/// The requester's clock, and how far others are from it, roughly: enough to order packets that were not seen in it.
#[derive(Default)]
struct Clocks {
    requester: Option<ClockId>,
    /// Of a clock: what it shows more than the requester's, at most, nanoseconds.
    ahead: Vec<(ClockId, i128)>,
}

impl Clocks {
    fn learn(&mut self, trajectory: &Trajectory, from_requester: bool) {
        let (Some(first), Some(last)) = (trajectory.hops.first(), trajectory.hops.last()) else { return };
        if from_requester {
            self.requester = Some(first.point.clock);
        } else if trajectory.verdict == Verdict::Delivered {
            self.requester.get_or_insert(last.point.clock);
        }
        if !from_requester || Some(first.point.clock) != self.requester {
            return;
        }
        for hop in &trajectory.hops[1..] {
            let ahead = i128::from(hop.time_ns) - i128::from(first.time_ns);
            if let Some((_, least)) = self.ahead.iter_mut().find(|(clock, _)| *clock == hop.point.clock) {
                *least = ahead.min(*least);
            } else if self.ahead.len() < MAX_CLOCKS && hop.point.clock != first.point.clock {
                self.ahead.push((hop.point.clock, ahead));
            }
        }
    }

    /// When the requester's side saw a packet: sent it, or got it.
    fn time_ns(&self, trajectory: &Trajectory, from_requester: bool) -> Option<u64> {
        let nearest = self.nearest(trajectory, from_requester).map(|hop| hop.time_ns);
        nearest.or_else(|| {
            let (_, clock, time_ns) = trajectory.beginning()?;
            (Some(clock) == self.requester).then_some(time_ns)
        })
    }

    fn nearest<'a>(&self, trajectory: &'a Trajectory, from_requester: bool) -> Option<&'a Hop> {
        let is_own = |hop: &&Hop| Some(hop.point.clock) == self.requester;
        if from_requester {
            trajectory.hops.iter().find(is_own)
        } else {
            trajectory.hops.iter().rfind(is_own)
        }
    }

    /// A number that orders packets as the requester saw or, of those that it did not see, about would have seen them.
    fn order_ns(&self, trajectory: &Trajectory, from_requester: bool) -> Option<i128> {
        if let Some(time_ns) = self.time_ns(trajectory, from_requester) {
            return Some(time_ns.into());
        }
        trajectory.hops.iter().rev().find_map(|hop| {
            let (_, ahead) = self.ahead.iter().find(|(clock, _)| *clock == hop.point.clock)?;
            Some(i128::from(hop.time_ns) - ahead)
        })
    }
}
