//! Stopping a cell that runs: gently, then for good.
//!
//! A signal makes the loops of `probes` leave, which keeps the cell's variables. A cell that has not
//! ended soon after is killed with its process; the copy that the process made of itself before the cell goes on then, if there
//! is one. While rustc compiles nothing runs yet, and ending the compiler keeps all.

use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::prepare;

/// Time that a cell may take to leave by itself.
const GRACE: Duration = Duration::from_millis(600);
/// Time that the copy of its process may take to go on.
const GOES_ON: Duration = Duration::from_secs(3);

/// Stops the cell that runs, from any thread.
#[derive(Debug, Default)]
pub(crate) struct Interrupter {
    child: OnceLock<Arc<Mutex<Child>>>,
    /// The copy that goes on when the process dies; 0 while there is none.
    copy: AtomicI32,
    /// The copy that runs the cells instead of evcxr's child; 0 while that does.
    moved: AtomicI32,
    /// The number of the cell that runs; 0 between cells.
    running: AtomicU64,
    requested: AtomicBool,
    killed: AtomicBool,
}

impl Interrupter {
    /// Says which process runs the cells; the handle outlives restarts.
    pub(super) fn watch(&self, child: Arc<Mutex<Child>>) {
        let _ = self.child.set(child);
    }

    /// Says that there is a copy of the process, or none any more (0).
    pub(super) fn copied(&self, pid: i32) {
        self.copy.store(pid, Ordering::SeqCst);
    }

    /// Says that the copy runs the cells now, and gives the exit status of its maker: known if that was evcxr's own child,
    /// which is then reaped; a copy is no child of this process.
    pub(super) fn moved(&self) -> Option<ExitStatus> {
        let copy = self.copy.swap(0, Ordering::SeqCst);
        if self.moved.swap(copy, Ordering::SeqCst) != 0 {
            return None;
        }
        let mut child = self
            .child
            .get()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        child.try_wait().ok().flatten()
    }

    /// Says that the process has gone with all its copies.
    pub(super) fn gone(&self) {
        self.copied(0);
        self.moved.store(0, Ordering::SeqCst);
    }

    pub(super) fn begin(&self, cell: u64) {
        self.requested.store(false, Ordering::SeqCst);
        self.killed.store(false, Ordering::SeqCst);
        self.running.store(cell, Ordering::SeqCst);
    }

    pub(super) fn end(&self) {
        self.running.store(0, Ordering::SeqCst);
    }

    /// Tells whether someone asked to stop this cell.
    pub(crate) fn requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// Tells whether this cell's process was killed for it.
    pub(super) fn killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    /// Stops the cell that runs, if any. Returns when it has ended or was killed.
    pub(crate) fn interrupt(&self) {
        let cell = self.running.load(Ordering::SeqCst);
        if cell == 0 {
            return;
        }
        self.requested.store(true, Ordering::SeqCst);
        let child = self.child_pid();
        let mut compilers = compilers(child);
        // It compiles nothing.
        compilers.retain(|pid| !prepare::waits(*pid));
        if compilers.is_empty() {
            signal(child, Signal::SIGINT);
        } else {
            compilers
                .into_iter()
                .for_each(|pid| signal(Some(pid), Signal::SIGTERM));
        }
        if self.ends(cell, GRACE) {
            return;
        }
        self.killed.store(true, Ordering::SeqCst);
        // It may run the cells in a moment, and be none any more.
        let has_copy = self.copy.load(Ordering::SeqCst) != 0;
        signal(self.child_pid(), Signal::SIGKILL);
        if !has_copy || !self.ends(cell, GOES_ON) {
            self.kill();
        }
    }

    /// Waits for the cell to end.
    fn ends(&self, cell: u64, patience: Duration) -> bool {
        let start = Instant::now();
        while start.elapsed() < patience {
            if self.running.load(Ordering::SeqCst) != cell {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Kills the process of the cells, its copy, and its compilers.
    pub(crate) fn kill(&self) {
        let copy = self.copy.load(Ordering::SeqCst);
        signal((copy != 0).then_some(copy), Signal::SIGKILL);
        let child = self.child_pid();
        signal(child, Signal::SIGKILL);
        compilers(child)
            .into_iter()
            .for_each(|pid| signal(Some(pid), Signal::SIGKILL));
    }

    fn child_pid(&self) -> Option<i32> {
        let moved = self.moved.load(Ordering::SeqCst);
        if moved != 0 {
            return Some(moved);
        }
        let child = self
            .child
            .get()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        i32::try_from(child.id()).ok()
    }
}

fn signal(pid: Option<i32>, signal: Signal) {
    if let Some(pid) = pid {
        // A process that has just ended needs no signal.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// The children of this process but the one that runs the cells: cargo or rustc, when evcxr compiles, and the rustc that waits for the next cell.
fn compilers(cells: Option<i32>) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).ok();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| Some(*pid) != cells && parent(*pid) == own)
        .collect()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // `PID (NAME) STATE PPID ...`, where the name may hold anything.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_are_the_other_children() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(compilers(None).contains(&pid));
        assert!(!compilers(Some(pid)).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
