//! What can be said of a cell's text without compiling it.

use klab_protocol::Completeness;

/// The end of the name that a byte offset is in or behind.
pub(super) fn end_of_name(code: &str, at: usize) -> usize {
    let rest = code.get(at..).unwrap_or_default();
    at + rest
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(rest.len())
}

/// Whether Enter runs the cell or continues it.
pub(super) fn is_complete(code: &str) -> Completeness {
    let first = code.trim_start();
    if first.starts_with("%%") {
        return Completeness::Complete;
    }
    // Commands are lines of their own.
    let rust: String = code
        .lines()
        .map(|line| {
            if line.starts_with(['%', ':']) {
                ""
            } else {
                line
            }
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    match Scan::of(&rust) {
        Scan::Open { depth } => return Completeness::Incomplete("    ".repeat(depth)),
        Scan::Wrong => return Completeness::Invalid,
        Scan::Closed => {}
    }
    match syn::parse_str::<syn::Block>(&format!("{{{rust}}}")) {
        Ok(_) => Completeness::Complete,
        Err(_) if continues(&rust) => Completeness::Incomplete("    ".to_owned()),
        Err(_) => Completeness::Invalid,
    }
}

/// Whether the text ends where something must follow.
fn continues(rust: &str) -> bool {
    let rust = rust.trim_end();
    let operator = rust.ends_with([
        '=', '+', '-', '*', '/', '%', '&', '|', '^', '<', '.', ',', ':', '>',
    ]);
    let word = rust
        .rsplit(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .unwrap_or_default();
    operator
        || [
            "let", "mut", "in", "as", "if", "else", "while", "match", "fn", "use", "for",
        ]
        .contains(&word)
}

/// What brackets, strings and comments say.
#[derive(Debug, PartialEq, Eq)]
enum Scan {
    Closed,
    Open { depth: usize },
    Wrong,
}

impl Scan {
    fn of(rust: &str) -> Self {
        let mut open = Vec::new();
        let mut rest = rust;
        while let Some(c) = rest.chars().next() {
            let length = match c {
                '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
                '/' if rest.starts_with("/*") => match comment(rest) {
                    Some(length) => length,
                    None => return Self::Open { depth: open.len() },
                },
                '"' => match string(rest) {
                    Some(length) => length,
                    None => return Self::Open { depth: 0 },
                },
                'r' if raw_hashes(rest).is_some() => match raw_string(rest) {
                    Some(length) => length,
                    None => return Self::Open { depth: 0 },
                },
                '\'' => character(rest),
                c if c.is_alphabetic() || c == '_' => rest
                    .find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(rest.len()),
                '(' | '[' | '{' => {
                    open.push(c);
                    1
                }
                ')' | ']' | '}' => {
                    let pair = match c {
                        ')' => '(',
                        ']' => '[',
                        _ => '{',
                    };
                    if open.pop() != Some(pair) {
                        return Self::Wrong;
                    }
                    1
                }
                c => c.len_utf8(),
            };
            rest = rest.get(length..).unwrap_or_default();
        }
        if open.is_empty() {
            Self::Closed
        } else {
            Self::Open { depth: open.len() }
        }
    }
}

/// The length of the comment that begins here; comments nest.
fn comment(rest: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        let here = rest.get(at..)?;
        match () {
            () if here.starts_with("/*") => (depth, at) = (depth + 1, at + 2),
            () if here.starts_with("*/") => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return Some(at);
                }
            }
            () => at += here.chars().next()?.len_utf8(),
        }
    }
}

fn string(rest: &str) -> Option<usize> {
    let mut escaped = false;
    let end = rest.char_indices().skip(1).find(|(_, c)| match c {
        '\\' => {
            escaped = !escaped;
            false
        }
        '"' if !escaped => true,
        _ => {
            escaped = false;
            false
        }
    });
    end.map(|(at, _)| at + 1)
}

/// How many `#` stand between an `r` and a quote, if a raw string begins here.
fn raw_hashes(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let quote = after.trim_start_matches('#');
    quote.starts_with('"').then(|| after.len() - quote.len())
}

fn raw_string(rest: &str) -> Option<usize> {
    let hashes = raw_hashes(rest)?;
    let begin = 1 + hashes + 1;
    let close = format!("\"{}", "#".repeat(hashes));
    rest.get(begin..)?
        .find(&close)
        .map(|at| begin + at + close.len())
}

/// The length of the character, or of the quote of a lifetime, that begins here.
fn character(rest: &str) -> usize {
    let mut inner = rest.chars().skip(1);
    match (inner.next(), inner.next()) {
        (Some('\\'), Some(escaped)) => {
            let begin = 2 + escaped.len_utf8();
            rest.get(begin..)
                .and_then(|rest| rest.find('\''))
                .map_or(rest.len(), |at| begin + at + 1)
        }
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_cells_are_complete() {
        for code in [
            "",
            "1 + 1",
            "let x = 1;",
            "fn f<'a>(x: &'a str) -> char { '{' }",
            "let s = r#\"}\"#; // {",
            "struct A;\n/* { /* ( */ */",
            "%ps --tree {",
            "%%sh\nif (",
            ":dep serde = { version = \"1\" }\nuse serde::Serialize;",
            "\"\\\"{\"",
            "'\\u{41}'",
        ] {
            assert_eq!(is_complete(code), Completeness::Complete, "{code}");
        }
    }

    #[test]
    fn what_lacks_an_end_is_incomplete() {
        for (code, indent) in [
            ("fn f() {", "    "),
            ("for x in [1, 2] {\n    if x > 1 {", "        "),
            ("let s = \"abc", ""),
            ("/* what", ""),
            ("let x =", "    "),
            ("println!(\"{}\",", "    "),
            ("v.iter().", "    "),
        ] {
            let wanted = Completeness::Incomplete(indent.to_owned());
            assert_eq!(is_complete(code), wanted, "{code}");
        }
    }

    #[test]
    fn what_no_end_can_mend_is_invalid() {
        for code in ["let 3 = = 4;", "fn f() }", "(]", "1 2 3"] {
            assert_eq!(is_complete(code), Completeness::Invalid, "{code}");
        }
    }

    #[test]
    fn the_end_of_a_name_is_found_from_within() {
        assert_eq!(end_of_name("a.len() + 1", 3), 5);
    }
}
