//! Sentences in the words of the place where they are read. The library writes `klab tasks` for the command; a notebook has
//! it as `%tasks`. It writes `guest.paused(..)` for the way to a still guest; a shell has `klab pause`.

use clap::{Command, CommandFactory as _};

use super::cli::Line;

/// Beginning of the name of a command in the library's texts.
const SHELL: &str = "`klab ";

/// A sentence as a notebook's reader wants it. Commands that no cell has stay the shell's.
pub(crate) fn in_a_cell(text: &str) -> String {
    if !text.contains(SHELL) {
        return text.to_owned();
    }
    let cell = Line::command();
    let mut parts = text.split(SHELL);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let name = part
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .next();
        out.push_str(match name.and_then(|name| sign(&cell, name)) {
            Some(sign) => sign,
            None => SHELL,
        });
        out.push_str(part);
    }
    out
}

/// Sign before a command's name in a cell, behind a backquote: `%`, or `%guest ` for what a shell has of its own.
fn sign(cell: &Command, name: &str) -> Option<&'static str> {
    let has = |of: &Command| of.find_subcommand(name).is_some();
    match () {
        () if has(cell) => Some("`%"),
        () if cell.find_subcommand("guest").is_some_and(has) => Some("`%guest "),
        () => None,
    }
}

/// Tells whether a cell has a command of this name.
pub(crate) fn is_command(name: &str) -> bool {
    Line::command().find_subcommand(name).is_some()
}

/// The `%` line that a line of a cell means: as it is printed for a shell, or as people ask for help.
pub(crate) fn line_of(line: &str) -> Option<String> {
    let line = line.trim();
    let shell = line.strip_prefix("$ ").unwrap_or(line).trim_start();
    if let Some(words) = ["klab ", "%klab "]
        .iter()
        .find_map(|program| shell.strip_prefix(program))
    {
        let name = words.split_whitespace().next().unwrap_or_default();
        let sign = sign(&Line::command(), name).map_or("%", |sign| &sign[1..]);
        return Some(format!("{sign}{words}"));
    }
    let asked = line.strip_prefix("%help ").or_else(|| {
        (line.starts_with('?') || line.starts_with('%') && line.ends_with('?')).then_some(line)
    });
    let name = asked.map(|name| name.trim_matches(['%', '?', ' ']));
    match name.filter(|name| is_command(name)) {
        Some(name) => Some(format!("%{name} --help")),
        None => line.starts_with('%').then(|| line.to_owned()),
    }
}

/// A sentence as a shell's reader wants it.
pub(crate) fn in_a_shell(text: &str) -> String {
    let words = [
        (
            "use guest.paused(|guest| ..) for a still guest",
            "`klab pause` holds the guest still",
        ),
        ("`.within(..)` gives it", "`--within SECONDS` gives it"),
        ("`.shell(..)` runs what", "`-- COMMAND` runs what"),
    ];
    let mut text = text.to_owned();
    for (cell, shell) in words {
        text = text.replace(cell, shell);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_it_means() {
        for (line, meant) in [
            ("  %ps --tree", "%ps --tree"),
            ("klab ps", "%ps"),
            ("$ klab up x", "%guest up x"),
            ("%klab up", "%guest up"),
            ("%help ps", "%ps --help"),
            ("%ps?", "%ps --help"),
            ("?ps", "%ps --help"),
            ("%help nosuch", "%help nosuch"),
            ("%p a ? b : c", "%p a ? b : c"),
        ] {
            assert_eq!(line_of(line).as_deref(), Some(meant), "{line}");
        }
        for rust in ["klab::x()", "ps?", "?nosuch", "let a = 1 % 2;", ""] {
            assert_eq!(line_of(rust), None, "{rust}");
        }
    }

    #[test]
    fn each_reader_has_its_own_words() {
        let said = "there is no task with pid 7: `klab tasks` lists those there are";
        assert_eq!(in_a_shell(said), said);
        let cell = "there is no task with pid 7: `%tasks` lists those there are";
        assert_eq!(in_a_cell(said), cell);
        let machine = "`klab up x` starts it; `klab nf-hooks`, `klab sym NAME`";
        assert_eq!(
            in_a_cell(machine),
            "`%guest up x` starts it; `%nf-hooks`, `%sym NAME`"
        );
        let torn = "tasks changed while it was read (16 tries): use guest.paused(|guest| ..) for a still guest";
        assert!(in_a_shell(torn).ends_with("`klab pause` holds the guest still"));
        assert_eq!(in_a_cell(torn), torn);
    }
}
