//! The parser: from the bytes at a device to the innermost IP packet, through VLANs and tunnels.
//!
//! One implementation for both sides. It reads through [`Reader`], so it runs in eBPF over a socket buffer and in
//! userspace over a slice. [`Headers::parse`] finds where things are (cheap, enough for the filter),
//! [`Headers::describe`] then fills a hop record.
//!
//! Encapsulations: VXLAN (RFC 7348, configurable ports), Geneve (RFC 8926, with options), IPIP, 6in4, 4in6, 6in6,
//! GRE (RFC 2784, 2890). A fragment of an outer packet is not looked into: its inner headers are elsewhere.
//!
//! | module | holds |
//! |---|---|
//! | [`reader`] | the access to bytes |
//! | [`glance`] | the short way for the shapes that nearly all packets have |
//! | `walk` | the walk over the headers, layer by layer |
//! | `describe` | the hop record of what the walk found |

pub(crate) mod describe;
pub mod glance;
pub mod reader;
mod walk;

pub use reader::{Reader, SliceReader};

use crate::outcome::{DropOutcome, Outcome};

/// What a device puts in front of the network header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header.
    Ethernet,
    /// Nothing: the packet begins with the IP header (tunl0, WireGuard).
    None,
}

/// UDP ports on which VXLAN is looked for where nothing else is configured: IANA's and Linux' (flannel, Cilium).
pub const DEFAULT_VXLAN_PORTS: [u16; 4] = [4789, 8472, 0, 0];

/// Nothing further away from the packet's start than this is read, bytes. A power of two minus one: the eBPF
/// reader bounds offsets with it as a mask.
pub const MAX_OFFSET: u32 = 0x7ff;

/// Layers of one packet: two tunnels and what is in them. With the two below it bounds the work for a hostile packet.
pub const MAX_LAYERS: u32 = 3;

/// VLAN tags in one Ethernet header; two are common (IEEE 802.1ad).
pub const MAX_VLAN_TAGS: u32 = 4;

/// Extension headers of one IP header: as many as should come (RFC 8200, 4.1).
pub const MAX_EXTENSIONS: u32 = 6;

/// Why there is nothing to report of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    NotIp,
    Truncated,
    Malformed,
    TooDeep,
}

impl From<ParseError> for Outcome {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::NotIp => Self::NotIp,
            ParseError::Truncated => Self::Truncated,
            ParseError::Malformed => Self::Malformed,
            ParseError::TooDeep => Self::TooDeep,
        }
    }
}

impl From<ParseError> for DropOutcome {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::NotIp => Self::NotIp,
            ParseError::Truncated => Self::Truncated,
            ParseError::Malformed => Self::Malformed,
            ParseError::TooDeep => Self::TooDeep,
        }
    }
}

/// Where an encapsulation's headers are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelAt {
    /// Offset of the outer IP header.
    pub network: u32,
    /// VNI or key.
    pub identifier: u32,
    /// `TUNNEL_*`; 0 for none.
    pub kind: u32,
    /// Outer UDP destination port, 0 for none.
    pub port: u32,
}

/// Where the headers of the innermost IP packet are, and what the walk learnt on its way. Offsets are bytes from
/// the packet's start.
///
/// The eBPF side keeps it in a per-CPU map: what the verifier reads back from there is an unknown number, so all
/// ways through one step look alike to it and the walk costs it steps, not paths.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// The walk's position and what it expects there.
    offset: u32,
    begin: u32,
    /// Where TCP options end.
    limit: u32,
    /// Innermost IP header.
    pub network: u32,
    /// What is behind it and its extensions.
    pub transport: u32,
    /// Where the innermost packet ends, as its length field says.
    pub end: u32,
    /// 4 or 6.
    pub version: u32,
    pub protocol: u32,
    pub identification: u32,
    /// Bytes.
    pub fragment_offset: u32,
    /// `FLAG_FRAGMENT`, `FLAG_MORE_FRAGMENTS`, `FLAG_TUNNEL_DEPTH` of [`crate::record`].
    pub flags: u32,
    pub tunnel_count: u32,
    /// IP header that an ICMP error quotes; 0 for none.
    pub quote: u32,
    /// 4 or 6, of the quoted packet.
    pub quote_version: u32,
    /// IANA protocol number of the quoted packet.
    pub quote_protocol: u32,
    /// Quoted transport header, if eight bytes of it are there; 0 for none.
    pub quote_transport: u32,
    pub outer: TunnelAt,
    pub middle: TunnelAt,
}

impl Headers {
    /// Takes all encapsulations for what has been taken off; gives the length of it, bytes.
    #[inline(always)]
    pub fn forget_tunnels(&mut self) -> u32 {
        self.tunnel_count = 0;
        self.outer = TunnelAt::default();
        self.middle = TunnelAt::default();
        self.network
    }

    /// True if the packet is a fragment other than the first: it has no transport header.
    #[inline(always)]
    #[must_use]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment_offset != 0
    }
}
