//! The commands of the registry of readers: `klab NAME`, `%NAME`, and the Rust cell that does the same.
//!
//! They are those of [`READERS`]; nothing here names one.

use std::cmp::Reverse;

use anyhow::{Result, anyhow};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Subcommand};
use probes::cell::diff;
use probes::guest::Guest;
use probes::readers::{Kind, Parameter, READERS, Reader};

use super::manual;
use super::output::Output;
use super::source::Source;

/// A reader, and the words that it was asked with.
#[derive(Debug)]
pub(crate) struct Read {
    reader: &'static Reader,
    words: Vec<Option<String>>,
    /// The snapshot to compare with.
    since: Option<String>,
    pub(super) source: Source,
}

/// The option by which a snapshot to compare with is named.
const SINCE: &str = "since";

impl Read {
    /// Reads and shows.
    pub(super) fn run(&self, guest: &Guest) -> Result<Output> {
        let read = |guest: &Guest| self.reader.read(guest, &self.words());
        match &self.since {
            None => Output::of(&*read(guest)?),
            Some(since) => {
                let before = read(&guest.in_snapshot(since)?)?;
                Output::of(&diff(&*before, &*read(guest)?))
            }
        }
    }

    /// The Rust that does the same.
    pub(super) fn code(&self, guest: &str) -> String {
        let now = self.reader.code(guest, &self.words());
        match &self.since {
            None => now,
            Some(since) => {
                let before = format!("{guest}.in_snapshot({since:?})?");
                let before = self.reader.code(&before, &self.words());
                format!("diff(&{before}, &{now})")
            }
        }
    }

    fn words(&self) -> Vec<Option<&str>> {
        self.words.iter().map(Option::as_deref).collect()
    }
}

/// The commands, each with the readers that share its word.
fn commands() -> impl Iterator<Item = Vec<&'static Reader>> {
    let all = READERS
        .iter()
        .map(|reader| Reader::of_command(reader.command));
    all.zip(READERS)
        .filter(|(same, reader)| same.first().is_some_and(|one| one.method == reader.method))
        .map(|(same, _)| same)
}

/// The parameters of all readers of a command, each once.
fn parameters(readers: &[&'static Reader]) -> Vec<(&'static Reader, &'static Parameter)> {
    let mut all: Vec<(&Reader, &Parameter)> = Vec::new();
    for &reader in readers {
        for parameter in reader.parameters {
            if all.iter().all(|(_, other)| other.name != parameter.name) {
                all.push((reader, parameter));
            }
        }
    }
    all
}

fn argument(
    reader: &'static Reader,
    parameter: &'static Parameter,
    all: &[&'static Reader],
) -> Arg {
    let needed = |reader: &&Reader| {
        let mut parameters = reader.parameters.iter();
        parameters.any(|other| other.name == parameter.name && other.is_required())
    };
    let mut argument = Arg::new(parameter.name)
        .value_name(parameter.name.to_uppercase())
        .help(manual::joined(parameter.manual));
    if reader.flags.contains(&parameter.name) {
        argument = argument.long(parameter.name);
    } else {
        argument = argument.required(all.iter().all(needed));
    }
    if reader.rest == Some(parameter.name) {
        argument = argument.num_args(1..);
    }
    if parameter.kind == Kind::Pid {
        argument = argument.value_parser(pid);
    }
    match parameter.default {
        Some(word) => argument.default_value(word),
        None => argument,
    }
}

fn pid(word: &str) -> Result<String, String> {
    let number = word.parse::<i32>();
    number.map_or_else(
        |_| Err("a process is named by its number".to_owned()),
        |_| Ok(word.to_owned()),
    )
}

fn command(readers: &[&'static Reader]) -> Option<Command> {
    let first = readers.first()?;
    let arguments = parameters(readers)
        .into_iter()
        .map(|(reader, parameter)| argument(reader, parameter, readers));
    // A command also takes the description of an argument group that is flattened into it: so its own comes last.
    let since = Arg::new(SINCE)
        .long(SINCE)
        .value_name("SNAPSHOT")
        .conflicts_with_all(["core", "snapshot"])
        .help("Show what differs from a snapshot of the guest (`klab snapshot`)");
    let command = Source::augment_args(Command::new(first.command).args(arguments).arg(since));
    Some(
        command
            .about(first.about())
            .visible_aliases(first.aliases)
            .after_long_help(manual::of(first)),
    )
}

impl Subcommand for Read {
    fn augment_subcommands(cmd: Command) -> Command {
        commands()
            .filter_map(|readers| command(&readers))
            .fold(cmd, Command::subcommand)
    }

    fn augment_subcommands_for_update(cmd: Command) -> Command {
        Self::augment_subcommands(cmd)
    }

    fn has_subcommand(name: &str) -> bool {
        !Reader::of_command(name).is_empty()
    }
}

impl FromArgMatches for Read {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (name, matches) = matches.subcommand().ok_or_else(missing)?;
        let readers = Reader::of_command(name);
        let given = |parameter: &Parameter| {
            let among = parameters(&readers);
            among.iter().any(|(_, other)| other.name == parameter.name)
                && matches.contains_id(parameter.name)
        };
        // The one that needs most of what was given, and takes all of it; of several the one that takes the least.
        let typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let all = parameters(&readers);
        let takes_all = |reader: &&&Reader| {
            let mut given = all.iter().filter(|(_, one)| typed(one.name));
            given.all(|(_, one)| reader.parameters.iter().any(|own| own.name == one.name))
        };
        let suits = |reader: &&&Reader| {
            let mut all = reader.parameters.iter();
            all.all(|parameter| !parameter.is_required() || given(parameter))
        };
        let needs = |reader: &&&Reader| {
            let all = reader.parameters.iter();
            let needed = all.filter(|parameter| parameter.is_required()).count();
            (needed, Reverse(reader.parameters.len()))
        };
        let suiting = readers.iter().filter(suits).filter(takes_all);
        let reader = suiting.max_by_key(needs);
        let reader = *reader.ok_or_else(missing)?;
        let word = |parameter: &Parameter| {
            let words = matches.get_many::<String>(parameter.name)?;
            Some(words.map(String::as_str).collect::<Vec<_>>().join(" "))
        };
        Ok(Self {
            reader,
            words: reader.parameters.iter().map(word).collect(),
            since: matches.get_one::<String>(SINCE).cloned(),
            source: Source::from_arg_matches(matches)?,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Everything that can be run, for programs: the readers, their parameters, and words to try them with.
pub(super) fn listed() -> Result<Output> {
    let all: Vec<_> = commands()
        .map(|readers| {
            let samples: Vec<_> = readers.iter().flat_map(|reader| reader.samples).collect();
            let parameters = parameters(&readers);
            let parameters: Vec<_> = parameters.iter().map(|(_, one)| one.name).collect();
            let first = readers
                .first()
                .ok_or_else(|| anyhow!("a command without a reader"))?;
            Ok(serde_json::json!({
                "command": first.command,
                "aliases": first.aliases,
                "about": first.about(),
                "parameters": parameters,
                "samples": samples,
                "on_dumps": !first.reads_all,
            }))
        })
        .collect::<Result<_>>()?;
    let text: String = commands()
        .filter_map(|readers| {
            readers
                .first()
                .map(|one| format!("{:<16} {}\n", one.command, one.about()))
        })
        .collect();
    Output::new(text, &all)
}
