//! A dump without the rest of klab: the kernel in it, a C expression, and a list walked by hand.
//!
//! ```console
//! $ klab dump default /tmp/core
//! $ cargo run -p klab-memory --example dump /tmp/core
//! ```

// `#[derive(Mirror)]` names the crate `probes`.
extern crate klab_memory as probes;

use std::path::Path;
use std::process::ExitCode;

use klab_memory::Result;
use klab_memory::kernel::Kernel;
use klab_memory::memory::vmcore::Core;
use klab_memory::object::{FixedStr, Mirror, Plan};
use klab_memory::structures::{list_for_each_entry, offset_of};

/// The members of `struct task_struct` that are wanted: they are found by name in the types that the kernel carries.
#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct Task {
    pid: i32,
    comm: FixedStr<16>,
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
    let core = Core::open(path)?;
    let kernel = Kernel::discover(core.memory)?;
    println!("linux {}", kernel.release());
    println!("{}", kernel.eval("init_task.comm")?);
    let task = Plan::<Task>::new(&kernel)?;
    let member = offset_of(&kernel, "struct task_struct", "tasks")?;
    let head = kernel.symbol("init_task")?.offset(member);
    for at in list_for_each_entry(&kernel, head, member) {
        let task = task.load(at?)?;
        println!("{:>7} {}", task.pid, task.comm);
    }
    Ok(())
}
