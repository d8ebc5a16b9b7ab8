//! The klab program: a Jupyter kernel and a command line that look into a live Linux kernel.

mod cells;
mod commands;
mod debugger;
mod lab;
mod session;
mod setup;
mod spec;

use std::process::ExitCode;

fn main() -> ExitCode {
    commands::main(setup::run)
}
