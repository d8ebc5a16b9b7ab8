//! Cells that were executed in this session.

use jupyter_protocol::messaging::{HistoryEntry, HistoryReply, HistoryRequest};

/// The cells of this session, in order.
#[derive(Debug, Default)]
pub(crate) struct History(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    count: usize,
    input: String,
    output: String,
}

impl History {
    pub(crate) fn push(&mut self, count: usize, input: &str, output: &str) {
        self.0.push(Entry {
            count,
            input: input.to_owned(),
            output: output.to_owned(),
        });
    }

    pub(crate) fn reply(&self, request: &HistoryRequest) -> HistoryReply {
        let last = |entries: &mut Vec<&Entry>, n: i32| {
            let n = usize::try_from(n).unwrap_or(0);
            entries.drain(..entries.len().saturating_sub(n));
        };
        let mut found: Vec<&Entry> = self.0.iter().collect();
        let with_output = match request {
            HistoryRequest::Range {
                session,
                start,
                stop,
                output,
                ..
            } => {
                // Sessions count back from this one, which is 0; none is kept but this.
                if session.is_some_and(|session| session != 0) {
                    found.clear();
                }
                let at = |bound: i32| usize::try_from(bound).unwrap_or(0);
                found.retain(|entry| entry.count >= at(*start) && entry.count < at(*stop));
                *output
            }
            HistoryRequest::Tail { n, output, .. } => {
                last(&mut found, *n);
                *output
            }
            HistoryRequest::Search {
                pattern,
                unique,
                output,
                n,
                ..
            } => {
                found.retain(|entry| glob(pattern, &entry.input));
                if *unique {
                    let mut seen = std::collections::HashSet::new();
                    found.reverse();
                    found.retain(|entry| seen.insert(entry.input.as_str()));
                    found.reverse();
                }
                last(&mut found, *n);
                *output
            }
        };
        let entry = |entry: &Entry| {
            let input = entry.input.clone();
            if with_output {
                HistoryEntry::InputOutput(0, entry.count, (input, entry.output.clone()))
            } else {
                HistoryEntry::Input(0, entry.count, input)
            }
        };
        HistoryReply::new(found.into_iter().map(entry).collect())
    }
}

/// Matches `*` (any text) and `?` (any character), over the whole text.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    p = at + 1;
                    t = from + 1;
                    star = Some((at, t));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(request: &HistoryRequest) -> Vec<usize> {
        let mut history = History::default();
        for (count, input) in [(1, "let a = 1;"), (2, "a"), (3, "a"), (4, "let b = 2;")] {
            history.push(count, input, "");
        }
        let entries = history.reply(request).history.into_iter();
        entries
            .map(|entry| match entry {
                HistoryEntry::Input(_, count, _) | HistoryEntry::InputOutput(_, count, _) => count,
            })
            .collect()
    }

    #[test]
    fn each_way_to_ask() {
        let (output, raw, session) = (false, true, Some(0));
        assert_eq!(counts(&HistoryRequest::Tail { n: 2, output, raw }), [3, 4]);
        assert_eq!(
            counts(&HistoryRequest::Range {
                session,
                start: 1,
                stop: 3,
                output,
                raw
            }),
            [1, 2]
        );
        let search = |pattern: &str, unique| HistoryRequest::Search {
            pattern: pattern.to_owned(),
            unique,
            output,
            raw,
            n: 9,
        };
        assert_eq!(counts(&search("let*", false)), [1, 4]);
        assert_eq!(counts(&search("?", true)), [3]);
        assert_eq!(counts(&search("*=*;", false)), [1, 4]);
    }
}
