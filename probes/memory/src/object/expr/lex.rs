//! The words of a C expression.

use crate::ErrorKind;

/// A fault of an expression, and its offset in bytes from the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) at: usize,
    pub(super) kind: ErrorKind,
}

impl Fault {
    pub(super) fn new(at: usize, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            at,
            kind: ErrorKind::Invalid,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    Name(String),
    /// A number, whether it is unsigned, whether it is long.
    Number(u64, bool, bool),
    Text(String),
    Sign(&'static str),
    End,
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => write!(f, "`{name}`"),
            Self::Number(number, ..) => write!(f, "`{number}`"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Sign(sign) => write!(f, "`{sign}`"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// The longer first.
const SIGNS: &[&str] = &[
    "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "->", "...", "+", "-", "*", "/", "%", "&", "|",
    "^", "~", "!", "<", ">", "?", ":", "(", ")", "[", "]", ".", ",", "=", ";", "{", "}",
];

/// The words of `text` with where each begins; the last is [`Word::End`].
pub(super) fn words(text: &str) -> Result<Vec<(Word, usize)>, Fault> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let Some(first) = rest.chars().next() else {
            break;
        };
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (word, len) = if first.is_ascii_alphabetic() || first == '_' {
            let len = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            (Word::Name(rest[..len].to_owned()), len)
        } else if first.is_ascii_digit() {
            number(rest).map_err(|why| Fault::new(at, why))?
        } else if first == '"' || first == '\'' {
            quoted(rest, first).map_err(|why| Fault::new(at, why))?
        } else if first == '@' && is_choice(&words, rest) {
            (Word::Sign("@"), 1)
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            (Word::Sign(sign), sign.len())
        } else {
            return Err(Fault::new(at, format!("`{first}` means nothing in C")));
        };
        words.push((word, at));
        at += len;
    }
    words.push((Word::End, text.len()));
    Ok(words)
}

/// Tells whether an `@` stands between a symbol's name and which of several it is: `name_show@2`.
fn is_choice(words: &[(Word, usize)], rest: &str) -> bool {
    let number = rest
        .get(1..)
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    number && matches!(words.last(), Some((Word::Name(_) | Word::Number(..), _)))
}

fn number(rest: &str) -> Result<(Word, usize), String> {
    let len = rest
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(rest.len());
    let written = rest[..len].to_ascii_lowercase();
    let (digits, radix) = match written.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None if written.len() > 1 && written.starts_with("0b") => (&written[2..], 2),
        None if written.len() > 1 && written.starts_with('0') => (&written[1..], 8),
        None => (written.as_str(), 10),
    };
    let number = digits.trim_end_matches(['u', 'l']);
    let suffix = &digits[number.len()..];
    // `0u`, `00`: nothing is left of an octal number.
    let value = if number.is_empty() && radix == 8 {
        Ok(0)
    } else {
        u64::from_str_radix(number, radix)
    };
    let value = value.map_err(|_| format!("`{}` is no integer of 64 bits", &rest[..len]))?;
    let unsigned = suffix.contains('u') || value > i64::MAX as u64;
    let long = suffix.contains('l')
        || value > u64::from(u32::MAX)
        || (radix == 10 && !suffix.contains('u') && value > i32::MAX as u64);
    Ok((
        Word::Number(
            value,
            unsigned || (radix != 10 && !long && value > i32::MAX as u64),
            long,
        ),
        len,
    ))
}

fn quoted(rest: &str, quote: char) -> Result<(Word, usize), String> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            let len = at + 1;
            if quote == '"' {
                return Ok((Word::Text(text), len));
            }
            let mut all = text.chars();
            return match (all.next(), all.next()) {
                (Some(c), None) if c.is_ascii() => {
                    Ok((Word::Number(u64::from(u32::from(c)), false, false), len))
                }
                _ => Err("a character literal holds one ASCII character".to_owned()),
            };
        }
        text.push(match c {
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('0') => '\0',
                Some(c @ ('\\' | '\'' | '"')) => c,
                _ => {
                    return Err(
                        "only \\n, \\t, \\0, \\\\, \\' and \\\" can be escaped here".to_owned()
                    );
                }
            },
            c => c,
        });
    }
    Err(format!("the closing {quote} is missing"))
}
