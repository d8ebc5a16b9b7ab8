//! The commands that read a guest's memory, each with the Rust cell that does the same: what `--code` prints. Every such
//! cell compiles and runs as it is.

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use super::change::{self, Call, Set};
use super::debug::{self, Break, Past, WhoWrites};
use super::ftrace::{self, Ftrace};
use super::output::{Context, Output};
use super::read::Read;
use super::search::{self, SearchFor};
use super::skb::{self, Skb};
use super::source::Source;

/// The commands that read a guest's memory.
#[derive(Debug, Subcommand)]
pub(crate) enum Look {
    #[command(flatten)]
    Read(Read),
    /// Search memory for bytes, values, pointers, text or a regular expression
    #[command(after_long_help = include_str!("manual/search.txt"))]
    Search(SearchFor),
    /// Show the path of each packet through the kernel while a command runs in the guest
    #[command(after_long_help = include_str!("manual/skb.txt"))]
    Skb(Skb),
    /// Trace the calls of functions and the events of tracepoints: arguments, task, return value, how long each took; who ran when
    #[command(after_long_help = include_str!("manual/ftrace.txt"))]
    Ftrace(Ftrace),
    /// Show each call of a function: arguments, task, return value
    #[command(after_long_help = include_str!("manual/break.txt"))]
    Break(Break),
    /// Show what writes to a variable next: function, instruction, task, stack
    #[command(after_long_help = include_str!("manual/who-writes.txt"))]
    WhoWrites(WhoWrites),
    /// Show what wrote to a variable last, in a recorded guest: function, instruction, task, stack
    #[command(after_long_help = include_str!("manual/last-write.txt"))]
    LastWrite(Past),
    /// Show all that wrote to a variable, in a recorded guest
    #[command(after_long_help = include_str!("manual/history.txt"))]
    History(Past),
    /// Write a value to a variable or member of the running kernel
    #[command(after_long_help = include_str!("manual/set.txt"))]
    Set(Set),
    /// Call a function of the running kernel
    #[command(after_long_help = include_str!("manual/call.txt"))]
    Call(Call),
}

impl Look {
    const fn source(&self) -> &Source {
        match self {
            Self::Read(read) => &read.source,
            Self::Search(what) => &what.source,
            Self::Skb(what) => &what.source,
            Self::Ftrace(what) => &what.source,
            Self::Break(what) => &what.source,
            Self::WhoWrites(what) => &what.source,
            Self::LastWrite(what) | Self::History(what) => &what.source,
            Self::Set(what) => &what.source,
            Self::Call(what) => &what.source,
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// When there is no such guest, or it does not have what is asked for.
    pub(super) fn run(&self, cx: &mut Context<'_>) -> Result<Output> {
        let source = self.source();
        if source.code {
            let cell = format!("{}\n", self.code(&source.code())?);
            return Output::new(cell.clone(), &json!({ "code": cell }));
        }
        let guest = source.open(cx)?;
        match self {
            Self::Read(read) => read.run(&guest),
            Self::Search(what) => search::run(what, &guest, cx),
            Self::Skb(what) => skb::run(what, &guest, cx),
            Self::Ftrace(what) => ftrace::run(what, &guest, cx),
            Self::Break(what) => debug::calls(what, &guest, cx),
            Self::WhoWrites(what) => debug::who_writes(what, &guest, cx),
            Self::LastWrite(what) => debug::last_write(what, &guest),
            Self::History(what) => debug::history(what, &guest),
            Self::Set(what) => change::run(what, &guest),
            Self::Call(what) => change::call(what, &guest),
        }
    }

    /// The cell, whose last line is the value that the command shows; `guest` is its expression for the guest.
    fn code(&self, guest: &str) -> Result<String> {
        match self {
            Self::Read(read) => Ok(read.code(guest)),
            Self::Search(what) => search::code(what, guest),
            Self::Skb(what) => Ok(skb::code(what, guest)),
            Self::Ftrace(what) => ftrace::code(what, guest),
            Self::Break(what) => Ok(debug::code_of_calls(what, guest)),
            Self::WhoWrites(what) => Ok(debug::code_of_write(what, guest)),
            Self::LastWrite(what) => Ok(debug::code_of_past(what, "last_write", guest)),
            Self::History(what) => Ok(debug::code_of_past(what, "history", guest)),
            Self::Set(what) => Ok(change::code(what, guest)),
            Self::Call(what) => Ok(change::code_of_call(what, guest)),
        }
    }
}
