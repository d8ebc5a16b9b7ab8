//! Compiles the keeper (`keeper/main.rs`), which the library carries: a program without dependencies.

use std::error::Error;
use std::path::Path;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    for source in ["build.rs", "keeper/main.rs", "src/lease/book.rs"] {
        println!("cargo::rerun-if-changed={source}");
    }
    let folder = std::env::var("OUT_DIR")?;
    let built = Command::new(std::env::var("RUSTC")?)
        .args(["--edition=2024", "--crate-name=klab_keeper", "--target"])
        .arg(std::env::var("TARGET")?)
        .args(["-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols", "-o"])
        .arg(Path::new(&folder).join("klab-keeper"))
        .arg("keeper/main.rs")
        .status()?;
    if built.success() {
        Ok(())
    } else {
        Err("the keeper does not compile".into())
    }
}
