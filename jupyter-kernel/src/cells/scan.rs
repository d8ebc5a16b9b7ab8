//! Brackets, strings and comments of a text that may be half typed.

/// State between brackets, strings and comments.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    Closed,
    /// Something begins at byte `at` and does not end, within `depth` brackets.
    Open {
        depth: usize,
        at: usize,
        what: &'static str,
    },
    /// A bracket at byte `at` closes nothing.
    Wrong {
        at: usize,
    },
}

impl Scan {
    pub(super) fn of(rust: &str) -> Self {
        let mut open = Vec::new();
        let mut at = 0;
        while let Some(c) = rust[at..].chars().next() {
            let rest = &rust[at..];
            let unclosed = |depth, what| Self::Open { depth, at, what };
            let length = match c {
                '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
                '/' if rest.starts_with("/*") => match comment(rest) {
                    Some(length) => length,
                    None => {
                        return unclosed(open.len(), "this comment is not closed: `*/` is missing");
                    }
                },
                '"' => match string(rest) {
                    Some(length) => length,
                    None => return unclosed(0, "this string is not closed: `\"` is missing"),
                },
                'r' if raw_hashes(rest).is_some() => match raw_string(rest) {
                    Some(length) => length,
                    None => return unclosed(0, "this raw string is not closed"),
                },
                '\'' => character(rest),
                c if c.is_alphabetic() || c == '_' => rest
                    .find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(rest.len()),
                '(' | '[' | '{' => {
                    open.push((c, at));
                    1
                }
                ')' | ']' | '}' => {
                    let pair = match c {
                        ')' => '(',
                        ']' => '[',
                        _ => '{',
                    };
                    if open.pop().is_none_or(|(c, _)| c != pair) {
                        return Self::Wrong { at };
                    }
                    1
                }
                c => c.len_utf8(),
            };
            at += length;
        }
        match open.last() {
            None => Self::Closed,
            Some((c, at)) => Self::Open {
                depth: open.len(),
                at: *at,
                what: match c {
                    '(' => "this is not closed: `)` is missing",
                    '[' => "this is not closed: `]` is missing",
                    _ => "this is not closed: `}` is missing",
                },
            },
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

/// Number of `#` between an `r` and a quote, if a raw string begins here.
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
