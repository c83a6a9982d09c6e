//! ICMP errors by name.

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What an ICMP error says, in a few words (RFC 792, 1122, 1812; RFC 4443); `None` for what is no error.
#[must_use]
pub const fn error_name(protocol: u8, kind: u8, code: u8) -> Option<&'static str> {
    Some(match (protocol, kind, code) {
        (ICMP, 3, 0) => "network unreachable",
        (ICMP, 3, 1) => "host unreachable",
        (ICMP, 3, 2) => "protocol unreachable",
        (ICMP, 3, 3) | (ICMPV6, 1, 4) => "port unreachable",
        (ICMP, 3, 4) => "fragmentation needed",
        (ICMP, 3, 9 | 10 | 13) | (ICMPV6, 1, 1) => "administratively prohibited",
        (ICMPV6, 1, 0) => "no route to destination",
        (ICMPV6, 1, 3) => "address unreachable",
        (ICMP, 3, _) | (ICMPV6, 1, _) => "destination unreachable",
        (ICMP, 4, _) => "source quench",
        (ICMP, 5, _) => "redirect",
        (ICMPV6, 2, _) => "packet too big",
        (ICMP, 11, 1) | (ICMPV6, 3, 1) => "fragment reassembly time exceeded",
        (ICMP, 11, _) | (ICMPV6, 3, _) => "time exceeded",
        (ICMP, 12, _) | (ICMPV6, 4, _) => "parameter problem",
        _ => return None,
    })
}
