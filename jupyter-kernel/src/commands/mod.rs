//! The commands that need no compiler: one definition for `klab ps` in a shell and for `%ps` in a cell.
//!
//! [`main`] is the shell's face, [`run_line`] the cell's. Both parse with clap ([`cli`]) and give the same
//! [`Output`]: text, HTML, SVG and JSON of one value.
//!
//! ```text
//! $ klab up
//! $ klab ps
//! $ klab run default -- uname -r
//! $ klab p 'init_task.comm'
//! ```

mod bench;
mod cli;
mod code;
mod doctor;
mod drgn;
mod inside;
mod kmod;
mod line;
mod look;
mod machine;
mod output;
mod progress;
mod read;
mod search;
mod vmlinux;
mod words;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;

use crate::setup::Setup;
use cli::{Shell, ShellCommand};
pub(crate) use line::run_line;
pub(crate) use output::{Context, Output, Stream, default_guest};
pub(crate) use words::in_a_cell;

/// Runs the command of this process's arguments.
pub(crate) fn main() -> ExitCode {
    let shell = Shell::parse();
    let json = shell.common.json;
    match run(shell) {
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
            ExitCode::FAILURE
        }
    }
}

fn run(shell: Shell) -> Result<Output> {
    let mut cx = Context {
        guest: default_guest(),
        sink: &mut output::to_terminal,
        rewrites: std::io::IsTerminal::is_terminal(&std::io::stderr()),
        interrupt: Arc::default(),
    };
    match shell.command {
        ShellCommand::Look(command) => look::run(&command, &mut cx),
        ShellCommand::Machine(command) => machine::run(&command, &mut cx),
        ShellCommand::Kmod { command } => kmod::run(&command, &mut cx),
        ShellCommand::Vmlinux { kernel } => vmlinux::run(kernel.as_deref(), &mut cx),
        ShellCommand::Doctor => doctor::run(),
        ShellCommand::Bench(what) => bench::run(&what, &mut cx),
        ShellCommand::Setup(setup) => {
            let text = setup.run()?;
            if matches!(setup, Setup::Prepare { template: false }) {
                machine::prepare(&mut cx)?;
            }
            Ok(Output::text(text))
        }
        ShellCommand::Drgn(what) => drgn::shell(&what, &cx),
        ShellCommand::Run(run) => inside::run(&run, shell.common.json, &mut cx),
    }
}
