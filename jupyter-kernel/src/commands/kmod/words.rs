//! The words of the compiler, the linker and the kernel about a cell's module, as the cell's user reads them.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use probes::printk::{Log, LogRecord};
use probes::view::View;

/// Records of the log that are shown at most.
const SHOWN: usize = 100;

/// The compiler's words, which name the cell instead of a file in the build's folder, and Rust's names as Rust writes them.
pub(super) fn of_the_cell(words: &str) -> String {
    let lines = words.lines().map(|line| {
        let line = match line.split_once("--> ") {
            Some((before, place)) if before.trim().is_empty() => place
                .split_once(".rs:")
                .filter(|(file, _)| !file.contains('/') || file.starts_with("/module/"))
                .map_or_else(
                    || line.to_owned(),
                    |(_, at)| format!("{before}--> cell:{at}"),
                ),
            _ => line.to_owned(),
        };
        exported(&demangled(&line))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The line of modpost, which calls a symbol undefined that the kernel has and does not give to modules.
fn exported(line: &str) -> String {
    match line.strip_suffix(" undefined!") {
        Some(rest) if rest.contains("modpost") => {
            format!("{rest} is not exported to modules (or is not there at all: `sym` looks it up)")
        }
        _ => line.to_owned(),
    }
}

/// The text with each mangled name of Rust's as it was written.
pub(super) fn demangled(text: &str) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$');
    let (mut out, mut rest) = (String::new(), text);
    while let Some(start) = rest.find(is_name) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !is_name(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        out.push_str(before);
        match rustc_demangle::try_demangle(word) {
            // Without the hash of its crate.
            Ok(name) => out.push_str(&format!("{name:#}")),
            Err(_) => out.push_str(word),
        }
        rest = after;
    }
    out + rest
}

/// The parameters as the kernel's command line parser takes them apart again: one with a blank in quotes.
///
/// # Errors
/// For a quote that the parser would take for its own, and for a blank in a name.
pub(super) fn parameters(words: &[String]) -> Result<String> {
    let mut all = Vec::new();
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let blank = word.chars().any(char::is_whitespace);
        if word.matches('"').count() % 2 == 1 || blank && word.contains('"') {
            bail!(
                "the parameter `{word}` cannot be given to the kernel: it has no way to write a \" within quotes"
            );
        }
        if key.chars().any(char::is_whitespace) {
            bail!(
                "the parameter `{word}` has a blank in its name: write NAME=VALUE, quotes around a value with blanks"
            );
        }
        all.push(if blank {
            format!("{key}=\"{value}\"")
        } else {
            word.clone()
        });
    }
    Ok(all.join(" "))
}

/// Text of the kernel's log since `next`, the number that its next record was to have: the end of it, and what of it is
/// not shown.
pub(super) fn since(log: Log, next: u64) -> (String, Log) {
    let new: Vec<LogRecord> = log
        .into_iter()
        .filter(|record| record.seq >= next)
        .collect();
    let mut note = String::new();
    if let Some(first) = new.first().filter(|first| first.seq > next) {
        let lost = first.seq - next;
        let _ = writeln!(
            note,
            "({lost} record{} before these {} overwritten before they could be read)",
            if lost == 1 { "" } else { "s" },
            if lost == 1 { "was" } else { "were" },
        );
    }
    let log: Log = new.into_iter().collect();
    let more = log.len().saturating_sub(SHOWN);
    if more > 0 {
        let _ = writeln!(
            note,
            "({more} more records before these {SHOWN}: `log` has them)"
        );
    }
    let shown: Vec<LogRecord> = log.into_iter().skip(more).collect();
    (note, shown.into_iter().collect())
}

/// The log's report of a panic or an oops, in one line: the place and the message.
pub(super) fn of_the_fault(log: &Log) -> Option<String> {
    let records: &[LogRecord] = log;
    let at = records
        .iter()
        .position(|record| record.text.contains("panicked at "));
    if let Some(at) = at {
        let place = records[at].text.split("panicked at ").nth(1)?;
        let place = place.split_once(".rs:").map_or_else(
            || place.to_owned(),
            |(file, at)| match file.contains('/') {
                true => format!("{file}.rs:{at}"),
                false => format!("cell:{at}"),
            },
        );
        let mut words = vec![place.trim().to_owned()];
        // A record for each line of the message, or all of them in one.
        let next = records.get(at + 1).filter(|_| !words[0].contains('\n'));
        words.extend(next.map(|record| record.text.trim().to_owned()));
        return Some(format!(
            "it panicked at {}",
            words.join(" ").replace('\n', " ")
        ));
    }
    let oops = [
        "BUG: ",
        "Oops: ",
        "kernel BUG at",
        "general protection fault",
    ];
    records
        .iter()
        .find(|record| oops.iter().any(|word| record.text.contains(word)))
        .map(|record| record.text.clone())
}

/// Note and records as text.
pub(super) fn text(note: &str, log: &Log) -> String {
    format!("{note}{}", demangled(&log.text()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use probes::printk::Caller;

    fn log_of(records: Vec<LogRecord>) -> Log {
        records.into_iter().collect()
    }

    fn record(seq: u64, text: &str) -> LogRecord {
        LogRecord {
            open: false,
            caller2: None,
            comm: None,
            seq,
            ts_nsec: seq,
            level: 6,
            facility: 0,
            cont: false,
            caller: Caller::Task(1),
            text: text.to_owned(),
            subsystem: String::new(),
            device: String::new(),
        }
    }

    fn words(words: &[&str]) -> Result<String> {
        parameters(
            &words
                .iter()
                .map(|&word| word.to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn parameters_keep_their_blanks() {
        assert_eq!(words(&["answer=9 8", "b=1"]).unwrap(), "answer=\"9 8\" b=1");
        assert_eq!(words(&["a=-5", "flag"]).unwrap(), "a=-5 flag");
        assert_eq!(
            words(&["a=x\"y z\"w"])
                .unwrap_err()
                .to_string()
                .matches("no way")
                .count(),
            1
        );
        assert_eq!(words(&["a=\"x\""]).unwrap(), "a=\"x\"");
        assert!(words(&["a=\"x"]).is_err());
        assert!(words(&["a b=1"]).is_err());
    }

    #[test]
    fn places_and_names_are_the_cells() {
        assert_eq!(
            of_the_cell(
                "error: x\n  --> /module/gc.rs:3:5\n  --> gc.rs:4:1\n ::: rust/kernel/lib.rs:1:1"
            ),
            "error: x\n  --> cell:3:5\n  --> cell:4:1\n ::: rust/kernel/lib.rs:1:1"
        );
        assert_eq!(
            of_the_cell("  --> rust/kernel/lib.rs:3:5"),
            "  --> rust/kernel/lib.rs:3:5"
        );
        assert_eq!(
            of_the_cell(
                "ERROR: modpost: \"_RNvNtCsb5MLIFMWygY_6kernel5print11call_printk\" [gc.ko] undefined!"
            ),
            "ERROR: modpost: \"kernel::print::call_printk\" [gc.ko] is not exported to modules (or is not there at all: \
             `sym` looks it up)"
        );
    }

    #[test]
    fn what_of_the_log_is_not_shown_is_counted() {
        let (note, log) = since(log_of(vec![record(4, "a"), record(5, "b")]), 5);
        assert_eq!((note.as_str(), log.len(), log[0].seq), ("", 1, 5));
        let (note, _) = since(log_of(vec![record(9, "a")]), 5);
        assert!(
            note.contains("4 records before these were overwritten"),
            "{note}"
        );
        let many = (5..305).map(|seq| record(seq, "x")).collect::<Vec<_>>();
        let (note, log) = since(log_of(many), 5);
        assert!(note.contains("200 more records"), "{note}");
        assert_eq!((log.len(), log[0].seq), (100, 205));
        assert_eq!(since(log_of(vec![]), 5).0, "");
    }

    #[test]
    fn a_panic_is_named_by_its_place_and_message() {
        let log = log_of(vec![
            record(1, "gc: before"),
            record(2, "rust_kernel: panicked at gcpanic.rs:13:83:"),
            record(3, "called `Option::unwrap()` on a `None` value"),
            record(4, "------------[ cut here ]------------"),
        ]);
        assert_eq!(
            of_the_fault(&log).unwrap(),
            "it panicked at cell:13:83: called `Option::unwrap()` on a `None` value"
        );
        let log = log_of(vec![record(
            1,
            "BUG: kernel NULL pointer dereference, address: 0",
        )]);
        assert!(of_the_fault(&log).unwrap().starts_with("BUG: kernel NULL"));
        assert_eq!(of_the_fault(&log_of(vec![record(1, "gc: fine")])), None);
    }
}
