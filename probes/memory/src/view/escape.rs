//! Making what the guest wrote harmless, and numbers readable.

use std::fmt::Write as _;

/// `text` without what could steer a terminal or reorder a line: control and direction characters become `\u{..}`. A
/// backslash is text, but where it would read as the beginning of such an escape it is one itself, `\u{5c}`: what is shown
/// alike is alike. Not for what was cleaned before.
///
/// ```
/// assert_eq!(klab_memory::view::clean("a\x1b[31mb"), "a\\u{1b}[31mb");
/// assert_eq!(klab_memory::view::clean(r"a\u{1b}[31mb"), r"a\u{5c}u{1b}[31mb");
/// ```
#[must_use]
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        let steers = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if c.is_control() || steers {
            // Writing to a String does not fail.
            let _ = write!(out, "{}", c.escape_unicode());
        } else if c == '\\' && is_escape(&text[at..]) {
            out.push_str("\\u{5c}");
        } else {
            out.push(c);
        }
    }
    out
}

/// Tells whether a text begins with `\u{..}`.
fn is_escape(text: &str) -> bool {
    let Some((digits, _)) = text
        .strip_prefix("\\u{")
        .and_then(|rest| rest.split_once('}'))
    else {
        return false;
    };
    (1..=6).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_hexdigit())
}

/// `text`, cleaned and safe within HTML or SVG, as content or as an attribute.
///
/// ```
/// assert_eq!(klab_memory::view::escape("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
/// ```
#[must_use]
pub fn escape(text: &str) -> String {
    markup(&clean(text))
}

/// Text that was cleaned before, safe within HTML or SVG.
pub(super) fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A number of bytes in the unit that fits: exact where it is a whole number, else with one decimal.
///
/// ```
/// use klab_memory::view::bytes;
/// assert_eq!([bytes(4096), bytes(1536), bytes(17), bytes(127 << 40)], ["4 KiB", "1.5 KiB", "17 B", "127 TiB"]);
/// ```
#[must_use]
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (n.max(1).ilog2() / 10) as usize;
    let size = 1u64 << (10 * unit);
    let whole = n / size;
    if n.is_multiple_of(size) {
        return format!("{whole} {}", UNITS[unit]);
    }
    // Tenths, rounded down: a size is never shown greater than it is.
    let tenths = u128::from(n % size) * 10 / u128::from(size);
    format!("{whole}.{tenths} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Undoes [`clean`].
    fn original(mut shown: &str) -> String {
        let mut out = String::new();
        while let Some(c) = shown.chars().next() {
            if is_escape(shown)
                && let Some((digits, rest)) = shown[3..].split_once('}')
            {
                let c = u32::from_str_radix(digits, 16)
                    .ok()
                    .and_then(char::from_u32);
                out.extend(c);
                shown = rest;
            } else {
                out.push(c);
                shown = &shown[c.len_utf8()..];
            }
        }
        out
    }

    #[test]
    fn a_name_cannot_look_like_another() {
        assert_ne!(clean("a\nb"), clean(r"a\u{a}b"));
        assert_eq!(
            clean(r"C:\dir \u{} \u{g} \u{1234567}"),
            r"C:\dir \u{} \u{g} \u{1234567}"
        );
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_read_back(text in "[\\\\u{}a5c\n\u{202e}é]{0,24}") {
            let shown = clean(&text);
            let steers = shown.contains(['\n', '\u{202e}']);
            prop_assert!(!steers);
            prop_assert_eq!(original(&shown), text);
        }
    }
}
