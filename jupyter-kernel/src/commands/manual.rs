//! The manual of a reader's command: what the registry says of it, and what it showed of a dump when that was last accepted.

use probes::readers::Reader;

/// `(NAME, OUTPUT)` for each accepted output of probes/tests/dumps: see build.rs.
const ACCEPTED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/accepted.rs"));

/// As much of an accepted output is an example.
const LINES: usize = 24;

/// Lines of documentation as text.
pub(super) fn joined(lines: &[&str]) -> String {
    let lines = lines.iter().map(|line| line.trim());
    lines.collect::<Vec<_>>().join("\n")
}

/// What stands below the options.
pub(super) fn of(reader: &Reader) -> String {
    let mut text = joined(reader.manual.get(1..).unwrap_or_default());
    let name = reader.command;
    let same = ACCEPTED.iter().filter(|(file, _)| {
        *file == name
            || file
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('-'))
    });
    // The shortest name is the simplest example.
    if let Some((_, output)) = same.min_by_key(|(file, _)| file.len()) {
        text.push_str("\n\nExample, of a dump:\n");
        for line in output.lines().take(LINES) {
            text.push_str(format!("  {line}").trim_end());
            text.push('\n');
        }
        if output.lines().count() > LINES {
            text.push_str("  ...\n");
        }
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use probes::readers::READERS;

    use super::*;

    #[test]
    fn every_reader_has_an_example() {
        for reader in READERS.iter().filter(|reader| !reader.reads_all) {
            let manual = of(reader);
            assert!(
                manual.contains(&format!("$ klab {}", reader.command)),
                "{}",
                reader.command
            );
        }
    }
}
