//! The program of the Rust cells: evcxr, its compiler, and the process that runs the compiled cells.
//!
//! `klab` starts it, and is small without it. It is the kernel's other end of [`klab_language::wire`], the `cargo` that
//! evcxr calls, and, started again by evcxr, the process of the cells.

mod prepare;
mod serve;
mod session;

use std::env;
use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> ExitCode {
    if let Some(done) = prepare::hook() {
        return done;
    }
    evcxr::runtime_hook();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("klab-cells: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve"] => serve::run(),
        ["prepare"] => prepare::prepare(&|text| eprint!("{text}")),
        ["prepare", "--template"] => prepare::build(),
        ["status"] => {
            println!("{}", serde_json::to_string(&prepare::status())?);
            Ok(())
        }
        _ => bail!("this is a part of klab, which starts it: see `klab --help`"),
    }
}
