//! The failed tests of a program, as its runner reports them, and their output.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Lines of a failed test's output that are kept: the last ones, since a panic ends it.
const WORDS: usize = 12;

/// The failed tests of a program, gathered line by line.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// The names as the runner knows them.
    pub(crate) names: BTreeSet<String>,
    words: BTreeMap<String, VecDeque<String>>,
    /// Test programs of cargo's that have begun, less those that have said how they ended: one that dies says nothing.
    pub(crate) open: i64,
    /// The test whose output these lines are; the trace of its panic is left out.
    of: Option<(String, bool)>,
}

impl Failures {
    /// Takes the next line: cargo's `test NAME ... FAILED` and `---- NAME stdout ----`, pytest's `FAILED FILE::NAME - WHY`, and
    /// `LESSON.md FAILED`.
    pub(crate) fn line(&mut self, line: &str) {
        if line.starts_with("running ") && (line.ends_with(" tests") || line.ends_with(" test")) {
            self.open += 1;
        } else if line.starts_with("test result: ") {
            self.open -= 1;
        }
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            // Output of a test's programs may stand within the line of its verdict.
            self.names.insert(name.to_owned());
            self.of = Some((name.to_owned(), true));
            return;
        }
        let failed = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"));
        if let Some(name) = failed {
            // A test that is expected to panic has that behind its name.
            let name = name.trim_end_matches(" - should panic");
            self.names.insert(name.to_owned());
            return;
        }
        let failed = line
            .strip_prefix("FAILED ")
            .or_else(|| line.strip_prefix("ERROR "));
        if let Some(rest) = failed.filter(|rest| rest.contains(".py::")) {
            // A parameter may have a dash, too.
            let end = rest
                .find("] - ")
                .map(|at| at + 1)
                .or_else(|| rest.find(" - "));
            let (name, why) = rest.split_at(end.unwrap_or(rest.len()));
            let why = why.trim_start_matches(" - ");
            self.names.insert(name.to_owned());
            self.words
                .entry(name.to_owned())
                .or_default()
                .push_back(why.to_owned());
            return;
        }
        let mut parts = line.split_whitespace();
        if let (Some(lesson), Some("FAILED")) = (parts.next(), parts.next())
            && lesson.ends_with(".md")
        {
            self.names.insert(lesson.to_owned());
            return;
        }
        if line == "failures:" || line.starts_with("test result:") {
            self.of = None;
        }
        if let Some((name, listens)) = &mut self.of {
            *listens &= line != "stack backtrace:";
            let words = self.words.entry(name.clone()).or_default();
            if *listens && !line.is_empty() {
                words.push_back(line.to_owned());
                if words.len() > WORDS {
                    words.pop_front();
                }
            }
        }
    }

    /// Output of each failed test.
    pub(crate) fn said(&self, stage: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for name in &self.names {
            lines.push(format!("{stage}: {name} failed"));
            let words = self.words.get(name).into_iter().flatten();
            lines.extend(words.map(|line| format!("    {line}")));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Failures {
        let mut failures = Failures::default();
        lines.iter().for_each(|line| failures.line(line));
        failures
    }

    #[test]
    fn cargos_are_known_with_their_words() {
        let failures = of(&[
            "test net::a ... ok",
            "test net::b ... FAILED",
            "test net::c - should panic ... FAILED",
            "failures:",
            "",
            "---- net::b stdout ----",
            "",
            "thread 'net::b' panicked at tests/live/net.rs:7:5:",
            "assertion failed: x",
            "stack backtrace:",
            "   0: rust_begin_unwind",
            "",
            "failures:",
            "    net::b",
        ]);
        assert_eq!(
            failures.names.iter().collect::<Vec<_>>(),
            ["net::b", "net::c"]
        );
        assert_eq!(
            failures.said("live"),
            [
                "live: net::b failed",
                "    thread 'net::b' panicked at tests/live/net.rs:7:5:",
                "    assertion failed: x",
                "live: net::c failed"
            ]
        );
    }

    #[test]
    fn the_words_kept_are_the_last() {
        let talk: Vec<String> = (0..40).map(|i| format!("round {i}")).collect();
        let mut failures = of(&["---- net::b stdout ----"]);
        talk.iter().for_each(|line| failures.line(line));
        failures.line("thread 'net::b' panicked at tests/live/net.rs:7:5:");
        let said = failures.said("live");
        assert_eq!(said.len(), 1 + WORDS);
        assert!(said[WORDS].contains("panicked"), "{said:?}");
        assert!(said[1].ends_with("round 29"), "{said:?}");
    }

    #[test]
    fn a_program_that_dies_stays_open() {
        let died = ["running 2 tests", "test a ... FAILED", "running 1 test"];
        let ended = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(of(&[died[0], died[1], died[2], ended]).open, 1);
        assert_eq!(of(&[died[0], ended]).open, 0);
    }

    #[test]
    fn pythons_and_lessons_are_known() {
        let failures = of(&[
            "FAILED jupyter-kernel/tests/test_a.py::test_b[x - y] - assert 1 == 2",
            "FAILED jupyter-kernel/tests/test_a.py::test_c",
            "ERROR: no such file",
            "03-memory.md                             FAILED   9 cells  3.0 s",
            "04-tasks.md                              ok       9 cells  3.0 s",
        ]);
        assert_eq!(failures.names.len(), 3, "{:?}", failures.names);
        assert!(failures.names.contains("03-memory.md"));
        assert!(
            failures
                .names
                .contains("jupyter-kernel/tests/test_a.py::test_b[x - y]")
        );
        assert_eq!(failures.said("kernel")[0], "kernel: 03-memory.md failed");
    }
}
