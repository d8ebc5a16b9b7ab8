//! CPUs and tasks as threads. The CPU that has stopped is always thread 1: JupyterLab asks for no other
//! (`_currentThread()`, packages/debugger/src/service.ts@v4.0.0).

use anyhow::Result;
use probes::debug::Stopped;
use probes::unwind::StackTrace;
use serde_json::{Value, json};

/// The CPU that has stopped.
pub(super) const STOPPED: i64 = 1;
/// CPU 0, where it is another one.
const CPUS: i64 = 2;
/// The task with PID 0; there are fewer CPUs than that.
const TASKS: i64 = 100_000;

/// All threads: the CPUs, then the tasks that no CPU runs.
pub(super) fn list(stopped: &Stopped) -> Result<Vec<Value>> {
    let guest = stopped.guest().clone();
    let own = stopped.cpu();
    let cpus = guest.machine()?.registers()?.len() as u32;
    let mut threads = Vec::new();
    let mut running = Vec::new();
    let others = (0..cpus).filter(|cpu| *cpu != own);
    for cpu in std::iter::once(own).chain(others) {
        let id = if cpu == own {
            STOPPED
        } else {
            CPUS + i64::from(cpu)
        };
        let name = match guest.current(cpu) {
            Ok(task) => {
                running.push(task.pid);
                format!("CPU {cpu}: {} {}", task.pid, task.comm)
            }
            Err(error) => format!("CPU {cpu}: {error}"),
        };
        threads.push(json!({"id": id, "name": name}));
    }
    for task in guest.tasks()?.iter() {
        if !running.contains(&task.pid) {
            let id = TASKS + i64::from(task.pid);
            threads.push(json!({"id": id, "name": format!("{} {}", task.pid, task.comm)}));
        }
    }
    Ok(threads)
}

/// The frames of a thread.
pub(super) fn stack(stopped: &Stopped, id: i64) -> Result<StackTrace> {
    Ok(match id {
        STOPPED => stopped.stack()?,
        _ if id >= TASKS => {
            let pid = i32::try_from(id - TASKS)?;
            stopped.guest().paused(|guest| guest.stack_trace(pid))?
        }
        _ => stopped.stack_of(u32::try_from(id - CPUS)?)?,
    })
}
