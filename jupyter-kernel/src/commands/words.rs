//! The words of where a sentence is read. The library writes `klab tasks` for the command; a notebook has it as `%tasks`. It
//! writes `guest.paused(..)` for the way to a still guest; a shell has `klab pause`.

use clap::CommandFactory as _;

use super::cli::Line;

/// How the library begins the name of a command.
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
        let is_of_cell = name.is_some_and(|name| cell.find_subcommand(name).is_some());
        out.push_str(if is_of_cell { "`%" } else { SHELL });
        out.push_str(part);
    }
    out
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
    fn each_reader_has_its_own_words() {
        let said = "there is no task with pid 7: `klab tasks` lists those there are";
        assert_eq!(in_a_shell(said), said);
        let cell = "there is no task with pid 7: `%tasks` lists those there are";
        assert_eq!(in_a_cell(said), cell);
        let machine = "`klab up x` starts it; `klab nf-hooks`, `klab sym NAME`";
        assert_eq!(
            in_a_cell(machine),
            "`klab up x` starts it; `%nf-hooks`, `%sym NAME`"
        );
        let torn = "tasks changed while it was read (16 tries): use guest.paused(|guest| ..) for a still guest";
        assert!(in_a_shell(torn).ends_with("`klab pause` holds the guest still"));
        assert_eq!(in_a_cell(torn), torn);
    }
}
