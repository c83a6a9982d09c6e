//! Legacy tc filters (clsact, ingress) as the kernel lists them.

use std::io;

use super::netlink::{Connection, Message, attributes, read_text, read_u32};

pub(crate) const TCA_KIND: u16 = 1;
pub(crate) const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
pub(crate) const TCA_BPF_NAME: u16 = 7;
pub(crate) const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
pub(crate) const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

/// One filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) priority: u16,
    pub(crate) handle: u32,
    /// Filters of another chain than 0 run only if one of chain 0 jumps there.
    pub(crate) chain: u32,
    /// `tcm_info`: priority, and protocol in network byte order.
    pub(crate) info: u32,
    /// The program's return value decides; otherwise it only classifies.
    pub(crate) direct_action: bool,
    /// `None` for a filter that is no eBPF program.
    pub(crate) program: Option<u32>,
    /// As it was given by who added it; for a filter that is no eBPF program its kind.
    pub(crate) name: String,
}

/// A `struct tcmsg`: family, padding, ifindex, handle, parent, info.
pub(crate) fn header(ifindex: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for word in [ifindex, handle, parent, info] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// The filters of one direction of a device, as they run: by priority, and in list order within one.
///
/// # Errors
/// The kernel refuses; the device is gone (`ENODEV`).
pub(crate) fn list(connection: &mut Connection, ifindex: u32, parent: u32) -> io::Result<Vec<Filter>> {
    let messages = connection.dump(libc::RTM_GETTFILTER, &header(ifindex, 0, parent, 0))?;
    Ok(messages.iter().filter_map(Filter::decode).collect())
}

impl Filter {
    /// `None` for what is no filter: every priority is also listed by itself, with handle 0.
    fn decode(message: &Message) -> Option<Self> {
        let header: &[u8; 20] = message.payload.first_chunk()?;
        let handle = read_u32(&header[8..])?;
        let info = read_u32(&header[16..])?;
        if message.kind != libc::RTM_NEWTFILTER || handle == 0 {
            return None;
        }
        let (mut kind, mut options, mut chain) = (String::new(), &[][..], 0);
        for (attribute, value) in attributes(&message.payload[header.len()..]) {
            match attribute {
                TCA_KIND => kind = read_text(value),
                TCA_OPTIONS => options = value,
                TCA_CHAIN => chain = read_u32(value)?,
                _ => {}
            }
        }
        let (mut name, mut program, mut flags) = (None, None, 0);
        if kind == "bpf" {
            for (attribute, value) in attributes(options) {
                match attribute {
                    TCA_BPF_NAME => name = Some(read_text(value)),
                    TCA_BPF_FLAGS => flags = read_u32(value)?,
                    TCA_BPF_ID => program = read_u32(value),
                    _ => {}
                }
            }
        }
        Some(Self {
            priority: u16::try_from(info >> 16).ok()?,
            handle,
            chain,
            info,
            direct_action: flags & TCA_BPF_FLAG_ACT_DIRECT != 0,
            program,
            name: name.unwrap_or_else(|| format!("{kind} filter")),
        })
    }
}
