//! What a TCP packet is in its connection (RFC 9293).

use crate::trajectory::exchange::model::Role;
use crate::trajectory::model::Packet;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What is known of a connection's two sides: the requester's state and the responder's.
#[derive(Debug, Default)]
pub(super) struct Connection {
    sides: [Side; 2],
    reset: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// The sequence number that counts as 0.
    base: Option<u32>,
    /// The next byte that it will send.
    next: Option<u32>,
    acknowledged: Option<u32>,
    window: Option<u16>,
    /// The sequence number behind its FIN.
    end: Option<u32>,
}

impl Connection {
    /// Takes in a packet and says what it is. `is_repeated`: some of its bytes were sent before.
    pub(super) fn take(&mut self, packet: &Packet, from_requester: bool, is_repeated: bool) -> Role {
        let (own, other) = if from_requester { (0, 1) } else { (1, 0) };
        let role = role(packet, &self.sides[own], &self.sides[other], from_requester, is_repeated);
        self.reset |= role == Role::Reset;
        let is_reset = packet.tcp_flags & RST != 0;
        let side = &mut self.sides[own];
        if !is_reset {
            let first =
                if packet.tcp_flags & SYN == 0 { packet.sequence.wrapping_sub(1) } else { packet.sequence };
            side.base.get_or_insert(first);
            let end = end_of(packet);
            if side.next.is_none_or(|next| is_before(next, end)) {
                side.next = Some(end);
            }
            if packet.tcp_flags & FIN != 0 {
                side.end = Some(end);
            }
            // The window of a SYN is not scaled, those that follow mostly are.
            if packet.tcp_flags & SYN == 0 {
                side.window = Some(packet.window);
            }
        }
        if packet.tcp_flags & ACK != 0 {
            if side.acknowledged.is_none_or(|before| is_before(before, packet.acknowledgment)) {
                side.acknowledged = Some(packet.acknowledgment);
            }
            self.sides[other].base.get_or_insert(packet.acknowledgment.wrapping_sub(1));
        }
        role
    }

    /// Whether nothing more can come: reset, or both sides have ended and know it of each other.
    pub(super) fn is_closed(&self) -> bool {
        let knows = |own: usize, other: usize| match (self.sides[other].end, self.sides[own].acknowledged) {
            (Some(end), Some(acknowledged)) => !is_before(acknowledged, end),
            _ => false,
        };
        self.reset || (knows(0, 1) && knows(1, 0))
    }

    /// Sequence numbers that count as 0: the requester's and the responder's.
    pub(super) fn bases(&self) -> [u32; 2] {
        self.sides.map(|side| side.base.unwrap_or_default())
    }
}

fn role(packet: &Packet, own: &Side, other: &Side, from_requester: bool, is_repeated: bool) -> Role {
    let flags = packet.tcp_flags;
    if flags & RST != 0 {
        return Role::Reset;
    }
    if is_repeated {
        return Role::Retransmission;
    }
    match (flags & SYN != 0, flags & ACK != 0) {
        (true, false) => return Role::Syn,
        (true, true) => return Role::SynAck,
        (false, _) => {}
    }
    // Probes and keep-alives repeat the byte before the next one, or name its place without sending it.
    let is_behind = own.next.is_some_and(|next| packet.sequence == next.wrapping_sub(1));
    if is_behind && packet.payload_length <= 1 && flags & FIN == 0 {
        return if other.window == Some(0) { Role::WindowProbe } else { Role::KeepAlive };
    }
    if packet.payload_length > 0 {
        return if from_requester { Role::Request } else { Role::Answer };
    }
    if flags & FIN != 0 {
        return Role::Fin;
    }
    if packet.window == 0 {
        return Role::ZeroWindow;
    }
    let says_nothing_else = own.acknowledged == Some(packet.acknowledgment);
    if says_nothing_else && own.window.is_some_and(|window| window < packet.window) {
        return Role::WindowUpdate;
    }
    Role::Ack
}

/// The sequence number behind a packet's bytes; SYN and FIN take one each.
fn end_of(packet: &Packet) -> u32 {
    let marks = u32::from(packet.tcp_flags & SYN != 0) + u32::from(packet.tcp_flags & FIN != 0);
    packet.sequence.wrapping_add(packet.payload_length).wrapping_add(marks)
}

/// The sequence number behind a packet's payload.
pub(super) fn payload_end(packet: &Packet) -> u32 {
    packet.sequence.wrapping_add(packet.payload_length)
}

/// Whether the byte at `sequence` is in a packet's payload.
pub(super) fn carries(packet: &Packet, sequence: u32) -> bool {
    sequence.wrapping_sub(packet.sequence) < packet.payload_length
}

/// Order of sequence numbers, which wrap around.
pub(super) fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether it asks for a connection.
pub(super) fn is_syn(packet: &Packet) -> bool {
    packet.tcp_flags & (SYN | ACK) == SYN
}
