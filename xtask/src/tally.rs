//! Sums of the counts of the test runners.

use std::fmt;
use std::ops::AddAssign;

/// Counts of tests that passed, failed and were skipped.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// Tests of those that passed which did so only when they were run again.
    pub(crate) again: u64,
}

impl Tally {
    /// One check that passed or failed as a whole.
    pub(crate) fn one(passed: bool) -> Self {
        Self {
            passed: u64::from(passed),
            failed: u64::from(!passed),
            ..Self::default()
        }
    }

    /// The same, after so many of the failed were run again and passed.
    pub(crate) fn passed_again(mut self, count: u64) -> Self {
        self.passed += count;
        self.failed -= count;
        self.again += count;
        self
    }

    /// The counts in a runner's closing line, if this is one: cargo's (`test result: ok. 3 passed; 0 failed; ..`),
    /// pytest's (`== 1 failed, 3 passed in 0.12s ==`), or the plain `3 passed, 1 failed`.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let line = plain(line);
        let line = line.trim().trim_matches('=').trim();
        let counts = match line.strip_prefix("test result: ") {
            Some(rest) => rest.split_once(". ")?.1,
            None => line.split_once(" in ").map_or(line, |(counts, _)| counts),
        };
        let mut tally = Self::default();
        let mut known = false;
        for part in counts.split([';', ',']) {
            let Some((count, word)) = part.trim().split_once(' ') else {
                continue;
            };
            let Ok(count) = count.parse::<u64>() else {
                // `finished in 0.00s`, at the end of cargo's.
                if known {
                    continue;
                }
                return None;
            };
            match word {
                "passed" | "xfailed" => tally.passed += count,
                "failed" | "error" | "errors" | "xpassed" => tally.failed += count,
                "skipped" | "ignored" => tally.skipped += count,
                "measured" | "filtered out" | "deselected" | "warning" | "warnings"
                | "subtests passed" => {}
                _ => return None,
            }
            known = true;
        }
        known.then_some(tally)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.again += other.again;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        if self.again > 0 {
            write!(f, ", {} ONLY WHEN RUN AGAIN", self.again)?;
        }
        Ok(())
    }
}

/// The line without its colours.
fn plain(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Option<Tally> {
        Some(Tally {
            passed,
            failed,
            skipped,
            again: 0,
        })
    }

    #[test]
    fn what_passes_the_second_time_is_told() {
        let tally = tally(5, 2, 0).unwrap().passed_again(2);
        assert_eq!(
            tally.to_string(),
            "7 passed, 0 failed, 2 ONLY WHEN RUN AGAIN"
        );
    }

    #[test]
    fn the_runners_closing_lines_are_read() {
        let cargo = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s";
        assert_eq!(Tally::parse(cargo), tally(3, 2, 1));
        let coloured = "test result: \u{1b}[32mok\u{1b}[m. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s";
        assert_eq!(Tally::parse(coloured), tally(7, 0, 0));
        assert_eq!(
            Tally::parse("==== 1 failed, 3 passed, 2 skipped, 1 error in 12.34s ===="),
            tally(3, 2, 2)
        );
        assert_eq!(Tally::parse("5 passed in 0.12s"), tally(5, 0, 0));
        assert_eq!(
            Tally::parse("2 passed, 1 warning in 61.20s (0:01:01)"),
            tally(2, 0, 0)
        );
        assert_eq!(Tally::parse("6 passed, 0 failed"), tally(6, 0, 0));
    }

    #[test]
    fn other_lines_are_not() {
        for line in [
            "",
            "running 3 tests",
            "test a::b ... ok",
            "3 files changed, 2 insertions",
            "Compiling 3 crates",
            "no tests ran in 0.01s",
            "12",
        ] {
            assert_eq!(Tally::parse(line), None, "{line}");
        }
    }
}
