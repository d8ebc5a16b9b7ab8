//! `cargo xtask`: from nothing to a lesson in the browser, every test, and the way back to nothing.
//!
//! This program is the first thing a newcomer's machine compiles, so it uses the standard library and `anyhow` only.

mod bench;
mod board;
mod cells;
mod cites;
mod clean;
#[cfg(test)]
mod documents;
mod drgn;
mod failures;
mod guests;
mod lab;
mod lane;
mod packages;
mod paths;
mod process;
mod program;
mod python;
mod stages;
mod stamp;
mod tally;
mod tree;
mod wheel;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
cargo xtask lab [--headless] [--no-browser]   set everything up, boot the guest, open the lessons
                --headless    execute the first lessons here and print what they show
                --no-browser  print the address, open nothing
cargo xtask cells                             build what Rust cells need, as lab does behind the lessons
cargo xtask wheel                             build one file that pip installs, with all but Rust cells, for machines without Rust
cargo xtask test [STAGE..]                    run every test, or only these stages:
                fmt clippy unit live drgn drgn-suite kernel browser stock wheel notebooks
                layouts: every structure and global, by BTF and by DWARF (fetches 350 MB)
                drgn-dump: drgn's own tests on klab, and on a dump of the same guest (the same 350 MB)
                soak: readers, recordings, dumps, kills and resets on three guests for KLAB_TEST_SOAK minutes (10)
                matrix, or one kernel of vm/src/kernels/matrix.txt: the readers on each kernel
cargo xtask cites [FOLDER..]                  hold the citations PATH:LINE@TAG against the kernel's source: what klab has
                unpacked of it, and these folders, each a source of one version
cargo xtask bench [core|skb|cell] [FLAG..]    klab's figures beside its peers' (--help lists the flags)
cargo xtask clean                             remove everything that was made";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<ExitCode> {
    match words {
        ["lab", flags @ ..] => {
            let mut lab = lab::Lab::default();
            for flag in flags {
                match *flag {
                    "--headless" => lab.headless = true,
                    "--no-browser" => lab.no_browser = true,
                    other => bail!("lab has no flag {other}\n{USAGE}"),
                }
            }
            lab.run()
        }
        ["cells"] => cells::run(),
        ["wheel"] => wheel::run(),
        ["test", names @ ..] => stages::run(names),
        ["cites", folders @ ..] => cites::run(folders),
        ["bench", words @ ..] => bench::run(words),
        ["clean"] => clean::run(),
        [] | ["help" | "-h" | "--help"] => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        [other, ..] => bail!("there is no `cargo xtask {other}`\n{USAGE}"),
    }
}
