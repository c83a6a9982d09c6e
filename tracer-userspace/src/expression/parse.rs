//! From words to an expression. `and` and `or` bind alike, from left to right; `not` binds tighter; a value without
//! qualifiers has those of the value before it (`port 80 or 443`).

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use super::token::{Token, tokens};
use super::{Expression, Field, ICMP, ICMPV6, Net, Protocol, Relation, SCTP, TCP, UDP, Way};

/// Deeper nesting than this is nobody's question.
const MAX_DEPTH: usize = 64;
/// What an expression may have, for its evaluation at every hop must be cheap.
const MAX_TOKENS: usize = 1024;

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    #[error("'{0}' has no meaning there")]
    Sign(char),
    #[error("it ends where {0} should come")]
    Ends(&'static str),
    #[error("'{found}' stands where {wanted} should come")]
    Unexpected { found: String, wanted: &'static str },
    #[error("'{word}' is not looked at here: {why}")]
    NotHere { word: String, why: &'static str },
    #[error("it is longer or deeper nested than an expression may be")]
    TooLong,
}

type Parsed<T> = Result<T, ExpressionError>;

pub(super) fn parse(text: &str) -> Parsed<Expression> {
    let tokens = tokens(text)?;
    if tokens.len() > MAX_TOKENS {
        return Err(ExpressionError::TooLong);
    }
    let mut parser = Parser { tokens, at: 0, depth: 0, last: Qualifiers::default() };
    let expression = parser.alternatives()?;
    match parser.peek() {
        None => Ok(expression),
        Some(token) => Err(unexpected(token, "'and', 'or' or the end")),
    }
}

/// What may stand before a value.
#[derive(Clone, Copy, Debug, Default)]
struct Qualifiers {
    protocol: Option<Protocol>,
    way: Option<Way>,
    kind: Option<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Host,
    Net,
    Port,
    PortRange,
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    depth: usize,
    /// Those of the last value.
    last: Qualifiers,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    fn next(&mut self, wanted: &'static str) -> Parsed<Token<'a>> {
        let token = self.peek().ok_or(ExpressionError::Ends(wanted))?;
        self.at += 1;
        Ok(token)
    }

    /// Takes one of these if it comes.
    fn take(&mut self, texts: &[&str]) -> bool {
        let comes = self.peek().is_some_and(|token| texts.contains(&token.text()));
        self.at += usize::from(comes);
        comes
    }

    fn alternatives(&mut self) -> Parsed<Expression> {
        let mut left = self.negated()?;
        loop {
            if self.take(&["and", "&&"]) {
                left = Expression::And(Box::new(left), Box::new(self.negated()?));
            } else if self.take(&["or", "||"]) {
                left = Expression::Or(Box::new(left), Box::new(self.negated()?));
            } else {
                return Ok(left);
            }
        }
    }

    fn negated(&mut self) -> Parsed<Expression> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ExpressionError::TooLong);
        }
        let expression = if self.take(&["not", "!"]) {
            Expression::Not(Box::new(self.negated()?))
        } else if self.take(&["("]) {
            let inner = self.alternatives()?;
            match self.next("')'")? {
                Token::Sign(")") => inner,
                other => return Err(unexpected(other, "')'")),
            }
        } else {
            self.primitive()?
        };
        self.depth -= 1;
        Ok(expression)
    }

    fn primitive(&mut self) -> Parsed<Expression> {
        let first = self.next("a condition")?;
        let Token::Word(word) = first else { return Err(unexpected(first, "a condition")) };
        if let Some(why) = not_looked_at(word) {
            return Err(ExpressionError::NotHere { word: word.to_owned(), why });
        }
        match word {
            "less" => return self.compared(Field::Length, Relation::LessOrEqual),
            "greater" => return self.compared(Field::Length, Relation::GreaterOrEqual),
            "len" => return self.relation(Field::Length),
            "proto" => return self.protocol_number(),
            _ => {}
        }
        if matches!(self.peek(), Some(Token::Sign("["))) {
            let field = self.field(word)?;
            return self.relation(field);
        }
        self.at -= 1;
        self.value()
    }

    /// A value with what stands before it; or a protocol alone.
    fn value(&mut self) -> Parsed<Expression> {
        let mut qualifiers = Qualifiers { protocol: self.protocol(), ..Qualifiers::default() };
        if let (Some(protocol), true) = (qualifiers.protocol, self.take(&["proto"])) {
            let number = self.protocol_number()?;
            return Ok(Expression::And(Box::new(Expression::Protocol(protocol)), Box::new(number)));
        }
        qualifiers.way = self.way()?;
        qualifiers.kind = self.kind();
        let has_none = qualifiers.protocol.is_none() && qualifiers.way.is_none() && qualifiers.kind.is_none();
        if has_none {
            qualifiers = self.last;
        } else if qualifiers.way.is_none()
            && qualifiers.kind.is_none()
            && let Some(protocol) = qualifiers.protocol
        {
            return Ok(Expression::Protocol(protocol));
        }
        let token = self.next("an address, a network or a port")?;
        let Token::Word(word) = token else {
            return Err(unexpected(token, "an address, a network or a port"));
        };
        self.last = qualifiers;
        let way = qualifiers.way.unwrap_or(Way::Either);
        let condition = match qualifiers.kind.unwrap_or(Kind::Host) {
            Kind::Host => Expression::Net(way, host(word)?),
            Kind::Net => Expression::Net(way, self.net(word)?),
            Kind::Port => Expression::Port(way, port(word).map(|port| port..=port)?),
            Kind::PortRange => Expression::Port(way, port_range(word)?),
        };
        Ok(match qualifiers.protocol {
            Some(protocol) => Expression::And(Box::new(Expression::Protocol(protocol)), Box::new(condition)),
            None => condition,
        })
    }

    fn protocol(&mut self) -> Option<Protocol> {
        let Some(Token::Word(word)) = self.peek() else { return None };
        let protocol = protocol_of(word)?;
        self.at += 1;
        Some(protocol)
    }

    /// `src`, `dst`, `src or dst`, `src and dst`.
    fn way(&mut self) -> Parsed<Option<Way>> {
        let way = match self.peek() {
            Some(Token::Word("src")) => Way::Source,
            Some(Token::Word("dst")) => Way::Destination,
            _ => return Ok(None),
        };
        self.at += 1;
        let follows = |offset: usize, texts: &[&str]| {
            self.tokens.get(self.at + offset).is_some_and(|token| texts.contains(&token.text()))
        };
        let both_ends = follows(1, &["src", "dst"]);
        let joined = match () {
            () if both_ends && follows(0, &["or", "||"]) => Way::Either,
            () if both_ends && follows(0, &["and", "&&"]) => Way::Both,
            () => return Ok(Some(way)),
        };
        self.at += 2;
        Ok(Some(joined))
    }

    fn kind(&mut self) -> Option<Kind> {
        let kind = match self.peek()? {
            Token::Word("host") => Kind::Host,
            Token::Word("net") => Kind::Net,
            Token::Word("port") => Kind::Port,
            Token::Word("portrange") => Kind::PortRange,
            _ => return None,
        };
        self.at += 1;
        Some(kind)
    }

    /// `10.0.0.0/8`, `10.0.0.0 mask 255.0.0.0`, and `10.1` for 10.1.0.0/16.
    fn net(&mut self, word: &str) -> Parsed<Net> {
        const WANTED: &str = "a network such as 10.0.0.0/8";
        let wrong = || ExpressionError::Unexpected { found: word.to_owned(), wanted: WANTED };
        if self.take(&["mask"]) {
            let mask: Ipv4Addr = self.next("a mask")?.text().parse().map_err(|_| wrong())?;
            let address: Ipv4Addr = word.parse().map_err(|_| wrong())?;
            let length = mask.to_bits().leading_ones();
            if mask.to_bits().count_ones() != length {
                return Err(wrong());
            }
            return Ok(Net { address: address.into(), length: length as u8 });
        }
        let (text, length) = match word.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u8>().map_err(|_| wrong())?)),
            None => (word, None),
        };
        if let Ok(address) = text.parse::<IpAddr>() {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let length = length.unwrap_or(most);
            return if length <= most { Ok(Net { address, length }) } else { Err(wrong()) };
        }
        let parts = text.split('.').map(str::parse).collect::<Result<Vec<u8>, _>>().map_err(|_| wrong())?;
        if parts.len() > 3 {
            return Err(wrong());
        }
        let implied = parts.len() as u8 * 8;
        let mut octets = [0; 4];
        octets[..parts.len()].copy_from_slice(&parts);
        let length = length.unwrap_or(implied);
        if length > 32 {
            return Err(wrong());
        }
        Ok(Net { address: Ipv4Addr::from(octets).into(), length })
    }

    fn protocol_number(&mut self) -> Parsed<Expression> {
        let word = self.next("a protocol")?.text();
        let number = match protocol_of(word.trim_start_matches('\\')) {
            Some(Protocol::Number(number)) => number,
            _ => word.parse().map_err(|_| ExpressionError::Unexpected {
                found: word.to_owned(),
                wanted: "tcp, udp, icmp, icmp6, sctp or a protocol's number",
            })?,
        };
        Ok(Expression::Protocol(Protocol::Number(number)))
    }

    /// What is in brackets behind a protocol.
    fn field(&mut self, protocol: &str) -> Parsed<Field> {
        self.at += 1;
        let inside = self.next("what to look at")?.text();
        let field = match (protocol, inside) {
            ("tcp", "tcpflags" | "13" | "13:1") => Field::TcpFlags,
            ("icmp", "icmptype" | "0" | "0:1") => Field::IcmpType,
            ("icmp", "icmpcode" | "1" | "1:1") => Field::IcmpCode,
            ("icmp6", "icmp6type" | "0" | "0:1") => Field::Icmp6Type,
            ("icmp6", "icmp6code" | "1" | "1:1") => Field::Icmp6Code,
            ("ip", "8" | "8:1") => Field::TimeToLive,
            ("ip6", "7" | "7:1") => Field::HopLimit,
            _ => {
                return Err(ExpressionError::NotHere {
                    word: format!("{protocol}[{inside}]"),
                    why: "of a packet's bytes there are tcp[tcpflags], icmp[icmptype], icmp[icmpcode], icmp6[icmp6type], \
                          icmp6[icmp6code], ip[8] (TTL) and ip6[7] (hop limit)",
                });
            }
        };
        match self.next("']'")? {
            Token::Sign("]") => Ok(field),
            other => Err(unexpected(other, "']'")),
        }
    }

    /// `& MASK` and a comparison.
    fn relation(&mut self, field: Field) -> Parsed<Expression> {
        let mask = if self.take(&["&"]) { self.bits()? } else { u32::MAX };
        let sign = self.next("a comparison")?;
        let relation = match sign.text() {
            "=" | "==" => Relation::Equal,
            "!=" => Relation::NotEqual,
            "<" => Relation::Less,
            "<=" => Relation::LessOrEqual,
            ">" => Relation::Greater,
            ">=" => Relation::GreaterOrEqual,
            _ => return Err(unexpected(sign, "a comparison")),
        };
        Ok(Expression::Compare { field, mask, relation, to: self.bits()? })
    }

    fn compared(&mut self, field: Field, relation: Relation) -> Parsed<Expression> {
        Ok(Expression::Compare { field, mask: u32::MAX, relation, to: self.bits()? })
    }

    /// A number, or several with `|` between them, in parentheses or not.
    fn bits(&mut self) -> Parsed<u32> {
        let in_parentheses = self.take(&["("]);
        let mut bits = number(self.next("a number")?)?;
        while self.take(&["|"]) {
            bits |= number(self.next("a number")?)?;
        }
        if in_parentheses && !self.take(&[")"]) {
            return Err(self.peek().map_or(ExpressionError::Ends("')'"), |token| unexpected(token, "')'")));
        }
        Ok(bits)
    }
}

fn protocol_of(word: &str) -> Option<Protocol> {
    Some(match word {
        "ip" => Protocol::Ipv4,
        "ip6" => Protocol::Ipv6,
        "tcp" => Protocol::Number(TCP),
        "udp" => Protocol::Number(UDP),
        "icmp" => Protocol::Number(ICMP),
        "icmp6" => Protocol::Number(ICMPV6),
        "sctp" => Protocol::Number(SCTP),
        _ => return None,
    })
}

/// Why a word of pcap-filter is refused.
fn not_looked_at(word: &str) -> Option<&'static str> {
    match word {
        "ether" | "link" | "arp" | "rarp" | "fddi" | "tr" | "wlan" | "llc" | "stp" | "iso" | "decnet" => {
            Some("tracer follows IP packets, by what they are under all link headers")
        }
        "vlan" | "mpls" | "pppoed" | "pppoes" | "geneve" | "vxlan" => {
            Some("an expression is about the innermost packet; what is around it is shown at every hop")
        }
        "gateway" | "broadcast" | "multicast" => Some("it depends on one device's network"),
        "ifname" | "on" | "rnr" | "rulenum" | "reason" | "rset" | "ruleset" | "srnr" | "subrulenum"
        | "action" => Some("it is about BSD's packet filter"),
        "inbound" | "outbound" => Some("a packet passes devices in both directions on its way"),
        "atalk" | "aarp" | "ipx" | "netbeui" | "lat" | "moprc" | "mopdl" | "esis" | "isis" | "clnp" => {
            Some("tracer follows IP packets")
        }
        _ => None,
    }
}

fn host(word: &str) -> Parsed<Net> {
    let address: IpAddr = word.parse().map_err(|_| ExpressionError::Unexpected {
        found: word.to_owned(),
        wanted: "an IP address (pods and Services are named by --pod and --to)",
    })?;
    Ok(Net { address, length: if address.is_ipv4() { 32 } else { 128 } })
}

fn port(word: &str) -> Parsed<u16> {
    let by_name = match word {
        "domain" => Some(53),
        "http" => Some(80),
        "https" => Some(443),
        "ssh" => Some(22),
        _ => None,
    };
    by_name
        .or_else(|| word.parse().ok())
        .ok_or_else(|| ExpressionError::Unexpected { found: word.to_owned(), wanted: "a port's number" })
}

fn port_range(word: &str) -> Parsed<RangeInclusive<u16>> {
    let ends = word.split_once('-').or_else(|| word.split_once(':')).unwrap_or((word, word));
    let (first, last) = (port(ends.0)?, port(ends.1)?);
    if first > last {
        return Err(ExpressionError::Unexpected {
            found: word.to_owned(),
            wanted: "a range such as 8000-8080",
        });
    }
    Ok(first..=last)
}

fn number(token: Token<'_>) -> Parsed<u32> {
    let text = token.text();
    let named = match text {
        "tcp-fin" => Some(0x01),
        "tcp-syn" => Some(0x02),
        "tcp-rst" => Some(0x04),
        "tcp-push" => Some(0x08),
        "tcp-ack" => Some(0x10),
        "tcp-urg" => Some(0x20),
        "tcp-ece" => Some(0x40),
        "tcp-cwr" => Some(0x80),
        "icmp-echoreply" => Some(0),
        "icmp-unreach" => Some(3),
        "icmp-redirect" => Some(5),
        "icmp-echo" => Some(8),
        "icmp-timxceed" => Some(11),
        "icmp6-destinationunreach" | "icmp6-destinationrunreach" => Some(1),
        "icmp6-packettoobig" => Some(2),
        "icmp6-timeexceeded" => Some(3),
        "icmp6-echo" => Some(128),
        "icmp6-echoreply" => Some(129),
        _ => None,
    };
    let read = || match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    named.or_else(read).ok_or_else(|| unexpected(token, "a number"))
}

fn unexpected(token: Token<'_>, wanted: &'static str) -> ExpressionError {
    ExpressionError::Unexpected { found: token.text().to_owned(), wanted }
}
