//! Builds a module for a guest's kernel and loads it there: `load_module GUEST NAME FOLDER`, a folder with the module's
//! sources and a `Kbuild`. Prints the path of the `.ko`, which has the module's debug information. For tests in other
//! languages.

use std::path::Path;
use std::process::ExitCode;

use vm::toolchain::Toolchain;
use vm::{Machine, Progress};

/// Steps, on standard error.
struct Steps;

impl Progress for Steps {
    fn step(&mut self, text: &str) {
        eprintln!("{text}");
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [guest, name, folder] = words.as_slice() else {
        eprintln!("usage: load_module GUEST NAME FOLDER");
        return ExitCode::FAILURE;
    };
    match load(guest, name, Path::new(folder)) {
        Ok(path) => {
            println!("{path}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn load(guest: &str, name: &str, folder: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let machine = Machine::attach(guest)?;
    let toolchain = Toolchain::of(machine.kernel()?)?;
    toolchain.ensure(&mut Steps)?;
    let module = toolchain.build(name, folder, &mut Steps)?;
    let to = format!("/run/{name}.ko");
    let mut client = machine.agent()?;
    client.push_file(&module, &to)?;
    client.load_module(&to, "")?;
    Ok(module.display().to_string())
}
