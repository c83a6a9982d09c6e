//! The reader. It trusts no length: what it keeps in memory is bounded by the constants here, and each read
//! of a packet consumes bytes, so it ends with its input.
//!
//! | module | holds |
//! |---|---|
//! | `input` | bytes, with the place in the file for errors |
//! | `classic` | pcap: one interface, times in micro- or nanoseconds |
//! | `ng` | pcapng: blocks, several interfaces, comments |
//! | `options` | the options of a pcapng block |

mod classic;
mod input;
mod ng;
mod options;
#[cfg(test)]
mod tests;

use std::io::{self, Read};

use self::classic::Classic;
use self::input::Input;
use self::ng::Ng;

/// Most bytes of a packet that a file may hold: four times what tcpdump and Wireshark allow.
pub const MAX_PACKET: u32 = 1 << 20;
/// Most bytes of a pcapng block that is looked into; others are skipped without being kept.
pub const MAX_BLOCK: u32 = MAX_PACKET + (1 << 18);
/// Most interfaces of a file, those of all its sections.
pub const MAX_INTERFACES: usize = 1 << 16;
/// Most options of their writer's own that are kept of an interface or packet.
pub const MAX_CUSTOM: usize = 4;

/// Why there are no further packets.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The first bytes are those of no capture.
    #[error("is no capture file: {0}")]
    NotACapture(&'static str),
    /// The file ends inside something, as when the disk was full or the writer was killed.
    #[error("is cut short: it ends inside {inside}, at byte {at}")]
    Truncated { inside: &'static str, at: u64 },
    /// Something in it cannot be.
    #[error("is damaged at byte {at}: {what}")]
    Damaged { at: u64, what: String },
    #[error("cannot be read: {0}")]
    Io(#[source] io::Error),
}

/// Which way a packet passed, where the file says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Received by the device.
    In,
    /// Sent by it.
    Out,
}

/// One interface of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// See [`crate::link`].
    pub link_type: u16,
    pub name: Option<String>,
    pub description: Option<String>,
    /// Most bytes of a packet; 0 for no limit.
    pub snaplen: u32,
    /// Packets that the capture lost here, as far as the file has said so.
    pub dropped: u64,
    pub custom: Vec<Custom>,
}

/// What a writer has put there for itself or its like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Custom {
    /// Private enterprise number of who says what it means (IANA).
    pub enterprise: u32,
    pub value: Vec<u8>,
}

/// What a file has next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    Packet,
    /// What its writer has put there for its like, and what is about no packet and no interface.
    Note,
    End,
}

/// One packet of a file. Kept by the caller, so that its memory is used again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Index in [`CaptureReader::interfaces`].
    pub interface: usize,
    /// Nanoseconds since 1970; `None` for a simple packet block, which has no time.
    pub time_ns: Option<u64>,
    /// Bytes that it had when it was captured; `bytes` may have less.
    pub length: u32,
    pub bytes: Vec<u8>,
    pub way: Option<Way>,
    pub comments: Vec<String>,
    pub custom: Vec<Custom>,
}

/// See the module.
#[derive(Debug)]
pub struct CaptureReader<R> {
    input: Input<R>,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Classic(Classic),
    Ng(Ng),
}

impl<R: Read> CaptureReader<R> {
    /// Reads the file's beginning. `input` should be buffered.
    ///
    /// # Errors
    /// It is no capture, or cannot be read.
    pub fn begin(input: R) -> Result<Self, ReadError> {
        let mut input = Input::new(input);
        let mut magic = [0; 4];
        match input.fill(&mut magic, "its first four bytes") {
            Ok(()) => {}
            Err(ReadError::Truncated { at: 0, .. }) => return Err(ReadError::NotACapture("it is empty")),
            Err(error) => return Err(error),
        }
        let format = if magic == ng::SECTION_HEADER {
            Format::Ng(Ng::begin(&mut input)?)
        } else if let Some(classic) = Classic::begin(magic, &mut input)? {
            Format::Classic(classic)
        } else {
            return Err(ReadError::NotACapture(likeness(magic)));
        };
        Ok(Self { input, format })
    }

    /// The interfaces that the file has told of so far, those of all its sections.
    #[must_use]
    pub fn interfaces(&self) -> &[Interface] {
        match &self.format {
            Format::Classic(classic) => std::slice::from_ref(&classic.interface),
            Format::Ng(ng) => ng.interfaces(),
        }
    }

    /// Reads what comes next into `packet` or `note`.
    ///
    /// # Errors
    /// The file ends inside something or makes no sense from here on; what was read before is sound. Do not ask again.
    pub fn read_item(&mut self, packet: &mut Packet, note: &mut Custom) -> Result<Item, ReadError> {
        match &mut self.format {
            Format::Classic(classic) => classic.read_packet(&mut self.input, packet),
            Format::Ng(ng) => ng.read_item(&mut self.input, packet, note),
        }
    }

    /// Reads the next packet into `packet`; false at the end of the file.
    ///
    /// # Errors
    /// As [`CaptureReader::read_item`].
    pub fn read_packet(&mut self, packet: &mut Packet) -> Result<bool, ReadError> {
        let mut note = Custom::default();
        loop {
            match self.read_item(packet, &mut note)? {
                Item::Packet => return Ok(true),
                Item::Note => {}
                Item::End => return Ok(false),
            }
        }
    }
}

/// What a file is that is no capture, by its first bytes.
fn likeness(magic: [u8; 4]) -> &'static str {
    match magic {
        [0x1f, 0x8b, ..] => "it is compressed with gzip (try gunzip)",
        [0x28, 0xb5, 0x2f, 0xfd] => "it is compressed with zstd (try unzstd)",
        [0xfd, b'7', b'z', b'X'] => "it is compressed with xz (try unxz)",
        [0x34, 0xcd, 0xb2, 0xa1] | [0xa1, 0xb2, 0xcd, 0x34] => {
            "it is a pcap of a patched libpcap from before 2000 (try editcap -F pcapng)"
        }
        _ => "it begins neither as a pcap nor as a pcapng file",
    }
}
