//! The options of a pcapng block: code, length, value, filled up to four bytes.

use super::Custom;
use super::input::Order;

/// The end of the options; what follows is none.
const END: u16 = 0;
/// A comment, on any block.
pub(super) const COMMENT: u16 = 1;
/// Options of their writer's own, text and bytes, to be kept by other programs or not.
const CUSTOM: [u16; 4] = [2988, 2989, 19_372, 19_373];

/// Gives each option's code and value, as far as they are whole: options that are cut short end the walk, and what the
/// block says otherwise stays good.
pub(super) fn options(order: Order, bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let code = order.u16_at(bytes, at)?;
        let length = usize::from(order.u16_at(bytes, at + 2)?);
        if code == END {
            return None;
        }
        let value = bytes.get(at + 4..at + 4 + length)?;
        at += 4 + length.next_multiple_of(4);
        Some((code, value))
    })
}

/// An option of its writer's own; `None` for any other.
pub(super) fn custom(order: Order, code: u16, value: &[u8]) -> Option<Custom> {
    let enterprise = CUSTOM.contains(&code).then(|| order.u32_at(value, 0))??;
    Some(Custom { enterprise, value: value.get(4..)?.to_vec() })
}

/// A text that a file says, without what would move a terminal's cursor.
pub(super) fn text(value: &[u8]) -> String {
    let printable = |character: char| if character.is_control() { ' ' } else { character };
    String::from_utf8_lossy(value).trim_end_matches('\0').chars().map(printable).collect()
}
