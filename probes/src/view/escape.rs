//! Making what the guest wrote harmless, and numbers readable.

use std::fmt::Write as _;

/// `text` without what could steer a terminal or reorder a line: control and direction characters become `\u{..}`.
///
/// ```
/// assert_eq!(probes::view::clean("a\x1b[31mb"), "a\\u{1b}[31mb");
/// ```
#[must_use]
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let steers = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if c.is_control() || steers {
            // Writing to a String does not fail.
            let _ = write!(out, "{}", c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// `text`, cleaned and safe within HTML or SVG, as content or as an attribute.
///
/// ```
/// assert_eq!(probes::view::escape("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
/// ```
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in clean(text).chars() {
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
/// use probes::view::bytes;
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
