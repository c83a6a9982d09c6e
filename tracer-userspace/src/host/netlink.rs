//! A small rtnetlink client that never fails over an attribute it has no use for.
//!
//! Requests and dumps on a blocking socket that belongs to one network namespace and may be used from any thread.
//! Only the attributes that are asked for are decoded: a kernel newer than this program adds attributes and changes
//! the length of others.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::netns::Netns;

/// The kernel's dumps come in pieces of at most 32 KiB, or as large as the receive buffer given.
const RECEIVE_BUFFER: usize = 256 * 1024;

/// How often a dump is repeated that was disturbed by a change.
const DUMP_ATTEMPTS: usize = 5;

const HEADER_LENGTH: usize = 16;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;

/// One message of the kernel without its netlink header.
pub(crate) struct Message {
    /// `RTM_*`.
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

/// A socket in one network namespace.
pub(crate) struct Connection {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens a socket inside `netns` that takes part in the given multicast groups (bit n-1 for group n).
    pub(crate) fn open(netns: &Netns, groups: u32) -> io::Result<Self> {
        Self::open_protocol(netns, NETLINK_ROUTE, groups)
    }

    /// As [`Connection::open`], of another of netlink's protocols.
    pub(crate) fn open_protocol(netns: &Netns, protocol: isize, groups: u32) -> io::Result<Self> {
        let socket = netns.run(|| {
            let mut socket = Socket::new(protocol)?;
            socket.bind(&SocketAddr::new(0, groups))?;
            Ok::<_, io::Error>(socket)
        })??;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BUFFER) })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as the socket lives, and the borrow keeps `self` borrowed.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }

    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        self.socket.set_non_blocking(true)
    }

    /// Asks for all objects of a kind. A dump that a change disturbed is incomplete, and is repeated.
    pub(crate) fn dump(&mut self, kind: u16, payload: &[u8]) -> io::Result<Vec<Message>> {
        for _ in 0..DUMP_ATTEMPTS {
            self.send(kind, NLM_F_DUMP, payload)?;
            if let Some(messages) = self.collect()? {
                return Ok(messages);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            format!("the kernel's tables changed during each of {DUMP_ATTEMPTS} attempts to read them"),
        ))
    }

    /// Asks for one object.
    pub(crate) fn get(&mut self, kind: u16, payload: &[u8]) -> io::Result<Option<Message>> {
        self.send(kind, NLM_F_ACK, payload)?;
        Ok(self.collect()?.and_then(|messages| messages.into_iter().next()))
    }

    /// Asks for a change and waits for the kernel's answer. `flags` are those besides request and acknowledge.
    pub(crate) fn change(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        self.send(kind, NLM_F_ACK | flags, payload)?;
        self.collect().map(drop)
    }

    fn send(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let length = HEADER_LENGTH + payload.len();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&u32::try_from(length).map_err(io::Error::other)?.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        bytes.extend_from_slice(payload);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map(drop)
    }

    /// Reads until the end of the answer to the last request; `None` if the dump was disturbed.
    fn collect(&mut self) -> io::Result<Option<Vec<Message>>> {
        let mut collected = Vec::new();
        let mut disturbed = false;
        loop {
            self.fill()?;
            for (header, payload) in split(&self.buffer) {
                if header.sequence != self.sequence {
                    continue;
                }
                disturbed |= header.flags & NLM_F_DUMP_INTR != 0;
                match header.kind {
                    NLMSG_DONE => return Ok((!disturbed).then_some(collected)),
                    NLMSG_ERROR => {
                        return match read_i32(payload) {
                            Some(0) => Ok(Some(collected)),
                            Some(code) => Err(io::Error::from_raw_os_error(-code)),
                            None => Err(io::Error::other("the kernel sent a truncated netlink error")),
                        };
                    }
                    NLMSG_NOOP => {}
                    kind => collected.push(Message { kind, payload: payload.to_vec() }),
                }
            }
        }
    }

    /// Reads what the kernel sent by itself to the groups; ENOBUFS if some of it is lost.
    pub(crate) fn receive(&mut self) -> io::Result<Vec<Message>> {
        self.fill()?;
        let messages = split(&self.buffer)
            .map(|(header, payload)| Message { kind: header.kind, payload: payload.to_vec() })
            .collect();
        Ok(messages)
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.clear();
        let length = self.socket.recv(&mut self.buffer, libc::MSG_TRUNC)?;
        if length > self.buffer.len() {
            return Err(io::Error::other(format!("a netlink message of {length} bytes is too long")));
        }
        Ok(())
    }
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

/// Splits a datagram into messages; what does not fit is the end.
fn split(mut bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(read_u32(bytes)?).ok()?;
        let payload = bytes.get(HEADER_LENGTH..length)?;
        let header = Header {
            kind: read_u16(bytes.get(4..)?)?,
            flags: read_u16(bytes.get(6..)?)?,
            sequence: read_u32(bytes.get(8..)?)?,
        };
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((header, payload))
    })
}

/// The attributes in `bytes`: kind without its flag bits, and value.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
    const FLAGS: u16 = 0xc000;
    std::iter::from_fn(move || {
        let length = usize::from(read_u16(bytes)?);
        let kind = read_u16(bytes.get(2..)?)? & !FLAGS;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// One attribute as a request carries it.
pub(crate) fn attribute(kind: u16, value: [u8; 4]) -> [u8; 8] {
    let (length, kind) = (8_u16.to_ne_bytes(), kind.to_ne_bytes());
    [length[0], length[1], kind[0], kind[1], value[0], value[1], value[2], value[3]]
}

fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

pub(crate) fn read_u16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().copied().map(u16::from_ne_bytes)
}

pub(crate) fn read_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

pub(crate) fn read_i32(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk().copied().map(i32::from_ne_bytes)
}

/// An address of 4 or 16 bytes.
pub(crate) fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        16 => bytes.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

/// The 4 or 16 bytes of an address.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A string that ends with a zero byte.
pub(crate) fn read_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{attribute, attributes, read_u32, split};

    #[test]
    fn attributes_are_read_until_the_first_that_does_not_fit() {
        let mut bytes = attribute(3, 7_u32.to_ne_bytes()).to_vec();
        bytes.extend_from_slice(&[5, 0, 2, 0x80, b'x', 0, 0, 0]);
        bytes.extend_from_slice(&[200, 0, 1, 0]);

        let read: Vec<_> = attributes(&bytes).collect();

        assert_eq!(read.len(), 2);
        assert_eq!((read[0].0, read_u32(read[0].1)), (3, Some(7)));
        assert_eq!(read[1], (2, &b"x"[..]), "flag bits are not part of the kind");
    }

    #[test]
    fn hostile_lengths_end_the_reading() {
        for bytes in [&[0_u8; 16][..], &[3, 0, 0, 0], &[255, 255, 255, 255, 0, 0, 0, 0], &[]] {
            assert_eq!(split(bytes).count(), 0);
            assert!(attributes(bytes).count() <= 1);
        }
    }
}
