//! The manual of a reader's command: the registry's text, and its output for a dump when that was last accepted.

use probes::readers::Reader;

/// `(NAME, OUTPUT)` for each accepted output of probes/tests/dumps: see build.rs.
const ACCEPTED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/accepted.rs"));

/// Lines of an accepted output that make an example.
const LINES: usize = 24;

/// Lines of documentation as text.
pub(super) fn joined(lines: &[&str]) -> String {
    let lines = lines.iter().map(|line| line.trim());
    lines.collect::<Vec<_>>().join("\n")
}

/// Text below the options.
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

    use clap::CommandFactory as _;

    use super::super::cli::Shell;
    use super::*;

    /// The page whose table lists the commands. `KLAB_ACCEPT=1` writes the table anew.
    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md");

    #[test]
    fn the_documents_list_the_commands() {
        let mut table = String::from("| command | what it does |\n|---|---|\n");
        for command in Shell::command().get_subcommands() {
            let about = command.get_about().map(ToString::to_string);
            let about = about.unwrap_or_default().replace('|', "\\|");
            let mut names = format!("`{}`", command.get_name());
            for alias in command.get_visible_aliases() {
                names.push_str(&format!(", `{alias}`"));
            }
            if !command.is_hide_set() {
                table.push_str(&format!("| {names} | {about} |\n"));
            }
        }
        let page = std::fs::read_to_string(PAGE).unwrap();
        let start = page.find("| command | what it does |").unwrap();
        let rows = page[start..].split_inclusive('\n');
        let len: usize = rows
            .take_while(|row| row.starts_with('|'))
            .map(str::len)
            .sum();
        let fresh = [&page[..start], &table, &page[start + len..]].concat();
        if std::env::var("KLAB_ACCEPT").as_deref() == Ok("1") {
            std::fs::write(PAGE, &fresh).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(PAGE).unwrap(),
            fresh,
            "KLAB_ACCEPT=1 writes it anew"
        );
    }

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
