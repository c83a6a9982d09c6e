//! What a packet is, in a few words.

use crate::trajectory::exchange::{Exchange, Kind, Member, Role};
use crate::trajectory::model::Packet;

const TCP: u8 = 6;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The kind of an exchange.
pub(super) fn kind(kind: Kind) -> String {
    match kind {
        Kind::Tcp => "TCP".to_owned(),
        Kind::Dns => "DNS".to_owned(),
        Kind::Udp => "UDP".to_owned(),
        Kind::Echo => "ICMP echo".to_owned(),
        Kind::Other(132) => "SCTP".to_owned(),
        Kind::Other(number) => format!("IP protocol {number}"),
    }
}

/// A member of an exchange. TCP numbers are relative to the beginning of the connection or, if that was not seen, to the
/// first packet that was: the first byte is 1.
pub(super) fn label(exchange: &Exchange, member: &Member) -> String {
    let Some(packet) = member.packet() else { return String::new() };
    if packet.protocol == TCP && packet.ports.is_some() {
        return of_tcp(exchange, member, packet);
    }
    let what = match (exchange.kind, member.role, member.from_requester) {
        (_, Role::Fragment, _) => "fragment",
        (Kind::Echo, Role::Retransmission, _) => "echo request, again",
        (Kind::Echo, _, true) => "echo request",
        (Kind::Echo, _, false) => "echo reply",
        (Kind::Dns, Role::Retransmission, _) => "query, again",
        (Kind::Dns, _, true) => "query",
        (_, _, true) => "request",
        (_, _, false) => "answer",
    };
    let number = match (exchange.kind, member.role) {
        (_, Role::Fragment) => {
            packet.fragment.map_or_else(String::new, |(offset, _)| format!(" at {offset}"))
        }
        (Kind::Echo, _) => format!(" {}", packet.sequence),
        (Kind::Dns, _) => format!(" {:#06x}", packet.sequence),
        _ => String::new(),
    };
    format!("{what}{number}, {}", bytes(packet.payload_length))
}

fn of_tcp(exchange: &Exchange, member: &Member, packet: &Packet) -> String {
    let [requester, responder] = exchange.bases;
    let (own, other) = if member.from_requester { (requester, responder) } else { (responder, requester) };
    let sequence = packet.sequence.wrapping_sub(own);
    let acknowledgment = packet.acknowledgment.wrapping_sub(other);
    let content = content(packet);
    let mut text = match member.role {
        Role::Syn => "SYN".to_owned(),
        Role::SynAck => "SYN ACK".to_owned(),
        Role::Request => format!("request {sequence}, {content}"),
        Role::Answer => format!("answer {sequence}, {content}"),
        Role::Ack => format!("ACK {acknowledgment}"),
        Role::WindowUpdate => format!("window update {}", packet.window),
        Role::ZeroWindow => format!("ZERO WINDOW, ACK {acknowledgment}"),
        Role::WindowProbe => "window probe".to_owned(),
        Role::KeepAlive => "keep-alive".to_owned(),
        Role::Fin => format!("FIN, ACK {acknowledgment}"),
        Role::Reset => "RST".to_owned(),
        Role::Retransmission => match member.trajectory.retransmission_of {
            Some(earlier) => format!("#{earlier} again: {sequence}, {content}"),
            None => format!("again: {sequence}, {content}"),
        },
        Role::Fragment => "fragment".to_owned(),
    };
    if packet.payload_length > 0 && packet.tcp_flags & FIN != 0 {
        text += ", FIN";
    }
    if packet.payload_length > 0 && packet.window == 0 && packet.tcp_flags & RST == 0 {
        text += ", ZERO WINDOW";
    }
    text
}

/// What takes sequence space.
fn content(packet: &Packet) -> String {
    match (packet.payload_length, packet.tcp_flags & (SYN | ACK | FIN)) {
        (0, flags) if flags & (SYN | ACK) == SYN | ACK => "SYN ACK".to_owned(),
        (0, flags) if flags & SYN != 0 => "SYN".to_owned(),
        (0, flags) if flags & FIN != 0 => "FIN".to_owned(),
        (length, _) => bytes(length),
    }
}

fn bytes(count: u32) -> String {
    if count == 1 { "1 byte".to_owned() } else { format!("{count} bytes") }
}
