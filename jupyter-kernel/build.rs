//! Puts the accepted outputs of the readers, as they are on a dump, into the manuals of their commands.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The accepted outputs of one kernel: see `probes/tests/dumps.rs`.
const ACCEPTED: &str = "../probes/tests/dumps/7.3";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={ACCEPTED}");
    let mut list = String::from("&[\n");
    let files = fs::read_dir(Path::new(ACCEPTED))?;
    let files = files.map(|entry| entry.map(|entry| entry.path()));
    let mut files = files.collect::<io::Result<Vec<PathBuf>>>()?;
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file)?;
        // Before it is what insta knows of it, behind it the shape of the JSON.
        let text = text.splitn(3, "---\n").last().unwrap_or_default();
        let text = text.split("\n--json\n").next().unwrap_or_default();
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        writeln!(list, "({name:?}, {:?}),", text.trim_end()).map_err(io::Error::other)?;
    }
    list.push(']');
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    fs::write(Path::new(&out).join("accepted.rs"), list)
}
