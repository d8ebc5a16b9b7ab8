//! Completions of the words of a `%` line, and what is under its cursor: by the commands' own definitions and by what
//! the guest has.

mod literal;
mod shell;

use std::collections::BTreeSet;

use clap::{Command, CommandFactory as _};
use probes::Guest;
use probes::readers::{Kind, Parameter, READERS, Reader};
use probes::view::View as _;
use serde_json::Value;

use super::cli::Line;
use super::source::attached;

/// Most completions of one place: more are of no use to a reader.
const MOST: usize = 200;

/// Completions of a part of a line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Completed {
    /// First byte of that part; it ends at the cursor.
    pub(crate) start: usize,
    /// Each completion, and its kind, as front ends show it.
    pub(crate) matches: Vec<(String, String)>,
}

/// Completes the line, whose end is the cursor.
pub(crate) fn complete(line: &str, default: &str) -> Completed {
    let command_at = line.len() - line.trim_start().trim_start_matches('%').trim_start().len();
    let (signs, rest) = line.split_at(command_at);
    let start = behind(line, char::is_whitespace).max(command_at);
    let word = &line[start..];
    let cell = Line::command();
    let (name, words) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let mut found = Vec::new();
    if start == command_at && !rest.contains(char::is_whitespace) {
        found = commands(&cell, word, signs.contains("%%"));
        return Completed {
            start,
            matches: sorted(found),
        };
    }
    let Some(command) = cell.find_subcommand(name) else {
        return Completed::default();
    };
    let named = words.trim_start().strip_prefix("--guest ");
    let names_guest = named.is_some_and(|name| !name.trim_start().contains(char::is_whitespace));
    if name == "sh" && !word.starts_with("--") && !names_guest {
        let (guest, text) = of_shell(words, default);
        let found = shell::complete(text, guest);
        return Completed {
            start: line.len() - text.len() + found.start,
            ..found
        };
    }
    if word.starts_with("--") {
        let options = command.get_arguments().chain(cell.get_arguments());
        let names =
            options.filter_map(|option| Some((format!("--{}", option.get_long()?), option)));
        found.extend(
            names
                .filter(|(name, _)| name.starts_with(word))
                .map(|(name, option)| {
                    let help = option.get_help().map(ToString::to_string);
                    (name, help.unwrap_or_default())
                }),
        );
    } else if let Some(names) = machines(command, &cell, words, default) {
        found.extend(names.into_iter().filter(|(name, _)| name.starts_with(word)));
    } else if command.has_subcommands() {
        let below = command.get_subcommands();
        let below = below.filter(|below| below.get_name().starts_with(word));
        found.extend(below.map(|below| (below.get_name().to_owned(), about(below))));
    } else {
        let before: Vec<&str> = words[..words.len() - word.len()]
            .split_whitespace()
            .collect();
        let named = before.iter().position(|word| *word == "--guest");
        let guest = named
            .and_then(|at| before.get(at + 1))
            .copied()
            .unwrap_or(default);
        if let (Some((reader, parameter)), Ok(guest)) = (parameter(name, &before), attached(guest))
        {
            return values(&guest, reader, parameter, line, start);
        }
    }
    Completed {
        start,
        matches: sorted(found),
    }
}

/// The thing under the cursor, which is at a byte of the line: a command's manual, an option's, else a symbol or a
/// type.
pub(crate) fn inspect(line: &str, at: usize, default: &str) -> Option<String> {
    let (start, end) = word_at(line, at)?;
    let word = &line[start..end];
    let mut cell = Line::command();
    if line[..start]
        .trim_matches(|c: char| c == '%' || c.is_whitespace())
        .is_empty()
    {
        let command = cell.find_subcommand_mut(word)?;
        return Some(
            command
                .render_long_help()
                .to_string()
                .replace("Usage: ", "Usage: %"),
        );
    }
    known(&attached(default).ok()?, word)
}

/// The guest that a `%%sh` line means, and the shell's text on it.
fn of_shell<'a>(words: &'a str, default: &'a str) -> (&'a str, &'a str) {
    let text = words.trim_start();
    let Some(rest) = text.strip_prefix("--guest ").map(str::trim_start) else {
        return (default, text);
    };
    rest.split_once(char::is_whitespace).unwrap_or((rest, ""))
}

/// Completes a `%%sh` cell, whose end is the cursor, below its first line.
pub(crate) fn shell_cell(cell: &str, default: &str) -> Option<Completed> {
    let (line, body) = cell.split_once('\n')?;
    let words = line.trim_start().trim_start_matches('%').trim_start();
    let guest = of_shell(words.strip_prefix("sh")?, default).0;
    let found = shell::complete(body, guest);
    Some(Completed {
        start: cell.len() - body.len() + found.start,
        ..found
    })
}

/// Tells whether a string of Rust behind `before` is C of the kernel's.
pub(crate) fn is_c(before: &str) -> bool {
    literal::asked(before).is_some()
}

/// Completes such a string, whose beginning is `begun`.
pub(crate) fn in_string(before: &str, begun: &str, default: &str) -> Completed {
    match (literal::asked(before), attached(default)) {
        (Some(asked), Ok(guest)) => literal::complete(&asked, begun, &guest),
        _ => Completed::default(),
    }
}

/// The thing at a byte of such a string: a symbol, a type, a value.
pub(crate) fn inspect_string(before: &str, text: &str, at: usize, default: &str) -> Option<String> {
    let asked = literal::asked(before)?;
    let guest = attached(default).ok()?;
    let (start, end) = word_at(text, at)?;
    match (asked, text.get(start..end)?) {
        (literal::Asked::Member(_) | literal::Asked::MemberOf(_), _) => None,
        (_, word) => known(&guest, word),
    }
}

fn listed(names: Vec<String>, kind: &str) -> Vec<(String, String)> {
    sorted(
        names
            .into_iter()
            .map(|name| (name, kind.to_owned()))
            .collect(),
    )
}

/// The word of C that a byte is in or behind.
fn word_at(text: &str, at: usize) -> Option<(usize, usize)> {
    let is_part = |c: char| c.is_alphanumeric() || "_-:.>".contains(c);
    let start = behind(text.get(..at)?, |c| !is_part(c));
    let end = text[at..].find(|c| !is_part(c));
    Some((start, end.map_or(text.len(), |end| at + end)))
}

/// Description of a word of C: a symbol with its address and type, a type with its layout, else a value.
fn known(guest: &Guest, word: &str) -> Option<String> {
    let named = guest.symbols(word).map(|found| found.text());
    let ty = || guest.type_of(word).map(|found| found.text());
    let value = || guest.eval(word).map(|found| found.text());
    named.or_else(|_| ty()).or_else(|_| value()).ok()
}

/// First byte of the text behind its last character of this kind.
fn behind(text: &str, is_one: impl Fn(char) -> bool) -> usize {
    let last = text.char_indices().rev().find(|(_, c)| is_one(*c));
    last.map_or(0, |(at, c)| at + c.len_utf8())
}

fn about(command: &Command) -> String {
    command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn sorted(mut found: Vec<(String, String)>) -> Vec<(String, String)> {
    found.sort();
    found.dedup();
    found
}

/// The guests, or a guest's snapshots, where a word behind these is one by the command's own definition; its last word is the one that is
/// being written.
fn machines(
    command: &Command,
    cell: &Command,
    words: &str,
    default: &str,
) -> Option<Vec<(String, String)>> {
    let mut before: Vec<&str> = words.split_whitespace().collect();
    if !words.is_empty() && !words.ends_with(char::is_whitespace) {
        before.pop();
    }
    let mut command = command;
    if let Some((first, rest)) = before.split_first()
        && let Some(below) = command.find_subcommand(first)
    {
        (command, before) = (below, rest.to_vec());
    }
    let of_flag = |flag: &str| {
        let mut options = command.get_arguments().chain(cell.get_arguments());
        options.find(|option| option.get_long() == Some(flag))
    };
    let takes = |flag: &str| of_flag(flag).is_some_and(|option| option.get_action().takes_values());
    let last = before.last().and_then(|word| word.strip_prefix("--"));
    let argument = match last.filter(|flag| takes(flag)) {
        Some(flag) => of_flag(flag)?,
        None => {
            let mut plain = 0;
            let mut words = before.iter();
            while let Some(word) = words.next() {
                match word.strip_prefix("--") {
                    Some(flag) if takes(flag) => drop(words.next()),
                    Some(_) => {}
                    None => plain += 1,
                }
            }
            command.get_positionals().nth(plain)?
        }
    };
    let named = before.iter().position(|word| *word == "--guest");
    let guest = named.and_then(|at| before.get(at + 1)).copied();
    let is_guest = || {
        let help = argument.get_help().map(ToString::to_string);
        help.is_some_and(|help| {
            ["The guest", "Only this guest"]
                .iter()
                .any(|of| help.starts_with(of))
        })
    };
    match argument.get_id().as_str() {
        "snapshot" | "since" => {
            // Of a guest that is not up there are none to name.
            let guest = attached(guest.unwrap_or(default)).ok();
            let snapshots = guest.and_then(|guest| guest.snapshots().ok());
            let names = snapshots.iter().flatten();
            let names = names.map(|one| (one.name.clone(), one.guest.clone()));
            Some(names.collect())
        }
        _ if is_guest() => {
            let guests = vm::Machine::list().ok()?.into_iter();
            Some(
                guests
                    .map(|one| (one.name, one.state.to_string()))
                    .collect(),
            )
        }
        _ => None,
    }
}

fn commands(cell: &Command, prefix: &str, with_body: bool) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for command in cell
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        if with_body && !["sh", "drgn", "kmod"].contains(&command.get_name()) {
            continue;
        }
        let names = std::iter::once(command.get_name()).chain(command.get_visible_aliases());
        let names = names.filter(|name| name.starts_with(prefix));
        found.extend(names.map(|name| (name.to_owned(), about(command))));
    }
    found
}

/// The parameter that comes next, behind these words.
fn parameter(command: &str, before: &[&str]) -> Option<(&'static Reader, &'static Parameter)> {
    let readers = Reader::of_command(command);
    let flag = before.last().and_then(|word| word.strip_prefix("--"));
    let flagged = |reader: &&&'static Reader| flag.is_some_and(|flag| reader.flags.contains(&flag));
    if let Some(reader) = readers.iter().find(flagged) {
        let parameter = reader
            .parameters
            .iter()
            .find(|one| Some(one.name) == flag)?;
        return Some((reader, parameter));
    }
    // Behind a `--word` stands its value, but for those that have none.
    let mut plain = 0;
    let mut words = before.iter().peekable();
    while let Some(word) = words.next() {
        match word.strip_prefix("--") {
            Some("code" | "json" | "") => {}
            Some(_) => drop(words.next()),
            None => plain += 1,
        }
    }
    readers.iter().find_map(|reader| {
        let is_plain = |one: &&Parameter| !reader.flags.contains(&one.name);
        let mut all = reader.parameters.iter().filter(is_plain);
        let last = all
            .clone()
            .next_back()
            .filter(|one| reader.rest == Some(one.name));
        all.nth(plain).or(last).map(|one| (*reader, one))
    })
}

/// Values that a parameter may have in this guest.
fn values(
    guest: &Guest,
    reader: &Reader,
    parameter: &Parameter,
    line: &str,
    start: usize,
) -> Completed {
    let word = &line[start..];
    let mut found = Vec::new();
    match parameter.kind {
        Kind::Pid => {
            for task in guest.tasks().into_iter().flatten() {
                found.push((task.pid.to_string(), task.comm.clone()));
            }
            found.retain(|(pid, _)| pid.starts_with(word));
            // By number, not by its digits.
            found.sort_by_key(|(pid, _)| pid.parse::<i32>().unwrap_or_default());
            found.truncate(MOST);
            return Completed {
                start,
                matches: found,
            };
        }
        Kind::Text if reader.rest.is_none() => {
            let names = listing(reader).and_then(|lists| names(guest, lists));
            found.extend(
                names
                    .into_iter()
                    .flatten()
                    .map(|name| (name, String::new())),
            );
            found.retain(|(name, _)| name.starts_with(word));
        }
        _ if reader.method == "type_of" => found = types(guest, word),
        _ => return expression(guest, line, start),
    }
    Completed {
        start,
        matches: sorted(found),
    }
}

/// The reader that lists the things of which another one shows one: by the same command, or its plural.
fn listing(reader: &Reader) -> Option<&'static Reader> {
    let plural = format!("{}s", reader.method);
    READERS.iter().find(|other| {
        let same = other.command == reader.command || other.method == plural;
        same && other.parameters.is_empty()
    })
}

fn names(guest: &Guest, lists: &Reader) -> Option<BTreeSet<String>> {
    let json = lists.read(guest, &[]).ok()?.json().ok()?;
    let value: Value = serde_json::from_str(&json).ok()?;
    let named = |one: &Value| one.get("name").and_then(Value::as_str).map(str::to_owned);
    Some(value.as_array()?.iter().filter_map(named).collect())
}

/// The names of an expression of C: a member behind `.` or `->`, else a symbol.
fn expression(guest: &Guest, line: &str, start: usize) -> Completed {
    let text = &line[start..];
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let name_at = behind(text, |c| !is_part(c));
    let (before, name) = text.split_at(name_at);
    let base = before
        .strip_suffix('.')
        .or_else(|| before.strip_suffix("->"));
    let mut found = Vec::new();
    if let Some(base) = base {
        let base = base.trim_start_matches(['&', '*', '(']);
        if let Ok(names) = guest.eval(base).and_then(|object| {
            let target = object.deref();
            target.unwrap_or(object).member_names()
        }) {
            found.extend(names.into_iter().map(|name| (name, "member".to_owned())));
            found.retain(|(one, _)| one.starts_with(name));
        }
    } else if name.len() > 1
        && let Ok(kernel) = guest.kernel()
        && let Ok(symbols) = kernel.symbols()
    {
        let all = symbols
            .iter()
            .filter(|symbol| symbol.name.starts_with(name));
        found.extend(
            all.take(MOST)
                .map(|symbol| (symbol.name, "symbol".to_owned())),
        );
    }
    Completed {
        start: start + name_at,
        matches: sorted(found),
    }
}

fn types(guest: &Guest, word: &str) -> Vec<(String, String)> {
    let named = || -> probes::Result<Vec<(String, String)>> {
        let kernel = guest.kernel()?;
        let btf = kernel.btf()?;
        let all = btf
            .types()
            .map(|ty| (ty.name().to_owned(), "type".to_owned()));
        let all = all.filter(|(name, _)| name.starts_with(word));
        Ok(all.take(MOST * 8).collect())
    };
    match word.len() {
        0 | 1 => Vec::new(),
        _ => named().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let found = complete(line, "no-such-guest");
        found.matches.into_iter().map(|(word, _)| word).collect()
    }

    #[test]
    fn commands_and_their_options_need_no_guest() {
        assert_eq!(words("%addr"), ["address-map"]);
        assert_eq!(words(" %ps"), ["ps"]);
        assert_eq!(words("%ps --gu"), ["--guest"]);
        assert_eq!(words("%vtop --p"), ["--pid"]);
        assert_eq!(words("%guest res"), ["reset", "restore", "resume"]);
        assert_eq!(words("%%s"), ["sh"]);
        assert!(words("%nosuch a").is_empty());
    }

    #[test]
    fn the_parameter_is_the_one_that_comes_next() {
        let next = |command, before: &[&str]| parameter(command, before).map(|(_, one)| one.name);
        assert_eq!(next("mm", &[]), Some("pid"));
        assert_eq!(next("mm", &["1"]), None);
        assert_eq!(next("vtop", &["--pid"]), Some("pid"));
        assert_eq!(next("vtop", &["--pid", "1"]), Some("address"));
        assert_eq!(next("slab", &["--json"]), Some("cache"));
        assert_eq!(next("p", &["1", "+"]), Some("expression"));
        assert_eq!(next("path", &["/bin/sh"]), Some("pid"));
    }

    #[test]
    fn any_text_is_completed_and_inspected_at_any_place() {
        for line in [
            "%p init_task.\u{a0}co",
            "%mm\u{3000}1",
            "%%sh ls 서울🐨",
            "%sym 🐨x.y->",
            "\u{a0}%ps",
            "%🐨",
            "%",
        ] {
            for (at, _) in line.char_indices().chain([(line.len(), ' ')]) {
                let found = complete(&line[..at], "no-such-guest");
                assert!(
                    line.is_char_boundary(found.start) && found.start <= at,
                    "{line} at {at}"
                );
                let _ = inspect(line, at, "no-such-guest");
            }
        }
    }

    #[test]
    fn a_command_under_the_cursor_is_its_manual() {
        let text = inspect("%mm 1", 2, "no-such-guest").unwrap();
        assert!(
            text.contains("Usage: %address-map") && text.contains("Example"),
            "{text}"
        );
    }
}
