//! Bytes of the guest as text, without a loss: the kernel's names are bytes, and nothing says that they are UTF-8.
//!
//! One rule for all of the library, in Rust's strings, in JSON and in tables: text that is UTF-8 stays as it is, and each
//! byte that is no part of it is `\xNN`, two small hexadecimal digits. A backslash is text, but where it would read as the
//! beginning of such an escape it is one itself, `\x5c`. So two names are equal where their bytes are, and [`bytes_of`] has
//! the bytes again.

use std::fmt::Write as _;

/// Bytes as text, as the module's rule has it.
///
/// ```
/// use klab_memory::{bytes_of, text_of};
/// assert_eq!(text_of(b"caf\xc3\xa9 \xff\xfea"), "café \\xff\\xfea");
/// assert_eq!(text_of(br"a\b"), r"a\b");
/// assert_eq!(text_of(br"\xff"), r"\x5cxff");
/// assert_eq!(bytes_of(r"\x5cxff"), br"\xff");
/// ```
#[must_use]
pub fn text_of(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid();
        let mut from = 0;
        for (at, _) in valid.match_indices('\\') {
            if escape_at(&valid.as_bytes()[at..]).is_some() {
                text.push_str(&valid[from..at]);
                text.push_str("\\x5c");
                from = at + 1;
            }
        }
        text.push_str(&valid[from..]);
        for byte in chunk.invalid() {
            // Writing to a String does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The bytes that [`text_of`] made a text of.
#[must_use]
pub fn bytes_of(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some(first) = rest.first() {
        let (byte, len) = escape_at(rest).map_or((*first, 1), |byte| (byte, 4));
        bytes.push(byte);
        rest = rest.get(len..).unwrap_or_default();
    }
    bytes
}

/// The byte of an escape that stands at the beginning.
fn escape_at(text: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = text else {
        return None;
    };
    let digit = |digit: &u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_other_bytes_are_other_texts() {
        assert_ne!(text_of(b"\xff\xfea"), text_of(b"\xfd\xfca"));
        assert_ne!(text_of(b"\xff"), text_of(br"\xff"));
        assert_ne!(text_of("\u{fffd}".as_bytes()), text_of(b"\xff"));
        assert_eq!(text_of(br"\xFF \x \xg0"), r"\xFF \x \xg0");
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes in proptest::collection::vec(prop_oneof![
            any::<u8>(), Just(b'\\'), Just(b'x'), Just(b'5'), Just(b'c'), Just(0xff)
        ], 0..40)) {
            prop_assert_eq!(bytes_of(&text_of(&bytes)), bytes);
        }
    }
}
