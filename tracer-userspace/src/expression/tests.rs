//! Expressions by example, and against what they mean in tcpdump.

use super::*;
use crate::trajectory::model::IcmpHeader;
use crate::trajectory::testing::{tcp, udp};

fn parse(text: &str) -> Expression {
    Expression::parse(&[text.to_owned()]).unwrap_or_else(|error| panic!("{text}: {error}")).unwrap()
}

fn request() -> Packet {
    Packet { ttl: 63, length: 142, ..tcp(("10.244.0.153", 47_002), ("10.0.1.7", 80), 1, 76, 0x18) }
}

#[test]
fn an_expression_holds_where_tcpdump_would_show_the_packet() {
    let packet = request();
    for text in [
        "tcp",
        "ip",
        "ip proto 6",
        "proto tcp",
        "host 10.0.1.7",
        "10.0.1.7",
        "src host 10.244.0.153 and dst port 80",
        "src 10.244.0.153",
        "port 80 or 443",
        "port 443 or 80",
        "tcp port 443 or 80",
        "tcp dst port http",
        "portrange 1-100",
        "src or dst port 80",
        "src and dst portrange 80-47002",
        "net 10.0.0.0/8",
        "dst net 10.0",
        "net 10.0.1.0 mask 255.255.255.0",
        "not udp and not host 10.0.0.1",
        "! udp && ! ( port 53 or port 443 )",
        "tcp[tcpflags] & (tcp-push|tcp-ack) != 0",
        "tcp[tcpflags]&(tcp-syn|tcp-fin)==0",
        "tcp[13] = 0x18",
        "len > 100 and less 142 and greater 142",
        "ip[8] < 64",
        "tcp or udp and port 80",
    ] {
        assert!(parse(text).holds(&packet), "{text}");
    }
    for text in [
        "udp",
        "ip6",
        "host 10.0.0.1",
        "dst host 10.244.0.153",
        "src port 80",
        "src and dst port 80",
        "udp port 80",
        "tcp[tcpflags] & tcp-syn != 0",
        "icmp[icmptype] = icmp-echo",
        "ip6[7] = 63",
        "net fd00::/8",
        "not tcp",
        // As in pcap-filter, `and` does not bind tighter than `or`.
        "tcp or udp and port 53",
    ] {
        assert!(!parse(text).holds(&packet), "{text}");
    }
}

#[test]
fn icmp_has_a_type_and_no_ports() {
    let echo = Packet {
        protocol: ICMP,
        ports: None,
        icmp: Some(IcmpHeader { kind: 8, code: 0, identifier: 7 }),
        ..request()
    };
    assert!(parse("icmp[icmptype] == icmp-echo").holds(&echo));
    assert!(parse("icmp and icmp[icmpcode] = 0").holds(&echo));
    assert!(!parse("portrange 0-65535").holds(&echo));
    assert!(!parse("icmp6[icmp6type] = 8").holds(&echo));
}

#[test]
fn networks_of_all_lengths_hold_what_they_should() {
    let packet = udp(("192.168.1.9", 1), ("192.168.1.255", 2), 4, 1, 1);
    assert!(parse("src net 0.0.0.0/0").holds(&packet));
    assert!(parse("src net 192.168.1.9/32").holds(&packet));
    assert!(!parse("src net 192.168.1.8/32").holds(&packet));
    assert!(parse("src net 192.168.1.8/31").holds(&packet));
    assert!(!parse("net ::/0").holds(&packet));
}

#[test]
fn what_is_no_expression_is_refused_with_what_is_wrong() {
    for (text, says) in [
        ("port", "ends where an address, a network or a port"),
        ("port eighty", "'eighty' stands where a port's number"),
        ("host web", "--pod and --to"),
        ("tcp and", "ends where a condition"),
        ("( tcp", "ends where ')'"),
        ("tcp udp", "'udp' stands where 'and', 'or' or the end"),
        ("vlan 7", "innermost packet"),
        ("ether host 1:2:3:4:5:6", "IP packets"),
        ("tcp[4:4] = 7", "'tcp[4:4]' is not looked at"),
        ("len >> 3", "'>' stands where a number"),
        ("net 10.0.0.0/33", "a network"),
        ("net 10.0.0.0 mask 255.0.255.0", "a network"),
        ("portrange 90-80", "a range"),
        ("tcp; rm", "';' has no meaning"),
        ("port 65536", "a port's number"),
    ] {
        let error = Expression::parse(&[text.to_owned()]).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    assert_eq!(Expression::parse(&[]), Ok(None));
    let deep = "(".repeat(100_000);
    assert_eq!(Expression::parse(&[deep]), Err(ExpressionError::TooLong));
    let deep = format!("{}tcp", "not ".repeat(500));
    assert_eq!(Expression::parse(&[deep]), Err(ExpressionError::TooLong));
}

#[test]
fn an_expression_may_come_in_one_argument_or_in_several() {
    let words: Vec<String> = ["tcp", "port", "80"].map(str::to_owned).to_vec();
    assert_eq!(Expression::parse(&words).unwrap().unwrap(), parse("tcp port 80"));
}
