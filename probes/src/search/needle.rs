//! Needles, and their search in bytes.

use std::fmt;
use std::ops::Range;

use memchr::memmem::Finder;
use regex::bytes::Regex;

use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::{Error, Result};

/// The longest match of a regular expression that is sure to be found whole.
pub(super) const LONGEST: usize = PAGE_SIZE as usize;
/// Bytes that a compiled regular expression may take.
const REGEX_SIZE: usize = 4 << 20;

/// The needle of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needle {
    /// These bytes.
    Bytes(Vec<u8>),
    /// This 32-bit number, little-endian.
    U32(u32),
    /// This 64-bit number, little-endian.
    U64(u64),
    /// A pointer to any of these addresses, the last included.
    Pointer(GuestVirt, GuestVirt),
    /// This text, in UTF-8.
    Text(String),
    /// Bytes that match this regular expression, in the syntax of the `regex` crate without Unicode classes: `.` is a byte,
    /// and `(?s-u)` is on.
    Regex(String),
}

impl Needle {
    /// A pointer to an address.
    #[must_use]
    pub const fn pointer(to: GuestVirt) -> Self {
        Self::Pointer(to, to)
    }

    /// A pointer into so many bytes from an address on.
    #[must_use]
    pub const fn pointer_into(start: GuestVirt, bytes: u64) -> Self {
        Self::Pointer(start, start.offset(bytes.saturating_sub(1)))
    }

    /// A text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Bytes(bytes.into())
    }

    /// Bytes in hexadecimal, with or without blanks between them: `7f 45 4c46`.
    ///
    /// # Errors
    /// `Invalid` if there are no digits, an odd number, or anything else.
    pub fn hex(text: &str) -> Result<Self> {
        let digits: Vec<u8> = text
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        let (pairs, rest) = digits.as_chunks::<2>();
        let byte = |pair: &[u8; 2]| {
            let pair = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(pair, 16).ok()
        };
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        match bytes {
            Some(bytes) if rest.is_empty() && !bytes.is_empty() => Ok(Self::Bytes(bytes)),
            _ => Err(Error::Invalid(format!(
                "`{text}` are no bytes: write two hexadecimal digits for each, 7f 45 4c 46"
            ))),
        }
    }

    /// A regular expression.
    #[must_use]
    pub fn regex(pattern: impl Into<String>) -> Self {
        Self::Regex(pattern.into())
    }

    /// Default alignment of its address, in bytes.
    pub(super) const fn alignment(&self) -> u64 {
        match self {
            Self::U32(_) => 4,
            Self::U64(_) | Self::Pointer(..) => 8,
            Self::Bytes(_) | Self::Text(_) | Self::Regex(_) => 1,
        }
    }

    pub(super) fn compile(&self) -> Result<Matcher> {
        let fixed = |bytes: &[u8]| {
            if bytes.is_empty() {
                return Err(Error::Invalid(
                    "there is nothing to search for: the needle is empty".to_owned(),
                ));
            }
            Ok(Matcher::Fixed(Box::new(Finder::new(bytes).into_owned())))
        };
        match self {
            Self::Bytes(bytes) => fixed(bytes),
            Self::Text(text) => fixed(text.as_bytes()),
            Self::U32(value) => fixed(&value.to_le_bytes()),
            Self::U64(value) => fixed(&value.to_le_bytes()),
            Self::Pointer(first, last) if first == last => fixed(&first.0.to_le_bytes()),
            Self::Pointer(first, last) => Ok(Matcher::Within(first.0, last.0)),
            Self::Regex(pattern) => {
                let made = regex::bytes::RegexBuilder::new(pattern)
                    .unicode(false)
                    .dot_matches_new_line(true)
                    .size_limit(REGEX_SIZE)
                    .build();
                let regex = made.map_err(|error| {
                    Error::Invalid(format!("`{pattern}` is no regular expression: {error}"))
                })?;
                if regex.is_match(b"") {
                    return Err(Error::Invalid(format!(
                        "`{pattern}` matches nothing at all, so everywhere: say what must be there"
                    )));
                }
                Ok(Matcher::Regex(regex))
            }
        }
    }
}

impl From<&str> for Needle {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&[u8]> for Needle {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl From<u32> for Needle {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<u64> for Needle {
    fn from(value: u64) -> Self {
        Self::U64(value)
    }
}

impl From<GuestVirt> for Needle {
    fn from(at: GuestVirt) -> Self {
        Self::pointer(at)
    }
}

impl fmt::Display for Needle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => {
                let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                write!(f, "bytes {}", hex.join(" "))
            }
            Self::U32(value) => write!(f, "u32 {value:#x}"),
            Self::U64(value) => write!(f, "u64 {value:#x}"),
            Self::Pointer(first, last) if first == last => write!(f, "pointer to {first}"),
            Self::Pointer(first, last) => write!(f, "pointer to {first} .. {last}"),
            Self::Text(text) => write!(f, "text {text:?}"),
            Self::Regex(pattern) => write!(f, "regex {pattern}"),
        }
    }
}

/// A needle that is ready to be found.
#[derive(Debug)]
pub(super) enum Matcher {
    Fixed(Box<Finder<'static>>),
    Within(u64, u64),
    Regex(Regex),
}

impl Matcher {
    /// Bytes that a piece must go on after its end, so that a match that begins in it is whole.
    pub(super) fn overlap(&self) -> usize {
        match self {
            Self::Fixed(finder) => finder.needle().len() - 1,
            Self::Within(..) => 7,
            Self::Regex(_) => LONGEST,
        }
    }

    /// Tells whether memory without a byte that is not zero may have a match.
    pub(super) fn matches_zeros(&self) -> bool {
        match self {
            Self::Fixed(finder) => finder.needle().iter().all(|byte| *byte == 0),
            Self::Within(first, _) => *first == 0,
            Self::Regex(regex) => regex.is_match(&[0; LONGEST]),
        }
    }

    /// Calls `each` with every match that begins below `end`, until it says that it is enough. `base` is the address of
    /// the first byte: only matches at multiples of `alignment` count.
    pub(super) fn each(
        &self,
        bytes: &[u8],
        (base, alignment): (u64, u64),
        end: usize,
        each: &mut dyn FnMut(Range<usize>) -> bool,
    ) -> bool {
        let aligned = |at: usize| base.wrapping_add(at as u64).is_multiple_of(alignment);
        match self {
            Self::Fixed(finder) => {
                let mut from = 0;
                while let Some(at) = bytes.get(from..).and_then(|rest| finder.find(rest)) {
                    let at = from + at;
                    if at >= end {
                        break;
                    }
                    if aligned(at) && !each(at..at + finder.needle().len()) {
                        return false;
                    }
                    from = at + 1;
                }
            }
            Self::Within(first, last) => {
                let step = alignment.clamp(1, 1 << 20) as usize;
                let skip = (alignment - base % alignment) % alignment;
                for at in (skip as usize..end).step_by(step) {
                    let Some(word) = bytes.get(at..at + 8).and_then(|word| word.try_into().ok())
                    else {
                        break;
                    };
                    let word = u64::from_le_bytes(word);
                    if *first <= word && word <= *last && !each(at..at + 8) {
                        return false;
                    }
                }
            }
            Self::Regex(regex) => {
                for found in regex.find_iter(bytes) {
                    if found.start() >= end {
                        break;
                    }
                    if aligned(found.start()) && !each(found.range()) {
                        return false;
                    }
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(needle: &Needle, bytes: &[u8], alignment: u64, end: usize) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        let matcher = needle.compile().unwrap();
        matcher.each(bytes, (0x1000, alignment), end, &mut |range| {
            found.push((range.start, range.end));
            true
        });
        found
    }

    #[test]
    fn every_place_is_found_also_those_that_overlap() {
        let needle = Needle::text("aa");
        assert_eq!(all(&needle, b"aaab", 1, 4), [(0, 2), (1, 3)]);
        assert_eq!(all(&needle, b"aaab", 2, 4), [(0, 2)]);
        assert_eq!(all(&needle, b"aaab", 1, 1), [(0, 2)]);
    }

    #[test]
    fn pointers_into_a_range() {
        let needle = Needle::pointer_into(GuestVirt(0x100), 0x10);
        let words: Vec<u8> = [0xffu64, 0x100, 0x10f, 0x110]
            .map(u64::to_le_bytes)
            .concat();
        assert_eq!(all(&needle, &words, 8, words.len()), [(8, 16), (16, 24)]);
    }

    #[test]
    fn expressions_match_bytes() {
        let needle = Needle::regex(r"[a-z]+\.\xff");
        assert_eq!(all(&needle, b"12ab.\xff3c.\xff", 1, 12), [(2, 6), (7, 10)]);
        for bad in ["(", "a*", ""] {
            assert!(Needle::regex(bad).compile().is_err(), "{bad}");
        }
        assert!(Needle::text("").compile().is_err());
    }

    #[test]
    fn bytes_in_hexadecimal() {
        assert_eq!(
            Needle::hex("7f 45 4c46").unwrap(),
            Needle::bytes(*b"\x7fELF")
        );
        for bad in ["", "7", "7g", "0x7f"] {
            assert!(Needle::hex(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn zeros_are_skipped_where_they_cannot_match() {
        let zeros = |needle: Needle| needle.compile().unwrap().matches_zeros();
        assert!(zeros(Needle::U64(0)) && zeros(Needle::regex(r"\x00{9}")));
        assert!(!zeros(Needle::text("x")) && !zeros(Needle::pointer_into(GuestVirt(1), 5)));
    }
}
