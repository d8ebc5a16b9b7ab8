//! The kernel's log.

use std::fmt::Write as _;

use crate::Missing;
use crate::core::printk::{Log, LogRecord, Prefix, facility_name, level_name};
use crate::kernel::readable;
use crate::view::{View, clean, escape, missing_text};

impl View for Log {
    fn text(&self) -> String {
        let mut out = String::new();
        for record in self.iter() {
            out.push_str(&clean_lines(record, self.prefix));
            out.push('\n');
        }
        out.push_str(&notes(self));
        out
    }

    fn missing(&self) -> Vec<Missing> {
        self.records.missing.clone()
    }

    fn html(&self) -> Option<String> {
        let mut out = String::from(
            "<pre style=\"font-family:monospace;font-size:12px;line-height:1.3;max-height:32em;overflow:auto\">",
        );
        for record in self.iter() {
            // Emergencies to errors, and warnings, stand out as `dmesg --color` makes them.
            let style = match record.level {
                0..=3 => "color:#c2410c;font-weight:bold",
                4 => "color:#b7791f",
                _ => "",
            };
            // Writing to a String does not fail.
            let _ = writeln!(
                out,
                "<span style=\"{style}\">{}</span>",
                escape_lines(record, self.prefix)
            );
        }
        out.push_str(&escape(&notes(self)));
        out.push_str("</pre>");
        Some(out)
    }
}

/// The thing that is not there.
fn notes(log: &Log) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    if log.overwritten > 0 {
        let _ = writeln!(out, "{} older records are overwritten", log.overwritten);
    }
    let lost: u64 = log.holes.iter().map(|(_, lost)| lost).sum();
    if lost > 0 {
        let _ = writeln!(
            out,
            "{lost} records in between were overwritten while this was read, or were not written to their end"
        );
    }
    out + &missing_text(&log.records.missing)
}

/// One record as `dmesg` prints it: further lines of a text begin below its first.
fn lines(record: &LogRecord, prefix: Prefix) -> Vec<String> {
    let stamp = stamp(record, prefix);
    let blank = " ".repeat(stamp.chars().count());
    let open = if record.open { " <line not ended>" } else { "" };
    format!("{}{open}", record.text)
        .split('\n')
        .enumerate()
        .map(|(i, line)| format!("{}{line}", if i == 0 { &stamp } else { &blank }))
        .collect()
}

/// Text before a record's: facility and level as by `dmesg -x`, the time, the writer as CONFIG_PRINTK_CALLER has it,
/// with what the kernel keeps of it besides.
fn stamp(record: &LogRecord, prefix: Prefix) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    if prefix.level {
        let (facility, level) = (facility_name(record.facility), level_name(record.level));
        let _ = write!(out, "{facility:<6}:{level:<6}: ");
    }
    let (s, us) = (
        record.ts_nsec / 1_000_000_000,
        record.ts_nsec / 1000 % 1_000_000,
    );
    let _ = write!(out, "[{s:5}.{us:06}]");
    if prefix.caller {
        let _ = write!(out, "[{:>6}", record.caller.to_string());
        if let Some(other) = record.caller2 {
            let _ = write!(out, " {other}");
        }
        if let Some(comm) = &record.comm {
            let _ = write!(out, " {comm}");
        }
        out.push(']');
    }
    out.push(' ');
    out
}

fn clean_lines(record: &LogRecord, prefix: Prefix) -> String {
    lines(record, prefix)
        .iter()
        .map(|line| clean(&readable(line)))
        .collect::<Vec<_>>()
        .join("\n")
}

fn escape_lines(record: &LogRecord, prefix: Prefix) -> String {
    lines(record, prefix)
        .iter()
        .map(|line| escape(&readable(line)))
        .collect::<Vec<_>>()
        .join("\n")
}

crate::displays!(Log);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::printk::Caller;

    #[test]
    fn a_record_is_printed_as_dmesg_does_and_steers_nothing() {
        let record = LogRecord {
            seq: 7,
            ts_nsec: 1_234_567_890,
            level: 3,
            facility: 0,
            cont: false,
            open: false,
            caller: Caller::Task(1),
            caller2: None,
            comm: None,
            text: "<b>one\x1b[1m\ntwo".to_owned(),
            subsystem: String::new(),
            device: String::new(),
        };
        let last = LogRecord {
            seq: 10,
            open: true,
            ..record.clone()
        };
        let log: Log = [record.clone()].into_iter().collect();
        assert_eq!(
            log.text(),
            "[    1.234567] <b>one\\u{1b}[1m\n               two\n"
        );
        assert!(log.html().unwrap().contains("&lt;b&gt;one"));
        let mut log: Log = [record.clone(), last].into_iter().collect();
        log.overwritten = 7;
        let text = log.text();
        assert!(
            text.contains("two <line not ended>\n7 older records"),
            "{text}"
        );
        assert!(text.contains("\n2 records in between"), "{text}");
        // Records that are not asked for are no holes.
        let worse = log.clone().at_least(2);
        assert!(worse.is_empty() && worse.text().contains("\n2 records in between"));
        assert_eq!(log.clone().at_least(3).len(), 2);
        let tail = log.tail(1);
        assert_eq!((tail.overwritten, tail.holes.len()), (0, 0));
        // What comes of `show`.
        let whose = LogRecord {
            facility: 3,
            caller2: Some(Caller::Cpu(1)),
            comm: Some("a\nb".to_owned()),
            ..record.clone()
        };
        let mut log: Log = [record, whose].into_iter().collect();
        (log.prefix.level, log.prefix.caller) = (true, true);
        let text = log.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "kern  :err   : [    1.234567][    T1] <b>one\\u{1b}[1m"
        );
        assert_eq!(lines[1], format!("{}two", " ".repeat(38)));
        assert!(lines[2].starts_with("daemon:err   : [    1.234567][    T1 C1 a\\u{a}b] <b>one"));
    }
}
