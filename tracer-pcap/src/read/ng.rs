//! pcapng (draft-ietf-opsawg-pcapng): blocks, each with its type and length. Sections begin anew with interfaces of their
//! own, perhaps in the other byte order. Blocks that say nothing of packets or interfaces are passed over.

use std::io::Read;

use super::input::{Input, Order};
use super::options::{COMMENT, custom, options, text};
use super::{
    Custom, Interface, Item, MAX_BLOCK, MAX_CUSTOM, MAX_INTERFACES, MAX_PACKET, Packet, ReadError, Way,
};

/// The first bytes of a pcapng file, the same in both byte orders.
pub(super) const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const INTERFACE_DESCRIPTION: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const NAME_RESOLUTION: u32 = 4;
/// Behind the last name of a block.
const NAMES_END: u16 = 0;

/// Type and both lengths.
const FRAME: u32 = 12;

/// Options of an interface description.
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_RESOLUTION: u16 = 9;
const IF_OFFSET: u16 = 14;
/// Options of interface statistics.
const STATISTICS_IF_DROP: u16 = 5;
const STATISTICS_OS_DROP: u16 = 7;
/// Options of an enhanced packet.
const PACKET_FLAGS: u16 = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Ng {
    order: Order,
    /// Of all sections.
    interfaces: Vec<Interface>,
    clocks: Vec<Clock>,
    /// Index of the first interface of this section.
    section: usize,
    block: Vec<u8>,
}

/// How an interface counts time.
#[derive(Clone, Copy, Debug)]
struct Clock {
    ticks_per_second: u64,
    /// To be added, seconds.
    offset_s: i64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { ticks_per_second: 1_000_000, offset_s: 0 }
    }
}

impl Clock {
    /// Nanoseconds since 1970; what lies outside of 64 bits is no time.
    fn time_ns(self, ticks: u64) -> Option<u64> {
        let per_second = u128::from(self.ticks_per_second);
        let (seconds, rest) = (u128::from(ticks) / per_second, u128::from(ticks) % per_second);
        let ns = (seconds * 1_000_000_000 + rest * 1_000_000_000 / per_second) as i128;
        u64::try_from(ns + i128::from(self.offset_s) * 1_000_000_000).ok()
    }
}

impl Ng {
    /// Reads the rest of the first section header, whose type has been read.
    pub(super) fn begin(input: &mut Input<impl Read>) -> Result<Self, ReadError> {
        let mut ng = Self {
            order: Order::Little,
            interfaces: Vec::new(),
            clocks: Vec::new(),
            section: 0,
            block: Vec::new(),
        };
        ng.begin_section(input)?;
        Ok(ng)
    }

    pub(super) fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    pub(super) fn read_item(
        &mut self,
        input: &mut Input<impl Read>,
        packet: &mut Packet,
        note: &mut Custom,
    ) -> Result<Item, ReadError> {
        loop {
            let at = input.at();
            let mut kind = [0; 4];
            if !input.fill_or_end(&mut kind, "a block's type")? {
                return Ok(Item::End);
            }
            if kind == SECTION_HEADER {
                self.begin_section(input)?;
                continue;
            }
            let kind = self.order.u32(kind);
            let length = self.read_block(kind, input, at)?;
            let understood = match kind {
                INTERFACE_DESCRIPTION => self.add_interface(at)?,
                INTERFACE_STATISTICS => self.note_statistics(),
                ENHANCED_PACKET => self.enhanced_packet(packet),
                SIMPLE_PACKET => self.simple_packet(packet),
                PACKET => self.old_packet(packet),
                NAME_RESOLUTION if length <= MAX_BLOCK => self.names(note),
                _ => Some(None),
            };
            match understood {
                Some(Some(item)) => return Ok(item),
                Some(None) => {}
                None => {
                    return Err(ReadError::Damaged {
                        at,
                        what: format!("a block of type {kind} and {length} bytes contradicts itself"),
                    });
                }
            }
        }
    }

    /// Reads what follows a section header's type: a number that tells the byte order comes behind the length.
    fn begin_section(&mut self, input: &mut Input<impl Read>) -> Result<(), ReadError> {
        let at = input.at();
        let mut start = [0; 8];
        input.fill(&mut start, "a section's header")?;
        let [l0, l1, l2, l3, magic @ ..] = start;
        self.order = match magic {
            [0x4d, 0x3c, 0x2b, 0x1a] => Order::Little,
            [0x1a, 0x2b, 0x3c, 0x4d] => Order::Big,
            _ => {
                return Err(ReadError::Damaged {
                    at,
                    what: "a section's header has no byte order".to_owned(),
                });
            }
        };
        let length = self.order.u32([l0, l1, l2, l3]);
        // With version, length of the section, and the length once more.
        if length < 28 || !length.is_multiple_of(4) {
            return Err(ReadError::Damaged { at, what: format!("a section's header of {length} bytes") });
        }
        let mut version = [0; 2];
        input.fill(&mut version, "a section's header")?;
        let major = self.order.u16(version);
        if major != 1 {
            return Err(ReadError::Damaged { at, what: format!("version {major} of pcapng does not exist") });
        }
        input.skip(length - 14, "a section's header")?;
        self.section = self.interfaces.len();
        Ok(())
    }

    /// Takes the rest of a block, whose type has been read, as its body without lengths. Blocks of other kinds are passed
    /// over.
    fn read_block(&mut self, kind: u32, input: &mut Input<impl Read>, at: u64) -> Result<u32, ReadError> {
        let mut length = [0; 4];
        input.fill(&mut length, "a block's length")?;
        let length = self.order.u32(length);
        let damaged = |what| Err(ReadError::Damaged { at, what });
        if length < FRAME || !length.is_multiple_of(4) {
            return damaged(format!("a block of {length} bytes"));
        }
        let are_names = kind == NAME_RESOLUTION && length <= MAX_BLOCK;
        let is_known = are_names
            || matches!(
                kind,
                INTERFACE_DESCRIPTION | PACKET | SIMPLE_PACKET | INTERFACE_STATISTICS | ENHANCED_PACKET
            );
        if is_known && length > MAX_BLOCK {
            return damaged(format!("a block of {length} bytes; more than {MAX_BLOCK} cannot be"));
        }
        if is_known {
            input.take(&mut self.block, length - FRAME, "a block")?;
        } else {
            input.skip(length - FRAME, "a block")?;
        }
        let mut again = [0; 4];
        input.fill(&mut again, "a block's end")?;
        if self.order.u32(again) != length {
            return damaged(format!("a block of {length} bytes ends with another length"));
        }
        Ok(length)
    }

    fn add_interface(&mut self, at: u64) -> Result<Option<Option<Item>>, ReadError> {
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err(ReadError::Damaged { at, what: format!("more than {MAX_INTERFACES} interfaces") });
        }
        let (Some(link_type), Some(snaplen)) =
            (self.order.u16_at(&self.block, 0), self.order.u32_at(&self.block, 4))
        else {
            return Ok(None);
        };
        let mut interface = Interface { link_type, snaplen, ..Interface::default() };
        let mut clock = Clock::default();
        for (code, value) in options(self.order, self.block.get(8..).unwrap_or_default()) {
            match (code, value) {
                (IF_NAME, value) => interface.name = Some(text(value)),
                (IF_DESCRIPTION, value) => interface.description = Some(text(value)),
                (IF_RESOLUTION, [resolution, ..]) => match ticks_per_second(*resolution) {
                    Some(ticks) => clock.ticks_per_second = ticks,
                    None => return Ok(None),
                },
                (IF_OFFSET, value) => {
                    let Some(offset) = self.order.u64_at(value, 0) else { return Ok(None) };
                    clock.offset_s = offset.cast_signed();
                }
                (code, value) if interface.custom.len() < MAX_CUSTOM => {
                    interface.custom.extend(custom(self.order, code, value));
                }
                _ => {}
            }
        }
        self.interfaces.push(interface);
        self.clocks.push(clock);
        Ok(Some(None))
    }

    /// The last ones of an interface are the sums.
    fn note_statistics(&mut self) -> Option<Option<Item>> {
        let index = self.interface(self.order.u32_at(&self.block, 0)?)?;
        let dropped: Vec<u64> = options(self.order, self.block.get(12..)?)
            .filter(|(code, _)| matches!(*code, STATISTICS_IF_DROP | STATISTICS_OS_DROP))
            .filter_map(|(_, value)| self.order.u64_at(value, 0))
            .collect();
        self.interfaces[index].dropped = dropped.into_iter().fold(0, u64::saturating_add);
        Some(None)
    }

    fn enhanced_packet(&self, packet: &mut Packet) -> Option<Option<Item>> {
        let word = |at| self.order.u32_at(&self.block, at);
        packet.interface = self.interface(word(0)?)?;
        packet.time_ns =
            self.clocks[packet.interface].time_ns(u64::from(word(4)?) << 32 | u64::from(word(8)?));
        self.take_packet(packet, word(12)?, word(16)?, 20)
    }

    /// Obsolete, but written until 2010: as the enhanced one, but with a smaller number of the interface.
    fn old_packet(&self, packet: &mut Packet) -> Option<Option<Item>> {
        let word = |at| self.order.u32_at(&self.block, at);
        packet.interface = self.interface(self.order.u16_at(&self.block, 0)?.into())?;
        packet.time_ns =
            self.clocks[packet.interface].time_ns(u64::from(word(4)?) << 32 | u64::from(word(8)?));
        self.take_packet(packet, word(12)?, word(16)?, 20)
    }

    /// Its length is the block's, less what the interface cuts.
    fn simple_packet(&self, packet: &mut Packet) -> Option<Option<Item>> {
        packet.interface = self.interface(0)?;
        packet.time_ns = None;
        let length = self.order.u32_at(&self.block, 0)?;
        let snaplen = match self.interfaces[packet.interface].snaplen {
            0 => u32::MAX,
            snaplen => snaplen,
        };
        let there = u32::try_from(self.block.len()).ok()?.saturating_sub(4);
        self.take_packet(packet, length.min(snaplen).min(there), length, 4)
    }

    fn take_packet(&self, packet: &mut Packet, kept: u32, length: u32, from: usize) -> Option<Option<Item>> {
        if kept > MAX_PACKET {
            return None;
        }
        let end = from + kept as usize;
        packet.bytes.clear();
        packet.bytes.extend_from_slice(self.block.get(from..end)?);
        packet.length = length.max(kept);
        packet.way = None;
        packet.comments.clear();
        packet.custom.clear();
        let rest = self.block.get(from + (kept as usize).next_multiple_of(4)..).unwrap_or_default();
        for (code, value) in options(self.order, rest) {
            match code {
                COMMENT => packet.comments.push(text(value)),
                PACKET_FLAGS => {
                    packet.way = match self.order.u32_at(value, 0).map(|flags| flags & 0b11) {
                        Some(1) => Some(Way::In),
                        Some(2) => Some(Way::Out),
                        _ => None,
                    };
                }
                code if packet.custom.len() < MAX_CUSTOM => {
                    packet.custom.extend(custom(self.order, code, value));
                }
                _ => {}
            }
        }
        Some(Some(Item::Packet))
    }

    /// The names are nobody's here; behind them may be what a writer has put there for its like.
    fn names(&self, note: &mut Custom) -> Option<Option<Item>> {
        let mut at = 0;
        loop {
            let (kind, length) =
                (self.order.u16_at(&self.block, at)?, self.order.u16_at(&self.block, at + 2)?);
            at += 4 + usize::from(length).next_multiple_of(4);
            if kind == NAMES_END {
                break;
            }
        }
        let rest = self.block.get(at..).unwrap_or_default();
        match options(self.order, rest).find_map(|(code, value)| custom(self.order, code, value)) {
            Some(found) => {
                *note = found;
                Some(Some(Item::Note))
            }
            None => Some(None),
        }
    }

    /// From a number of this section to the index among all.
    fn interface(&self, number: u32) -> Option<usize> {
        let index = self.section.checked_add(usize::try_from(number).ok()?)?;
        (index < self.interfaces.len()).then_some(index)
    }
}

/// The resolution of an interface: a power of ten, or of two if the highest bit is set; `None` for finer ones than 64 bits
/// can count.
fn ticks_per_second(resolution: u8) -> Option<u64> {
    let power = u32::from(resolution & 0x7f);
    if resolution & 0x80 == 0 { 10_u64.checked_pow(power) } else { 1_u64.checked_shl(power) }
}
