//! Readers: each shows one value of a guest, under one name for methods and commands.
//!
//! [`READERS`] is the one list of them (`readers/table.rs`). An entry is the method of [`Guest`], the command `klab NAME`, the line
//! `%NAME` of a cell and what `--code` prints of it; the tests of readers (on dumps, on a guest whose memory lies, on damaged
//! structures), the fuzz target and the tables of the documents are made from the same list.

mod argument;
mod define;
mod table;

use serde::Serialize;

pub use argument::{Argument, Kind};
pub use table::READERS;

use crate::guest::Guest;
use crate::view::View;
use crate::{Error, Result};

/// A value that a reader gave: its faces, and itself for programs.
pub trait Shown: View {
    /// The value as a line of JSON. Written as it goes: a tree of a hundred thousand rows takes several times their memory.
    ///
    /// # Errors
    /// When a part of it is read only now, and cannot be.
    fn json(&self) -> Result<String>;
}

impl<T: View + Serialize> Shown for T {
    fn json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|fault| Error::Invalid(fault.to_string()))
    }
}

/// The words of a command, in the order of its reader's parameters; `None` where one was left out.
pub type Words<'a> = [Option<&'a str>];

/// A reader.
#[derive(Clone, Copy)]
pub struct Reader {
    /// The method of [`Guest`].
    pub method: &'static str,
    /// The command. Readers that share one differ by their parameters.
    pub command: &'static str,
    /// Names that other tools have made familiar: `ps`, `dis`.
    pub aliases: &'static [&'static str],
    /// The manual, line by line; the first line is what lists say of the command.
    pub manual: &'static [&'static str],
    /// Its parameters.
    pub parameters: &'static [Parameter],
    /// The parameters that the command takes as options: `--pid 1`.
    pub flags: &'static [&'static str],
    /// The parameter that is all the words that are left, with spaces between them.
    pub rest: Option<&'static str>,
    /// Words to try it with, of which every guest has something to show.
    pub samples: &'static [&'static [&'static str]],
    /// True if it reads most of the guest's memory: on a dump that has a few pages there is nothing to see.
    pub reads_all: bool,
    read: fn(&Guest, &Words<'_>) -> Result<Box<dyn Shown>>,
    code: fn(&str, &Words<'_>) -> String,
}

/// A parameter of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Its manual, line by line.
    pub manual: &'static [&'static str],
    /// Its kind.
    pub kind: Kind,
    /// True if it may be left out.
    pub optional: bool,
    /// Default, if it is left out.
    pub default: Option<&'static str>,
}

impl Parameter {
    /// Tells whether a command must have it.
    #[must_use]
    pub const fn is_required(&self) -> bool {
        !self.optional && self.default.is_none()
    }
}

impl Reader {
    /// The readers of a command, or of an alias of it: one as a rule.
    #[must_use]
    pub fn of_command(name: &str) -> Vec<&'static Self> {
        let named = |reader: &&Self| reader.command == name || reader.aliases.contains(&name);
        READERS.iter().filter(named).collect()
    }

    /// Its line in lists.
    #[must_use]
    pub fn about(&self) -> &'static str {
        self.manual.first().map_or("", |line| line.trim())
    }

    /// Reads the value that the words ask for.
    ///
    /// # Errors
    /// When a word is not what its parameter wants, or is missing; when the value cannot be read.
    pub fn read(&self, guest: &Guest, words: &Words<'_>) -> Result<Box<dyn Shown>> {
        (self.read)(guest, &self.complete(words))
    }

    /// The Rust that does the same, where `guest` is the cell's expression for the guest.
    #[must_use]
    pub fn code(&self, guest: &str, words: &Words<'_>) -> String {
        (self.code)(guest, &self.complete(words))
    }

    /// The words with the defaults of those that are left out.
    fn complete<'a>(&self, words: &Words<'a>) -> Vec<Option<&'a str>> {
        let given = |at: usize| words.get(at).copied().flatten();
        let parameters = self.parameters.iter().enumerate();
        parameters
            .map(|(at, parameter)| given(at).or(parameter.default))
            .collect()
    }

    /// The words of a line, as a shell has split them, by parameter.
    ///
    /// # Errors
    /// When an option is not one of the reader's, or there are more words than parameters.
    pub fn words<'a>(&self, line: &[&'a str]) -> Result<Vec<Option<&'a str>>> {
        let mut words = vec![None; self.parameters.len()];
        let mut line = line.iter().copied();
        while let Some(word) = line.next() {
            let (name, flag) = match word.strip_prefix("--") {
                Some(name) => (name, true),
                None => (word, false),
            };
            let free = |(at, parameter): &(usize, &Parameter)| {
                let is_flag = self.flags.contains(&parameter.name);
                words[*at].is_none() && is_flag == flag && (!flag || parameter.name == name)
            };
            let found = self.parameters.iter().enumerate().find(free);
            let (Some((at, _)), Some(word)) = (found, if flag { line.next() } else { Some(word) })
            else {
                let command = self.command;
                return Err(Error::Invalid(format!("`{command}` takes no `{word}`")));
            };
            words[at] = Some(word);
        }
        Ok(words)
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("method", &self.method)
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_command_has_one_meaning() {
        let mut meanings: BTreeMap<&str, &str> = BTreeMap::new();
        for reader in READERS {
            for name in reader.aliases.iter().chain([&reader.command]) {
                let command = meanings.entry(*name).or_insert(reader.command);
                assert_eq!(*command, reader.command, "{name}");
            }
        }
    }

    #[test]
    fn readers_of_one_command_differ_by_what_they_take() {
        for reader in READERS {
            let takes = |reader: &Reader| {
                let all = reader.parameters.iter();
                all.map(|parameter| parameter.name).collect::<Vec<_>>()
            };
            let same = Reader::of_command(reader.command);
            let same = same.iter().filter(|other| takes(other) == takes(reader));
            assert_eq!(same.count(), 1, "{}", reader.command);
        }
    }

    #[test]
    fn samples_are_words_that_the_reader_takes() {
        for reader in READERS {
            assert!(!reader.samples.is_empty() && !reader.about().is_empty());
            for sample in reader.samples {
                let words = reader.complete(&reader.words(sample).unwrap());
                for (parameter, word) in reader.parameters.iter().zip(words) {
                    assert!(parameter.optional || word.is_some(), "{sample:?}");
                }
            }
        }
    }
}
