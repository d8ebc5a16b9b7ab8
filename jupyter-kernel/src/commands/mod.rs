//! The commands that need no compiler: one definition for `klab log` in a shell and for `%log` in a cell.
//!
//! [`main`] is the shell's face, [`run_line`] the cell's. Both parse with clap ([`cli`]) and give the same
//! [`Output`]: text, HTML, SVG and JSON of one value.
//!
//! ```text
//! $ klab up
//! $ klab tasks
//! $ klab run default -- uname -r
//! $ klab p 'init_task.comm'
//! ```

mod change;
mod cli;
pub(crate) mod complete;
mod copy;
mod debug;
mod doctor;
mod drgn;
mod ftrace;
mod inside;
mod kmod;
mod line;
mod look;
mod machine;
mod manual;
mod output;
mod pipe;
mod progress;
mod read;
mod record;
mod search;
mod setup;
mod signals;
mod skb;
mod source;
mod stopped;
mod vmlinux;
mod words;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use vm::agent::ModuleError;

use cli::{Shell, ShellCommand};
pub(crate) use line::{is_variables, is_view, run_line};
pub(crate) use machine::record;
use output::Face;
pub(crate) use output::{Context, INTERRUPTED, Output, Stream, default_guest};
pub(crate) use setup::Setup;
use signals::Caught;
pub(crate) use source::{attached, foot};
pub(crate) use words::{in_a_cell, is_command, line_of};

/// Tells whether the error says that the user ended the command, and what was done until then.
pub(crate) fn is_interruption(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(vm::Error::Interrupted(_)))
            || matches!(
                kmod::of_a_module(cause),
                Some(ModuleError::Stopped { .. } | ModuleError::StillRuns { .. })
            )
    })
}

/// Does a subcommand that is no command of this module.
pub(crate) type SetUp = fn(&Setup) -> Result<String>;

/// Runs the command of this process's arguments; `set_up` does those of [`Setup`].
pub(crate) fn main(set_up: SetUp) -> ExitCode {
    let shell = Shell::parse();
    let (json, caught) = (shell.common.json, Caught::default());
    let ran = catch_unwind(AssertUnwindSafe(|| run(shell, &caught, set_up)));
    let ran = match ran {
        Ok(ran) => ran,
        // A loop that has seen the interrupt.
        Err(_) if caught.any() => {
            caught.say();
            return caught.exit();
        }
        Err(panic) => resume_unwind(panic),
    };
    match ran {
        Ok(output) => {
            let output = if json { output.into_json() } else { output };
            output::to_terminal(Stream::Stdout, output.text.as_bytes());
            ExitCode::from(output.code)
        }
        Err(error) => {
            output::to_terminal(
                Stream::Stderr,
                format!("klab: {}\n", words::in_a_shell(&format!("{error:#}"))).as_bytes(),
            );
            if caught.any() {
                return caught.exit();
            }
            ExitCode::FAILURE
        }
    }
}

fn run(shell: Shell, caught: &Caught, set_up: SetUp) -> Result<Output> {
    let mut cx = Context {
        guest: default_guest(),
        sink: &mut output::to_terminal,
        rewrites: std::io::IsTerminal::is_terminal(&std::io::stderr()),
        interrupt: Arc::default(),
        signals: true,
    };
    match &shell.command {
        // Jupyter's own server, and a prompt of Python's: they have their own ways. A recording ends, and is shown.
        ShellCommand::Setup(_)
        | ShellCommand::Drgn(_)
        | ShellCommand::Look(look::Look::Skb(_) | look::Look::Ftrace(_) | look::Look::Break(_)) => {
        }
        _ => caught.watch(&cx.interrupt)?,
    }
    match shell.command {
        ShellCommand::Look(command) => {
            // Not for all commands: one of them is the notebook's kernel.
            match shell.common.json {
                true => Face::Json.only(),
                false => Face::Text.only(),
            }
            command.run(&mut cx)
        }
        ShellCommand::Machine(command) => machine::run(&command, &mut cx),
        ShellCommand::Kmod { command } => kmod::run(&command, &mut cx),
        ShellCommand::Vmlinux { kernel } => vmlinux::run(kernel.as_deref(), &mut cx),
        ShellCommand::Readers => read::listed(),
        ShellCommand::Agent => Ok(Output::text(format!(
            "{}\n",
            machine::agent(&mut cx)?.display()
        ))),
        ShellCommand::Doctor => doctor::run(),
        ShellCommand::Setup(setup) => {
            if matches!(setup, Setup::Lab { .. }) {
                machine::ready(&mut cx)?;
            }
            let done = set_up(&setup);
            if matches!(setup, Setup::Prepare) {
                // Commands have a guest also where Rust cells lack their program.
                machine::prepare(&mut cx)?;
            }
            Ok(Output::text(done?))
        }
        ShellCommand::Drgn(what) => drgn::shell(&what, &cx),
        ShellCommand::Cp(cp) => copy::run(&cp, &mut cx),
        ShellCommand::Run(run) => inside::run(&run, shell.common.json, &mut cx),
    }
}
