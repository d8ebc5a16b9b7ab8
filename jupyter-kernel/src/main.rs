//! The klab program: a Jupyter kernel and a command line that look into a live Linux kernel.

mod cells;
mod commands;
mod prepare;
mod session;
mod setup;
mod spec;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(done) = prepare::hook() {
        return done;
    }
    // The process of the cells is this program too.
    evcxr::runtime_hook();
    commands::main(setup::run)
}
