//! Messages to one caller. It is never waited for: what it is too slow for waits here, up to a bound, and beyond that
//! sightings are left out and counted.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::stream::wire::Message;
use crate::stream::wire::message::Kind;
use crate::stream::{MAX_FRAMES, MAX_SIGHTINGS, wire};

/// Messages that the connection may have taken and not sent.
pub const IN_FLIGHT: usize = 64;
/// Messages that wait before sightings are left out: each has up to [`MAX_SIGHTINGS`], some 50 KiB.
const WAITING: usize = 128;
/// Packets' bytes that wait before sightings are left out.
const WAITING_BYTES: usize = 8 << 20;
/// Messages of any kind that wait before the caller is given up.
const MOST_WAITING: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    sender: mpsc::Sender<Message>,
    waiting: VecDeque<Message>,
    sightings: Vec<wire::Sighting>,
    /// Packets' bytes in `sightings`, and in `waiting`.
    bytes: usize,
    waiting_bytes: usize,
    left_out: u64,
}

/// The caller has gone, or is so slow that it is as good as gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl Outbox {
    #[must_use]
    pub fn new(sender: mpsc::Sender<Message>) -> Self {
        Self {
            sender,
            waiting: VecDeque::new(),
            sightings: Vec::new(),
            bytes: 0,
            waiting_bytes: 0,
            left_out: 0,
        }
    }

    /// Sightings that were left out.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Takes a sighting; several make one message, before whatever comes next.
    pub(crate) fn sighting(&mut self, sighting: wire::Sighting) {
        self.bytes += sighting.frame.len();
        self.sightings.push(sighting);
        if self.sightings.len() >= MAX_SIGHTINGS || self.bytes >= MAX_FRAMES {
            self.close_sightings();
        }
    }

    /// Takes a message that must not be missed. Of heartbeats one behind the other the later says all.
    pub(crate) fn message(&mut self, kind: Kind) {
        self.close_sightings();
        let is_beat = |message: &Message| matches!(message.kind, Some(Kind::Heartbeat(_)));
        let message = Message { kind: Some(kind) };
        if is_beat(&message) && self.waiting.back().is_some_and(is_beat) {
            self.waiting.pop_back();
        }
        self.waiting.push_back(message);
    }

    /// Hands on what the connection takes.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn flush(&mut self) -> Result<(), Gone> {
        self.close_sightings();
        while let Some(message) = self.waiting.pop_front() {
            let bytes = frame_bytes(&message);
            match self.sender.try_send(message) {
                Ok(()) => self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes),
                Err(TrySendError::Full(message)) => {
                    self.waiting.push_front(message);
                    break;
                }
                Err(TrySendError::Closed(_)) => return Err(Gone),
            }
        }
        if self.sender.is_closed() || self.waiting.len() > MOST_WAITING { Err(Gone) } else { Ok(()) }
    }

    fn close_sightings(&mut self) {
        if self.sightings.is_empty() {
            return;
        }
        let sightings = std::mem::take(&mut self.sightings);
        let bytes = std::mem::take(&mut self.bytes);
        if self.waiting.len() >= WAITING || self.waiting_bytes + bytes > WAITING_BYTES {
            self.left_out += sightings.len() as u64;
            return;
        }
        self.waiting_bytes += bytes;
        self.waiting.push_back(Message { kind: Some(Kind::Sightings(wire::Sightings { sightings })) });
    }
}

fn frame_bytes(message: &Message) -> usize {
    let Some(Kind::Sightings(some)) = &message.kind else { return 0 };
    some.sightings.iter().map(|sighting| sighting.frame.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(at: u64) -> Kind {
        Kind::Heartbeat(wire::Heartbeat { monotonic_ns: at, wall_ns: at })
    }

    #[test]
    fn a_slow_caller_misses_sightings_that_are_counted_and_nothing_else() {
        let (sender, mut receiver) = mpsc::channel(IN_FLIGHT);
        let mut outbox = Outbox::new(sender);
        let sent = 2 * (WAITING + IN_FLIGHT) as u64;
        for number in 0..sent {
            outbox.sighting(wire::Sighting { time_ns: number, ..wire::Sighting::default() });
            outbox.message(Kind::PointGone(wire::PointGone { id: number as u32 }));
            outbox.flush().unwrap();
        }
        let (mut sightings, mut points) = (0, Vec::new());
        for _ in 0..sent {
            while let Ok(message) = receiver.try_recv() {
                match message.kind {
                    Some(Kind::Sightings(some)) => sightings += some.sightings.len() as u64,
                    Some(Kind::PointGone(gone)) => points.push(u64::from(gone.id)),
                    other => panic!("{other:?}"),
                }
            }
            outbox.flush().unwrap();
        }
        assert!(outbox.left_out() > 0);
        assert_eq!(sightings + outbox.left_out(), sent);
        assert_eq!(points, (0..sent).collect::<Vec<_>>());
    }

    #[test]
    fn packets_bytes_wait_up_to_a_bound_whatever_their_number() {
        let (sender, mut receiver) = mpsc::channel(IN_FLIGHT);
        let mut outbox = Outbox::new(sender);
        let frame = vec![0; 1 << 14];
        let sent = 4 * (WAITING_BYTES + IN_FLIGHT * MAX_FRAMES) as u64 / frame.len() as u64;
        for _ in 0..sent {
            outbox.sighting(wire::Sighting { frame: frame.clone(), ..wire::Sighting::default() });
            outbox.flush().unwrap();
        }
        assert!(outbox.waiting_bytes <= WAITING_BYTES);
        let mut came = 0;
        while let Ok(message) = receiver.try_recv() {
            let bytes = frame_bytes(&message);
            assert!(bytes <= MAX_FRAMES + frame.len(), "{bytes}");
            came += bytes / frame.len();
            outbox.flush().unwrap();
        }
        assert_eq!(came as u64 + outbox.left_out(), sent);
        assert_eq!((outbox.waiting_bytes, outbox.waiting.len()), (0, 0));
    }

    #[test]
    fn of_heartbeats_that_wait_only_the_last_is_kept_and_who_has_gone_is_told() {
        let (sender, mut receiver) = mpsc::channel(IN_FLIGHT);
        let mut outbox = Outbox::new(sender);
        (0..10).for_each(|at| outbox.message(beat(at)));
        outbox.flush().unwrap();
        assert_eq!(receiver.try_recv().unwrap().kind, Some(beat(9)));
        assert!(receiver.try_recv().is_err());
        drop(receiver);
        assert_eq!(outbox.flush(), Err(Gone));
    }

    #[test]
    fn a_caller_that_reads_nothing_is_given_up() {
        let (sender, _receiver) = mpsc::channel(IN_FLIGHT);
        let mut outbox = Outbox::new(sender);
        for id in 0..(MOST_WAITING + IN_FLIGHT) as u32 + 1 {
            outbox.message(Kind::PointGone(wire::PointGone { id }));
        }
        assert_eq!(outbox.flush(), Err(Gone));
    }
}
