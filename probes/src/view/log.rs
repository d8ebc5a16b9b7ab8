//! The kernel's log.

use std::fmt::Write as _;

use super::{View, clean, escape};
use crate::kernel::readable;
use crate::printk::{Log, LogRecord};

impl View for Log {
    fn text(&self) -> String {
        let mut out = String::new();
        for record in self.iter() {
            out.push_str(&clean_lines(record));
            out.push('\n');
        }
        out
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
                escape_lines(record)
            );
        }
        out.push_str("</pre>");
        Some(out)
    }
}

/// One record as `dmesg` prints it: further lines of a text begin below its first.
fn lines(record: &LogRecord) -> impl Iterator<Item = String> {
    let (s, us) = (
        record.ts_nsec / 1_000_000_000,
        record.ts_nsec / 1000 % 1_000_000,
    );
    let stamp = format!("[{s:5}.{us:06}] ");
    let blank = " ".repeat(stamp.len());
    record
        .text
        .split('\n')
        .enumerate()
        .map(move |(i, line)| format!("{}{line}", if i == 0 { &stamp } else { &blank }))
}

fn clean_lines(record: &LogRecord) -> String {
    lines(record)
        .map(|line| clean(&readable(&line)))
        .collect::<Vec<_>>()
        .join("\n")
}

fn escape_lines(record: &LogRecord) -> String {
    lines(record)
        .map(|line| escape(&readable(&line)))
        .collect::<Vec<_>>()
        .join("\n")
}

crate::displays!(Log);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::printk::Caller;

    #[test]
    fn a_record_is_printed_as_dmesg_does_and_steers_nothing() {
        let record = LogRecord {
            seq: 7,
            ts_nsec: 1_234_567_890,
            level: 3,
            facility: 0,
            cont: false,
            caller: Caller::Task(1),
            text: "<b>one\x1b[1m\ntwo".to_owned(),
            subsystem: String::new(),
            device: String::new(),
        };
        let log = crate::Listing::from(vec![record]);
        assert_eq!(
            log.text(),
            "[    1.234567] <b>one\\u{1b}[1m\n               two\n"
        );
        assert!(log.html().unwrap().contains("&lt;b&gt;one"));
    }
}
