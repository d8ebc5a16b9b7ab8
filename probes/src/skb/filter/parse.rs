//! The usual subset of pcap-filter(7): `host`, `net`, `port`, `portrange`, `proto`, with `src` and `dst`, `ip`, `ip6`, `arp`,
//! `tcp`, `udp`, `sctp`, `icmp`, `icmp6`; `and`, `or`, `not`, parentheses. Addresses and ports are numbers: the guest's names are not the
//! host's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::expression::{Direction, Expression, Net, Test};
use crate::{Error, Result};

/// The longest expression, and how deep parentheses and `not` may nest in it.
const LONGEST: usize = 4096;
const DEEPEST: usize = 64;
const KNOWN: &str = "host, net, port, portrange and proto with src and dst, ip, ip6, arp, tcp, udp, sctp, icmp, icmp6; and, or, not, ( )";

pub(super) fn parse(text: &str) -> Result<Expression> {
    let mut parser = Parser {
        text,
        tokens: tokens(text),
        at: 0,
        depth: 0,
        last: Qualifiers::default(),
    };
    if text.len() > LONGEST {
        return Err(parser.fault(format!("a filter has at most {LONGEST} characters")));
    }
    let expression = parser.expression()?;
    match parser.peek() {
        None => Ok(expression),
        Some(word) => Err(parser.fault(format!("`{word}` does not follow here: write and, or"))),
    }
}

/// Words with their columns.
fn tokens(text: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    let mut rest = text.char_indices().enumerate().peekable();
    while let Some((column, (at, first))) = rest.next() {
        let single = matches!(first, '(' | ')' | '!');
        if first.is_whitespace() {
            continue;
        }
        let mut end = at + first.len_utf8();
        while let Some((_, (_, next))) = rest.peek()
            && !single
            && !next.is_whitespace()
            && !matches!(next, '(' | ')' | '!')
        {
            end += next.len_utf8();
            rest.next();
        }
        tokens.push((column, text.get(at..end).unwrap_or_default()));
    }
    tokens
}

/// What stands before an address or a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Qualifiers {
    protocol: Option<Protocol>,
    direction: Option<Direction>,
    kind: Option<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Ip,
    Ip6,
    Arp,
    /// One that both versions of IP carry.
    Of(u8),
    /// ICMP, of IPv4 alone; ICMPv6, of IPv6 alone.
    Icmp,
    Icmp6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Host,
    Net,
    Port,
    PortRange,
    Proto,
}

impl Protocol {
    fn named(word: &str) -> Option<Self> {
        Some(match word {
            "ip" => Self::Ip,
            "ip6" => Self::Ip6,
            "arp" => Self::Arp,
            "tcp" => Self::Of(6),
            "udp" => Self::Of(17),
            "sctp" => Self::Of(132),
            "icmp" => Self::Icmp,
            "icmp6" => Self::Icmp6,
            _ => return None,
        })
    }

    fn number(self) -> Option<u8> {
        match self {
            Self::Of(number) => Some(number),
            Self::Icmp => Some(1),
            Self::Icmp6 => Some(58),
            _ => None,
        }
    }

    fn test(self) -> Expression {
        match self {
            Self::Ip => Expression::Test(Test::Ip),
            Self::Ip6 => Expression::Test(Test::Ip6),
            Self::Arp => Expression::Test(Test::Arp),
            Self::Of(number) => Expression::Test(Test::Protocol(number)),
            Self::Icmp => both(Expression::Test(Test::Ip), Test::Protocol(1)),
            Self::Icmp6 => both(Expression::Test(Test::Ip6), Test::Protocol(58)),
        }
    }
}

fn both(left: Expression, right: Test) -> Expression {
    Expression::And(Box::new(left), Box::new(Expression::Test(right)))
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(usize, &'a str)>,
    at: usize,
    depth: usize,
    /// What stood before the last value: it holds for a value alone, as in `port 80 or 443`.
    last: Qualifiers,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).map(|(_, word)| *word)
    }

    fn take(&mut self, words: &[&str]) -> Option<&'a str> {
        let word = self.peek().filter(|word| words.contains(word))?;
        self.at += 1;
        Some(word)
    }

    fn fault(&self, message: String) -> Error {
        let end = self.text.chars().count();
        Error::Expression {
            kind: crate::ErrorKind::Invalid,
            message,
            source_text: self.text.to_owned(),
            column: self.tokens.get(self.at).map_or(end, |(column, _)| *column),
        }
    }

    fn expression(&mut self) -> Result<Expression> {
        let mut left = self.unary()?;
        loop {
            if self.take(&["and", "&&"]).is_some() {
                left = Expression::And(Box::new(left), Box::new(self.unary()?));
            } else if self.take(&["or", "||"]).is_some() {
                left = Expression::Or(Box::new(left), Box::new(self.unary()?));
            } else {
                return Ok(left);
            }
        }
    }

    fn unary(&mut self) -> Result<Expression> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.fault(format!("a filter nests at most {DEEPEST} deep")));
        }
        let inner = if self.take(&["not", "!"]).is_some() {
            Expression::Not(Box::new(self.unary()?))
        } else if self.take(&["("]).is_some() {
            let inner = self.expression()?;
            if self.take(&[")"]).is_none() {
                return Err(self.fault("`)` is missing here".to_owned()));
            }
            inner
        } else {
            self.primitive()?
        };
        self.depth -= 1;
        Ok(inner)
    }

    fn primitive(&mut self) -> Result<Expression> {
        let begin = self.at;
        let mut found = Qualifiers::default();
        if let Some(protocol) = self.peek().and_then(Protocol::named) {
            found.protocol = Some(protocol);
            self.at += 1;
        }
        found.direction = self.direction();
        found.kind = self
            .take(&["host", "net", "port", "portrange", "proto"])
            .map(|word| match word {
                "host" => Kind::Host,
                "net" => Kind::Net,
                "port" => Kind::Port,
                "portrange" => Kind::PortRange,
                _ => Kind::Proto,
            });
        let value = self
            .peek()
            .filter(|word| !matches!(*word, ")" | "and" | "or" | "&&" | "||" | "not" | "!" | "("));
        let Some(value) = value else {
            return match found {
                Qualifiers {
                    protocol: Some(protocol),
                    direction: None,
                    kind: None,
                } => Ok(protocol.test()),
                _ if self.at == begin => Err(self.fault(format!("a filter is made of {KNOWN}"))),
                _ => Err(self.fault("an address or a number is missing here".to_owned())),
            };
        };
        let is_value = value.starts_with(|c: char| c.is_ascii_digit() || c == ':' || c == '\\')
            || value.contains(':')
            || found.kind == Some(Kind::Proto);
        if !is_value {
            return Err(self.fault(format!(
                "`{value}` is not known here (names are not looked up): a filter is made of {KNOWN}"
            )));
        }
        if found == Qualifiers::default() {
            found = self.last;
        }
        self.last = found;
        let test = self.value(found, value)?;
        self.at += 1;
        if found.kind == Some(Kind::Net) && self.take(&["mask"]).is_some() {
            return self.masked(found, test);
        }
        Ok(restricted(found, test))
    }

    /// `src`, `dst`, `src or dst`, `src and dst`.
    fn direction(&mut self) -> Option<Direction> {
        let first = self.take(&["src", "dst"])?;
        let (second, third) = (
            self.peek(),
            self.tokens.get(self.at + 1).map(|(_, word)| *word),
        );
        let other = matches!(third, Some("src" | "dst")) && third != Some(first);
        match second {
            Some("or" | "and") if other => {
                self.at += 2;
                Some(match second {
                    Some("or") => Direction::Either,
                    _ => Direction::Both,
                })
            }
            _ if first == "src" => Some(Direction::Source),
            _ => Some(Direction::Destination),
        }
    }

    fn value(&self, qualifiers: Qualifiers, word: &str) -> Result<Test> {
        let direction = qualifiers.direction.unwrap_or(Direction::Either);
        let number = |word: &str| {
            word.parse::<u16>()
                .map_err(|_| self.fault(format!("`{word}` is no port: write it as a number")))
        };
        match qualifiers.kind.unwrap_or(Kind::Host) {
            kind @ (Kind::Port | Kind::PortRange) => {
                if !matches!(qualifiers.protocol, None | Some(Protocol::Of(6 | 17 | 132))) {
                    return Err(self.fault("only tcp, udp and sctp have ports".to_owned()));
                }
                let (first, last) = match word.split_once('-') {
                    Some((first, last)) if kind == Kind::PortRange => {
                        (number(first)?, number(last)?)
                    }
                    _ => (number(word)?, number(word)?),
                };
                Ok(Test::Ports(direction, first.min(last), first.max(last)))
            }
            Kind::Proto => {
                let word = word.trim_start_matches('\\');
                let protocol = word
                    .parse()
                    .ok()
                    .or_else(|| Protocol::named(word).and_then(Protocol::number));
                let of_ip = matches!(
                    qualifiers.protocol,
                    None | Some(Protocol::Ip | Protocol::Ip6)
                );
                match protocol {
                    Some(protocol) if of_ip && qualifiers.direction.is_none() => {
                        Ok(Test::Protocol(protocol))
                    }
                    _ => Err(self.fault(format!(
                        "`{word}` is no protocol of IP: write a number, as in `ip proto 6`"
                    ))),
                }
            }
            kind => {
                if matches!(
                    qualifiers.protocol,
                    Some(Protocol::Of(_) | Protocol::Icmp | Protocol::Icmp6)
                ) {
                    return Err(self.fault(
                        "an address is of ip, ip6 or arp: write `tcp and host ..`".to_owned(),
                    ));
                }
                let net = match kind {
                    Kind::Net => net(word),
                    _ => host(word),
                };
                let net = net.map_err(|why| self.fault(format!("`{word}` {why}")))?;
                Ok(Test::Net(direction, net))
            }
        }
    }

    /// `net 10.0.0.0 mask 255.0.0.0`.
    fn masked(&mut self, qualifiers: Qualifiers, test: Test) -> Result<Expression> {
        let mask = self
            .peek()
            .and_then(|word| word.parse::<Ipv4Addr>().ok())
            .map(|mask| (mask.to_bits().leading_ones(), mask.to_bits()));
        let (Some((prefix, bits)), Test::Net(direction, net)) = (mask, test) else {
            return Err(self.fault("a mask is missing here, as in 255.255.255.0".to_owned()));
        };
        if bits.count_ones() != prefix {
            return Err(self.fault("a mask has all its ones in front".to_owned()));
        }
        let masked = Net { prefix, ..net };
        checked(masked).map_err(|why| self.fault(format!("the network {why}")))?;
        self.at += 1;
        Ok(restricted(qualifiers, Test::Net(direction, masked)))
    }
}

/// A test with the protocol that stands before it.
fn restricted(qualifiers: Qualifiers, test: Test) -> Expression {
    match qualifiers.protocol {
        Some(protocol) => both(protocol.test(), test),
        None => Expression::Test(test),
    }
}

fn host(word: &str) -> Result<Net, String> {
    let address: IpAddr = word
        .parse()
        .map_err(|_| "is no address: names are not looked up".to_owned())?;
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    Ok(Net { address, prefix })
}

/// `10.0.0.0/8`, `10.1`, `2001:db8::/32`.
fn net(word: &str) -> Result<Net, String> {
    let (address, prefix) = match word.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (word, None),
    };
    let (address, bits) = if address.contains(':') {
        let address: Ipv6Addr = address.parse().map_err(|_| "is no network".to_owned())?;
        (IpAddr::V6(address), 128)
    } else {
        let parts: Result<Vec<u8>, _> = address.split('.').map(str::parse).collect();
        let parts = parts
            .ok()
            .filter(|parts| parts.len() <= 4)
            .ok_or_else(|| "is no network: write it as 10.0.0.0/8".to_owned())?;
        let mut octets = [0; 4];
        for (to, from) in octets.iter_mut().zip(&parts) {
            *to = *from;
        }
        (IpAddr::from(octets), parts.len() as u32 * 8)
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        Some(prefix) => prefix
            .parse()
            .ok()
            .filter(|prefix| *prefix <= most)
            .ok_or_else(|| format!("has no prefix of 0 to {most} bits"))?,
        None => bits,
    };
    let net = Net { address, prefix };
    checked(net)?;
    Ok(net)
}

/// Refuses a network with bits behind its prefix, as libpcap does.
fn checked(net: Net) -> Result<(), String> {
    let behind = match net.address {
        IpAddr::V4(address) => {
            address.to_bits() & u32::MAX.checked_shr(net.prefix).unwrap_or(0) != 0
        }
        IpAddr::V6(address) => {
            address.to_bits() & u128::MAX.checked_shr(net.prefix).unwrap_or(0) != 0
        }
    };
    if behind {
        return Err(format!("has bits set behind its prefix of {}", net.prefix));
    }
    Ok(())
}
