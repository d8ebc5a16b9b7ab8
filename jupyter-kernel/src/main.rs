//! The klab program: a Jupyter kernel and a command line that look into a live Linux kernel.

mod commands;

use std::process::ExitCode;

fn main() -> ExitCode {
    evcxr::runtime_hook();
    commands::main()
}
