//! The writer of pcapng: one section in this machine's byte order, times in nanoseconds, comments on interfaces and
//! packets. Nothing is buffered here.

use std::io::{self, Write};
use std::net::IpAddr;

use crate::read::Way;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

const NAME_RESOLUTION: u32 = 4;
/// Most bytes of a note: those of an option, less its enterprise number.
pub const MAX_NOTE: usize = u16::MAX as usize - 4;

/// Kinds of names.
const NAME_IPV4: u16 = 1;
const NAME_IPV6: u16 = 2;

/// Options of the writer's own, which other programs may copy.
const CUSTOM_TEXT: u16 = 2988;
const CUSTOM_BYTES: u16 = 2989;

const OPTION_END: u16 = 0;
const OPTION_COMMENT: u16 = 1;
const SECTION_APPLICATION: u16 = 4;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const STATISTICS_RECEIVED: u16 = 4;
const STATISTICS_DROPPED: u16 = 5;

/// Ten to the power of minus nine: nanoseconds.
const NANOSECONDS: u8 = 9;

/// An interface to be described.
#[derive(Clone, Copy, Debug)]
pub struct NewInterface<'a> {
    /// See [`crate::link`].
    pub link_type: u16,
    /// Most bytes of a packet; 0 for no limit.
    pub snaplen: u32,
    pub name: &'a str,
    pub description: &'a str,
    /// For programs: the private enterprise number of who says what it means, and a text.
    pub custom_text: Option<(u32, &'a str)>,
    /// As that, and bytes.
    pub custom: Option<(u32, &'a [u8])>,
}

/// A packet to be written.
#[derive(Clone, Copy, Debug)]
pub struct NewPacket<'a> {
    /// As [`PcapngWriter::add_interface`] numbered it.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Bytes that it had; `bytes` may have less.
    pub length: u32,
    pub bytes: &'a [u8],
    pub way: Option<Way>,
    pub comment: &'a str,
    /// For programs: the private enterprise number of who says what it means, and a text.
    pub custom_text: Option<(u32, &'a str)>,
    /// As that, and bytes.
    pub custom: Option<(u32, &'a [u8])>,
}

/// See the module.
#[derive(Debug)]
pub struct PcapngWriter<W> {
    output: W,
    block: Vec<u8>,
    interfaces: u32,
}

impl<W: Write> PcapngWriter<W> {
    /// Writes the section's header, with who writes it and a comment.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn begin(output: W, application: &str, comment: &str) -> io::Result<Self> {
        let mut writer = Self { output, block: Vec::new(), interfaces: 0 };
        writer.block.extend(BYTE_ORDER.to_ne_bytes());
        writer.block.extend(1_u16.to_ne_bytes());
        writer.block.extend(0_u16.to_ne_bytes());
        // The section's length, which nobody knows yet.
        writer.block.extend((-1_i64).to_ne_bytes());
        if !comment.is_empty() {
            writer.option(OPTION_COMMENT, comment.as_bytes());
        }
        writer.option(SECTION_APPLICATION, application.as_bytes());
        writer.end_block(SECTION_HEADER)?;
        Ok(writer)
    }

    /// Describes an interface; returns its number, from 0.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn add_interface(&mut self, interface: &NewInterface<'_>) -> io::Result<u32> {
        self.block.extend(interface.link_type.to_ne_bytes());
        self.block.extend(0_u16.to_ne_bytes());
        self.block.extend(interface.snaplen.to_ne_bytes());
        self.option(IF_NAME, interface.name.as_bytes());
        self.option(IF_DESCRIPTION, interface.description.as_bytes());
        self.option(IF_RESOLUTION, &[NANOSECONDS]);
        self.custom_options(interface.custom_text, interface.custom);
        self.end_block(INTERFACE_DESCRIPTION)?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Writes a packet.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn packet(&mut self, packet: &NewPacket<'_>) -> io::Result<()> {
        let kept = u32::try_from(packet.bytes.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a packet of more than 4 GiB"))?;
        let (high, low) = ((packet.time_ns >> 32) as u32, packet.time_ns as u32);
        for word in [packet.interface, high, low, kept, packet.length.max(kept)] {
            self.block.extend(word.to_ne_bytes());
        }
        self.block.extend(packet.bytes);
        self.pad();
        if !packet.comment.is_empty() {
            self.option(OPTION_COMMENT, packet.comment.as_bytes());
        }
        if let Some(way) = packet.way {
            let flags: u32 = match way {
                Way::In => 1,
                Way::Out => 2,
            };
            self.option(PACKET_FLAGS, &flags.to_ne_bytes());
        }
        self.custom_options(packet.custom_text, packet.custom);
        self.end_block(ENHANCED_PACKET)
    }

    /// Names addresses, for whoever shows them.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn names(&mut self, names: &[(IpAddr, &str)]) -> io::Result<()> {
        for (address, name) in names {
            let (kind, address) = match address {
                IpAddr::V4(address) => (NAME_IPV4, address.octets().to_vec()),
                IpAddr::V6(address) => (NAME_IPV6, address.octets().to_vec()),
            };
            let value = [&*address, name.as_bytes(), &[0]].concat();
            self.option(kind, &value);
        }
        // The end of the names; that of the options behind them is written as for any block.
        self.option(OPTION_END, &[]);
        self.end_block(NAME_RESOLUTION)
    }

    /// Writes something for programs that is about no packet and no interface: as an option of a name resolution block that
    /// names nothing. (Custom blocks are for that, but Wireshark shows them among the packets.)
    ///
    /// # Errors
    /// The output cannot be written, or the value is longer than an option can be.
    pub fn note(&mut self, enterprise: u32, value: &[u8]) -> io::Result<()> {
        if value.len() > MAX_NOTE {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a note of more than 64 KiB"));
        }
        self.option(OPTION_END, &[]);
        self.custom_option(CUSTOM_BYTES, enterprise, value);
        self.end_block(NAME_RESOLUTION)
    }

    /// Writes how many packets came to an interface until `time_ns` and how many of them the capture lost, and what else is
    /// to be said of that.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn statistics(
        &mut self,
        interface: u32,
        time_ns: u64,
        received: u64,
        dropped: u64,
        comment: &str,
    ) -> io::Result<()> {
        for word in [interface, (time_ns >> 32) as u32, time_ns as u32] {
            self.block.extend(word.to_ne_bytes());
        }
        if !comment.is_empty() {
            self.option(OPTION_COMMENT, comment.as_bytes());
        }
        self.option(STATISTICS_RECEIVED, &received.to_ne_bytes());
        self.option(STATISTICS_DROPPED, &dropped.to_ne_bytes());
        self.end_block(INTERFACE_STATISTICS)
    }

    /// Where it goes.
    pub fn output(&self) -> &W {
        &self.output
    }

    /// Shows what was written.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// A value that is too long for an option is cut.
    fn option(&mut self, code: u16, value: &[u8]) {
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        self.block.extend(code.to_ne_bytes());
        self.block.extend((value.len() as u16).to_ne_bytes());
        self.block.extend(value);
        self.pad();
    }

    fn custom_options(&mut self, text: Option<(u32, &str)>, bytes: Option<(u32, &[u8])>) {
        if let Some((enterprise, text)) = text {
            self.custom_option(CUSTOM_TEXT, enterprise, text.as_bytes());
        }
        if let Some((enterprise, bytes)) = bytes {
            self.custom_option(CUSTOM_BYTES, enterprise, bytes);
        }
    }

    fn custom_option(&mut self, code: u16, enterprise: u32, value: &[u8]) {
        let value = [&enterprise.to_ne_bytes(), value].concat();
        self.option(code, &value);
    }

    fn pad(&mut self) {
        let filled = self.block.len().next_multiple_of(4);
        self.block.resize(filled, 0);
    }

    fn end_block(&mut self, kind: u32) -> io::Result<()> {
        self.option(OPTION_END, &[]);
        let length = (self.block.len() as u32 + 12).to_ne_bytes();
        self.output.write_all(&kind.to_ne_bytes())?;
        self.output.write_all(&length)?;
        self.output.write_all(&self.block)?;
        self.output.write_all(&length)?;
        self.block.clear();
        Ok(())
    }
}
