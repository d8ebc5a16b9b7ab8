//! The threads of a running guest: how many are in each state, and which five were started last.
//!
//! ```console
//! $ klab up
//! $ cargo run -p probes --example tasks default
//! ```

use std::collections::BTreeMap;
use std::process::ExitCode;

use probes::{Guest, Result};

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        eprintln!("usage: tasks GUEST");
        return ExitCode::FAILURE;
    };
    match Guest::attach(&name).and_then(|guest| show(&guest)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn show(guest: &Guest) -> Result<()> {
    let mut tasks = guest.tasks()?;
    // A part that could not be read is said, never left out in silence.
    for missing in &tasks.missing {
        println!("missing: {missing}");
    }
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    for task in &tasks {
        *states.entry(task.state.to_string()).or_default() += 1;
    }
    println!("{} threads: {states:?}", tasks.len());
    tasks.items.sort_by_key(|task| task.start_time);
    for task in tasks.iter().rev().take(5) {
        let seconds = task.start_time / 1_000_000_000;
        println!(
            "{:>7} {:<15} started {seconds} s after boot",
            task.pid, task.comm
        );
    }
    Ok(())
}
