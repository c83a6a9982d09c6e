//! The reading end of a stream. The bytes may be cut off, damaged, hostile, or of another version: each of these is an
//! error that says so, and memory stays bounded by the longest message.

use std::io::{self, BufReader, Read};

use prost::Message as _;
use tracer_common::ABI_VERSION;

use super::convert::{self, Invalid};
use super::wire::message::Kind;
use super::{Counts, FORMAT, Heartbeat, Hello, MAGIC, MAX_MESSAGE, MAX_SIGHTINGS, Told, wire};
use crate::agent::observer::Losses;

/// Most nodes that one machine can stand for.
const MAX_NODES: usize = 1024;
/// Most points whose losses are counted.
const MAX_COUNTED: usize = 16_384;
/// Most outcomes; there are eight.
const MAX_OUTCOMES: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error(
        "is empty: `tracer observe` has not begun to write, or ended with an error at its beginning (see what it \
         said)"
    )]
    Empty,
    #[error(
        "is no stream of `tracer observe`: it begins with other bytes. Does something before it in the pipe print to \
         the same output (a login message over ssh)?"
    )]
    NotAStream,
    #[error(
        "has format {found}, and this tracer reads format {FORMAT}: it was written by tracer {writer}; use the same \
         version on both sides"
    )]
    Format { found: u32, writer: String },
    #[error(
        "was written by tracer {writer}, which makes fingerprints in another way (ABI {found}, this one has \
         {ABI_VERSION}): its packets could not be joined with others'; use the same version on both sides"
    )]
    Abi { found: u32, writer: String },
    #[error("was cut off behind message {after}: its writer was killed, or the connection was lost")]
    CutOff { after: u64 },
    #[error("message {number} is said to have more than {MAX_MESSAGE} bytes: the stream is damaged")]
    TooLong { number: u64 },
    #[error("message {number} cannot be decoded, the stream is damaged: {source}")]
    Undecodable { number: u64, source: prost::DecodeError },
    #[error("message {number} cannot be true: {what}")]
    Invalid { number: u64, what: &'static str },
}

/// Reads a stream message by message.
#[derive(Debug)]
pub struct StreamReader<R> {
    input: BufReader<R>,
    buffer: Vec<u8>,
    /// Messages read.
    count: u64,
    ended: bool,
}

impl<R: Read> StreamReader<R> {
    /// Reads the beginning; waits for it if need be. The first message that [`StreamReader::next`] gives is the
    /// writer's [`Told::Hello`].
    ///
    /// # Errors
    /// It is no stream.
    pub fn begin(input: R) -> Result<Self, StreamError> {
        let mut reader = Self {
            input: BufReader::with_capacity(64 << 10, input),
            buffer: Vec::new(),
            count: 0,
            ended: false,
        };
        let mut magic = Vec::with_capacity(MAGIC.len());
        reader.input.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        if magic.is_empty() {
            return Err(StreamError::Empty);
        }
        if magic == MAGIC {
            return Ok(reader);
        }
        Err(if MAGIC.starts_with(&magic) {
            StreamError::CutOff { after: 0 }
        } else {
            StreamError::NotAStream
        })
    }

    /// The next message that means something to this version; `None` behind the end.
    ///
    /// # Errors
    /// [`StreamError`]; nothing more can be read then.
    pub fn read_told(&mut self) -> Result<Option<Told>, StreamError> {
        while !self.ended {
            let result = self.read_message();
            match result {
                Ok(Some(told)) => {
                    self.ended = matches!(told, Told::End { .. });
                    return Ok(Some(told));
                }
                Ok(None) => {}
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    fn read_message(&mut self) -> Result<Option<Told>, StreamError> {
        let length = self.read_length()?;
        self.buffer.clear();
        self.input.by_ref().take(length as u64).read_to_end(&mut self.buffer)?;
        if self.buffer.len() < length {
            return Err(StreamError::CutOff { after: self.count });
        }
        self.count += 1;
        let number = self.count;
        let message = wire::Message::decode(self.buffer.as_slice())
            .map_err(|source| StreamError::Undecodable { number, source })?;
        check(message, number)
    }

    /// A varint, of which no more is read than the longest message needs.
    fn read_length(&mut self) -> Result<usize, StreamError> {
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let mut byte = [0];
            self.input.read_exact(&mut byte).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => StreamError::CutOff { after: self.count },
                _ => StreamError::Io(error),
            })?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                if length > MAX_MESSAGE {
                    break;
                }
                return Ok(length);
            }
        }
        Err(StreamError::TooLong { number: self.count + 1 })
    }
}

/// What the `number`th message of a stream, from 1, tells; `None` for one that means nothing to this version.
///
/// # Errors
/// [`StreamError`]: nothing behind it can be believed.
pub(crate) fn check(message: wire::Message, number: u64) -> Result<Option<Told>, StreamError> {
    let invalid = |Invalid(what)| StreamError::Invalid { number, what };
    let kind = match (message.kind, number) {
        (Some(Kind::Hello(hello)), 1) => return Ok(Some(check_hello(hello)?)),
        (Some(Kind::Hello(_)), _) => return Err(invalid(Invalid("the stream begins a second time"))),
        (_, 1) => return Err(invalid(Invalid("the stream does not begin with who speaks"))),
        (Some(kind), _) => kind,
        // A kind that a later version has added.
        (None, _) => return Ok(None),
    };
    told(kind).map(Some).map_err(invalid)
}

fn check_hello(hello: wire::Hello) -> Result<Told, StreamError> {
    let invalid = |Invalid(what)| StreamError::Invalid { number: 1, what };
    let writer = convert::name(hello.tracer).map_err(invalid)?;
    if hello.format != FORMAT {
        return Err(StreamError::Format { found: hello.format, writer });
    }
    if hello.abi != ABI_VERSION {
        return Err(StreamError::Abi { found: hello.abi, writer });
    }
    if hello.boot_id.is_empty() {
        return Err(invalid(Invalid("it does not say which boot its clock belongs to")));
    }
    if hello.nodes.len() > MAX_NODES {
        return Err(invalid(Invalid("it stands for more nodes than a machine can have")));
    }
    Ok(Told::Hello(Hello {
        tracer: writer,
        kernel_release: convert::name(hello.kernel_release).map_err(invalid)?,
        boot_id: convert::name(hello.boot_id).map_err(invalid)?,
        nodes: hello.nodes.into_iter().map(convert::name).collect::<Result<_, _>>().map_err(invalid)?,
        watches_drops: hello.watches_drops,
        monotonic_ns: hello.monotonic_ns,
        wall_ns: hello.wall_ns,
    }))
}

fn told(kind: Kind) -> Result<Told, Invalid> {
    Ok(match kind {
        Kind::Hello(_) => return Err(Invalid("the stream begins a second time")),
        Kind::Point(point) => {
            let (point, since_ns) = convert::point_from_wire(point)?;
            Told::Point { point: Box::new(point), since_ns }
        }
        Kind::PointGone(gone) => Told::PointGone(gone.id),
        Kind::Sightings(sightings) => {
            if sightings.sightings.len() > MAX_SIGHTINGS {
                return Err(Invalid("a message has more sightings than it may"));
            }
            let sightings = sightings.sightings.into_iter().map(convert::sighting_from_wire);
            Told::Sightings(sightings.collect::<Result<_, _>>()?)
        }
        Kind::Drop(drop) => Told::Drop(Box::new(convert::drop_from_wire(*drop)?)),
        Kind::Counts(counts) => {
            if counts.outcomes.len() > MAX_OUTCOMES {
                return Err(Invalid("there are more outcomes than there can be"));
            }
            if counts.at_points.len() > MAX_COUNTED {
                return Err(Invalid("there are losses at more points than a machine can have"));
            }
            Told::Counts(Counts {
                outcomes: counts.outcomes.into_iter().collect(),
                losses: Losses {
                    ring_full: counts.ring_full,
                    channel_full: counts.channel_full,
                    undecodable: counts.undecodable,
                    unattributed: counts.unattributed,
                    drop_records: counts.drop_records,
                    drops_elsewhere: counts.drops_elsewhere,
                },
                at_points: counts.at_points.into_iter().collect(),
            })
        }
        Kind::Heartbeat(heartbeat) => {
            let wire::Heartbeat { monotonic_ns, wall_ns } = heartbeat;
            Told::Heartbeat(Heartbeat { monotonic_ns, wall_ns })
        }
        Kind::End(end) => Told::End { reason: convert::name(end.reason)? },
    })
}
