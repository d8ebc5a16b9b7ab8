//! Filters behind a `%` line, as people type them in a shell: `| grep TEXT`, `| head`, `> FILE`. They are done here, on
//! the command's text.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Result, bail};
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use probes::cell::check_interrupt;
use regex::bytes::RegexBuilder;
use vm::UserFile;

use super::Output;

/// A line, taken apart at its signs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piped<'a> {
    /// The command.
    pub(super) command: &'a str,
    /// Words behind each `|`.
    filters: Vec<&'a str>,
    /// File behind the `>`.
    file: Option<To<'a>>,
}

/// Place that the text goes to instead of the cell.
#[derive(Debug, PartialEq, Eq)]
struct To<'a> {
    path: &'a str,
    append: bool,
}

/// What stands behind a `|`.
#[derive(Debug, Parser)]
#[command(
    name = "|",
    no_binary_name = true,
    disable_help_subcommand = true,
    disable_version_flag = true
)]
struct Line {
    #[command(subcommand)]
    filter: Filter,
}

#[derive(Debug, Subcommand)]
enum Filter {
    /// Keep the lines that a regular expression matches
    Grep {
        /// Upper and lower case are the same
        #[arg(short)]
        ignore_case: bool,
        /// Keep the other lines
        #[arg(short = 'v')]
        invert: bool,
        /// The expression
        #[arg(allow_hyphen_values = true)]
        pattern: String,
    },
    /// Keep the first lines
    Head(Lines),
    /// Keep the last lines
    Tail(Lines),
    /// Count the lines
    Wc {
        #[arg(short, required = true)]
        lines: bool,
    },
    /// Sort the lines
    Sort {
        /// By the number that a line begins with
        #[arg(short)]
        numeric: bool,
        /// The greatest first
        #[arg(short)]
        reverse: bool,
    },
}

/// Number of lines: `5`, `-5`, `-n 5`.
#[derive(Debug, clap::Args)]
struct Lines {
    #[arg(allow_negative_numbers = true)]
    number: Option<i64>,
    #[arg(short, conflicts_with = "number")]
    n: Option<u64>,
}

impl Lines {
    fn count(&self) -> usize {
        let count = self.n.or_else(|| self.number.map(i64::unsigned_abs));
        count.map_or(10, |count| usize::try_from(count).unwrap_or(usize::MAX))
    }
}

impl<'a> Piped<'a> {
    /// Takes a line apart. If the command takes C, a sign may be the command's own: then `|` stands between blanks and
    /// before the name of a filter, and `>` behind such a filter. Text in quotes is never taken apart.
    pub(super) fn of(line: &'a str, takes_c: bool) -> Self {
        let mut piped = Self {
            command: line,
            filters: Vec::new(),
            file: None,
        };
        // First byte of the last part.
        let mut start = 0;
        for at in signs(line, takes_c) {
            let rest = &line[at..];
            let (sign, behind) = match rest.strip_prefix(">>") {
                Some(behind) => (">>", behind),
                None => rest.split_at(1),
            };
            let is_c = takes_c && piped.filters.is_empty();
            let is_sign = match sign {
                "|" if is_c => behind.starts_with(char::is_whitespace) && is_filter(behind),
                "|" => !behind.starts_with('|'),
                _ => !is_c,
            };
            if !is_sign {
                continue;
            }
            piped.end(&line[start..at]);
            start = line.len() - behind.len();
            if sign == "|" {
                // Its words are the last part until another sign comes.
                piped.filters.push("");
            } else {
                piped.file = Some(To {
                    path: behind.trim(),
                    append: sign == ">>",
                });
                return piped;
            }
        }
        piped.end(&line[start..]);
        piped
    }

    fn end(&mut self, part: &'a str) {
        match self.filters.last_mut() {
            Some(last) => *last = part.trim(),
            None => self.command = part.trim(),
        }
    }

    /// Tells whether nothing stands behind the command.
    pub(super) fn is_plain(&self) -> bool {
        self.filters.is_empty() && self.file.is_none()
    }

    /// The way of an output through the filters and into the file. They are looked at before the command runs.
    ///
    /// # Errors
    /// When there is no such filter, or it does not take these words.
    pub(super) fn way(&self) -> Result<Way> {
        let filters = self.filters.iter().map(|words| filter(words));
        let file = match &self.file {
            None => None,
            Some(to) => match shlex::split(to.path).as_deref() {
                Some([path]) => Some((path.clone(), to.append)),
                _ => bail!(
                    "one file is wanted behind `>`, and nothing after it: `{}` is not the name of one; one with blanks stands \
                     in quotes",
                    to.path
                ),
            },
        };
        Ok(Way {
            filters: filters.collect::<Result<_>>()?,
            file,
        })
    }
}

/// Filters that an output goes through.
#[derive(Debug)]
pub(super) struct Way {
    filters: Vec<Filter>,
    file: Option<(String, bool)>,
}

impl Way {
    /// Puts an output's text through; tables and pictures are dropped.
    ///
    /// # Errors
    /// When a regular expression is none, or the file cannot be written.
    pub(super) fn put(&self, output: Output) -> Result<Output> {
        let mut text = output.text;
        for filter in &self.filters {
            text = filter.put(&text)?;
        }
        if let Some((path, append)) = &self.file {
            text = write(path, *append, &text)?;
        }
        Ok(Output {
            code: output.code,
            ..Output::text(text)
        })
    }
}

impl Filter {
    fn put(&self, text: &str) -> Result<String> {
        let lines = text.lines();
        let joined = |lines: &mut dyn Iterator<Item = &str>| {
            lines.flat_map(|line| [line, "\n"]).collect::<String>()
        };
        Ok(match self {
            Self::Grep {
                ignore_case,
                invert,
                pattern,
            } => {
                let made = RegexBuilder::new(pattern)
                    .unicode(false)
                    .case_insensitive(*ignore_case)
                    .build();
                let Ok(regex) = made else {
                    bail!(
                        "`{pattern}` is no regular expression: `\\` before a sign takes it as it is"
                    );
                };
                let kept = |line: &&str| regex.is_match(line.as_bytes()) != *invert;
                joined(&mut lines.filter(kept))
            }
            Self::Head(first) => joined(&mut lines.take(first.count())),
            Self::Tail(last) => {
                let all = lines.clone().count();
                joined(&mut lines.skip(all.saturating_sub(last.count())))
            }
            Self::Wc { .. } => format!("{}\n", lines.count()),
            Self::Sort { numeric, reverse } => {
                let mut all: Vec<&str> = lines.collect();
                all.sort_unstable();
                if *numeric {
                    all.sort_by(|a, b| number(a).total_cmp(&number(b)));
                }
                if *reverse {
                    all.reverse();
                }
                joined(&mut all.into_iter())
            }
        })
    }
}

/// The number that a line begins with, else 0, as `sort -n` has it.
fn number(line: &str) -> f64 {
    let line = line.trim_start();
    let is_part = |c: char| c.is_ascii_digit() || c == '.' || c == '-';
    let end = line.find(|c| !is_part(c)).unwrap_or(line.len());
    line[..end].parse().unwrap_or(0.0)
}

/// Bytes at which a sign begins a word, outside quotes.
fn signs(line: &str, takes_c: bool) -> Vec<usize> {
    let (mut found, mut quote, mut before) = (Vec::new(), None, ' ');
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            // In a shell's '..' it is a character like others.
            (Some('"') | None, '\\') => drop(chars.next()),
            (Some(_), '\\') if takes_c => drop(chars.next()),
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '|' | '>') if before.is_whitespace() => found.push(at),
            (None, _) => {}
        }
        before = c;
    }
    found
}

/// Tells whether the text begins with the name of a filter.
fn is_filter(text: &str) -> bool {
    text.split_whitespace()
        .next()
        .is_some_and(Filter::has_subcommand)
}

fn filter(words: &str) -> Result<Filter> {
    let Some(words) = shlex::split(words) else {
        bail!("a quote is not closed in `| {words}`");
    };
    let error = match Line::try_parse_from(&words) {
        Ok(line) => return Ok(line.filter),
        Err(error) => error,
    };
    let there = "behind a `|` stand `grep [-i] [-v] PATTERN`, `head [N]`, `tail [N]`, `wc -l`, `sort [-n] [-r]`";
    match (error.kind(), words.first()) {
        (_, None) => bail!("a filter is missing behind `|`: {there}"),
        (ErrorKind::InvalidSubcommand, Some(name)) => {
            bail!("there is no filter `{name}`: {there}; `%%sh` has the guest's shell")
        }
        (_, Some(name)) => bail!("`{name}` does not take these words: {there}"),
    }
}

/// Writes the text into the user's file; says which it is.
fn write(path: &str, append: bool, text: &str) -> Result<String> {
    let path = Path::new(path);
    let file = UserFile::stream(path, &check_interrupt)?;
    let put = |bytes: &[u8]| {
        let written = (&file).write_all(bytes);
        written.map_err(|error| file.fault(error))
    };
    // Its content is another file until it is whole.
    if file.is_plain()
        && let Ok(meta) = fs::metadata(path)
    {
        let kept = file.file().set_permissions(meta.permissions());
        kept.map_err(|error| file.fault(error))?;
        if append {
            put(&fs::read(path).map_err(|error| file.fault(error))?)?;
        }
    }
    put(text.as_bytes())?;
    let place = file.place()?;
    let lines = text.lines().count();
    Ok(format!("{} ({lines} lines)\n", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(line: &str, takes_c: bool) -> (&str, Vec<&str>, Option<(&str, bool)>) {
        let piped = Piped::of(line, takes_c);
        let file = piped.file.map(|to| (to.path, to.append));
        (piped.command, piped.filters, file)
    }

    fn put(words: &str, text: &str) -> String {
        filter(words).unwrap().put(text).unwrap()
    }

    #[test]
    fn c_keeps_its_own_signs() {
        for line in [
            "p a | b",
            "p a > b",
            "p a >> 2",
            "p a || grep",
            "p a|grep x",
            "p a |head",
            "p '|' == 124 && a > b",
            "p a | header",
            r"p '\'' | grep'",
            "p \" | grep x\"",
            "p f(\"a > b\")",
            "type-of struct a | b",
        ] {
            assert!(Piped::of(line, true).is_plain(), "{line}");
        }
        assert_eq!(
            parts("p a | b | grep c", true),
            ("p a | b", vec!["grep c"], None)
        );
        assert_eq!(
            parts("p a > b | head > c d", true),
            ("p a > b", vec!["head"], Some(("c d", false)))
        );
    }

    #[test]
    fn a_line_is_taken_apart_as_in_a_shell() {
        assert_eq!(
            parts("ps | grep -v '[|>]' | head 3", false),
            ("ps", vec!["grep -v '[|>]'", "head 3"], None)
        );
        assert_eq!(
            parts("ps >> \"a b\"", false),
            ("ps", vec![], Some(("\"a b\"", true)))
        );
        assert_eq!(parts("ps >f", false), ("ps", vec![], Some(("f", false))));
        assert_eq!(parts("ps |grep x", false), ("ps", vec!["grep x"], None));
        for line in [
            "search 'a | b > c'",
            r#"search "a \" | b""#,
            r"search a \| b",
            "search a|b",
            "search a->b",
            "skb ping 'x > y",
        ] {
            assert!(Piped::of(line, false).is_plain(), "{line}");
        }
        assert_eq!(parts("ps | grep서 🐨 |", false).1, ["grep서 🐨", ""]);
    }

    #[test]
    fn filters_do_what_their_names_say() {
        let text = "10 b\n9 A\n9 a\n";
        assert_eq!(put("grep a", text), "9 a\n");
        assert_eq!(put("grep -i a", text), "9 A\n9 a\n");
        assert_eq!(put("grep -iv a", text), "10 b\n");
        assert_eq!(put(r"grep '^\d+ [ab]$'", text), "10 b\n9 a\n");
        assert_eq!(put("grep -- -x", "-x\n"), "-x\n");
        assert_eq!(put("head 1", text), "10 b\n");
        assert_eq!(put("head -1", text), "10 b\n");
        assert_eq!(put("tail -n 2", text), "9 A\n9 a\n");
        assert_eq!(put("tail", text), text);
        assert_eq!(put("wc -l", text), "3\n");
        assert_eq!(put("sort", text), text);
        assert_eq!(put("sort -n", text), "9 A\n9 a\n10 b\n");
        assert_eq!(put("sort -rn", text), "10 b\n9 a\n9 A\n");
        assert_eq!(put("head", ""), "");
    }

    #[test]
    fn what_is_wrong_is_said_before_the_command_runs() {
        for (line, says) in [
            ("ps | less", "there is no filter `less`: behind a `|` stand"),
            ("ps |", "a filter is missing"),
            ("ps | wc", "`wc` does not take these words"),
            ("ps | grep", "`grep` does not take these words"),
            ("ps | head x", "`head` does not take these words"),
            ("ps | grep 'x", "a quote is not closed"),
            ("ps >", "one file is wanted"),
            ("ps > a b", "`a b` is not the name of one"),
        ] {
            let said = Piped::of(line, false).way().unwrap_err().to_string();
            assert!(said.contains(says), "{line}: {said}");
        }
        assert!(filter("grep (").unwrap().put("").is_err());
    }

    #[test]
    fn a_file_takes_the_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b");
        let run = |sign: &str, text: &str| {
            let line = format!("ps | grep x {sign} '{}'", path.display());
            let output = Output {
                html: Some("<table>".to_owned()),
                code: 1,
                ..Output::text(text)
            };
            Piped::of(&line, false).way().unwrap().put(output).unwrap()
        };
        let said = run(">>", "x1\ny\n");
        assert!(said.text.ends_with("a b (1 lines)\n"), "{}", said.text);
        assert_eq!((said.html, said.code), (None, 1));
        run(">>", "x2\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "x1\nx2\n");
        run(">", "x3\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "x3\n");
        let folder = format!("ps > {}", folder.path().display());
        let way = Piped::of(&folder, false).way().unwrap();
        assert!(way.put(Output::text("")).is_err());
    }
}
