//! A dump on its own, without QEMU: which kernel it is of, a C expression, and a structure of one's own choice.
//!
//! ```console
//! $ klab dump default /tmp/core
//! $ cargo run -p probes --example dump /tmp/core
//! ```

use std::path::Path;
use std::process::ExitCode;

use probes::object::{FixedStr, Mirror};
use probes::{Guest, Result};

/// The members of `struct task_struct` that are wanted: they are found by name in the types that the kernel carries.
#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct Task {
    pid: i32,
    comm: FixedStr<16>,
    /// `state` before Linux 5.14.
    #[mirror(member = "__state", or = "state")]
    state: u64,
}

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: dump FILE");
        return ExitCode::FAILURE;
    };
    match show(Path::new(&path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn show(path: &Path) -> Result<()> {
    let guest = Guest::open_core(path)?;
    println!("linux {}", guest.kernel()?.release());
    println!("{}", guest.eval("init_task.tasks.next")?);
    for task in &guest.tasks()? {
        let own: Task = guest.load(task.at)?;
        println!("{:>7} {:<15} {:#x}", own.pid, own.comm, own.state);
    }
    Ok(())
}
