//! pcap (draft-ietf-opsawg-pcap): a header of 24 bytes, then packets with a header of 16 bytes each.

use std::io::Read;

use super::input::{Input, Order};
use super::{Interface, Item, MAX_PACKET, Packet, ReadError};

/// See the module.
#[derive(Debug)]
pub(super) struct Classic {
    order: Order,
    /// Nanoseconds of one unit of the second half of a time.
    unit_ns: u64,
    pub(super) interface: Interface,
}

impl Classic {
    /// Reads what follows the magic number; `None` if that is no pcap's.
    pub(super) fn begin(magic: [u8; 4], input: &mut Input<impl Read>) -> Result<Option<Self>, ReadError> {
        let (order, unit_ns) = match magic {
            [0xd4, 0xc3, 0xb2, 0xa1] => (Order::Little, 1000),
            [0xa1, 0xb2, 0xc3, 0xd4] => (Order::Big, 1000),
            [0x4d, 0x3c, 0xb2, 0xa1] => (Order::Little, 1),
            [0xa1, 0xb2, 0x3c, 0x4d] => (Order::Big, 1),
            _ => return Ok(None),
        };
        let mut rest = [0; 20];
        input.fill(&mut rest, "the file's header")?;
        let [major_low, major_high, ..] = rest;
        let major = order.u16([major_low, major_high]);
        if major != 2 {
            return Err(ReadError::Damaged {
                at: 4,
                what: format!("version {major} of pcap does not exist"),
            });
        }
        let word = |at| order.u32_at(&rest, at).unwrap_or_default();
        // The upper half has the length of a frame check sequence, behind the packet and so of no interest.
        let link_type = (word(16) & 0xffff) as u16;
        Ok(Some(Self {
            order,
            unit_ns,
            interface: Interface { link_type, snaplen: word(12), ..Interface::default() },
        }))
    }

    pub(super) fn read_packet(
        &mut self,
        input: &mut Input<impl Read>,
        packet: &mut Packet,
    ) -> Result<Item, ReadError> {
        let at = input.at();
        let mut header = [0; 16];
        if !input.fill_or_end(&mut header, "a packet's header")? {
            return Ok(Item::End);
        }
        let word = |offset| self.order.u32_at(&header, offset).unwrap_or_default();
        let [seconds, fraction, kept, length] = [0, 4, 8, 12].map(word);
        let damaged = |what| Err(ReadError::Damaged { at, what });
        if kept > MAX_PACKET {
            return damaged(format!("a packet of {kept} bytes; more than {MAX_PACKET} cannot be"));
        }
        if u64::from(fraction) * self.unit_ns >= 1_000_000_000 {
            return damaged(format!("a packet's time has {fraction} parts of a second"));
        }
        packet.interface = 0;
        packet.time_ns = Some(u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.unit_ns);
        packet.length = length.max(kept);
        packet.way = None;
        packet.comments.clear();
        packet.custom.clear();
        input.take(&mut packet.bytes, kept, "a packet")?;
        Ok(Item::Packet)
    }
}
