//! A copy of the cells' process as it was before a cell. Where the cell ends the process, by a fault, an `exit`, or since it did not
//! stop when it was asked to, the copy goes on: with the variables as they were.
//!
//! The copy is made by fork(2) when a cell that has variables begins, and ended when the cell is over; what it costs is what the
//! cell writes to meanwhile. It sleeps until its maker dies. A fork has the one thread that made it, so a lock that another
//! thread held would be held for ever: it is made only where all other threads are this library's own, which then wait
//! to be told something and hold nothing; they are begun anew. With threads of the cells' own (a runtime of tokio,
//! `std::thread`) what they did would be missing in the copy, and the process ends as it would without one.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use fork::Fork;
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpid, getppid};

use super::front::{self, Event};

/// Tells evcxr that the cell has ended by a panic: then what it would have defined is not there.
const PANICKED: &str = "EVCXR_PANIC_NOTIFICATION";
/// Signal that a copy waits for. It comes for each thread of its maker; one that comes when nobody waits any more does
/// nothing.
const DIED: Signal = Signal::SIGURG;
/// The names of this library's threads.
pub(super) const FRONT_END: &str = "klab front end";
pub(super) const STDIN: &str = "klab stdin";
pub(super) const STREAMS: &str = "klab streams";

/// The copy of this process, while a cell runs.
static COPY: AtomicI32 = AtomicI32::new(0);
/// The next look at a variable is the first one of a cell.
static DUE: AtomicBool = AtomicBool::new(true);

/// Keeps a copy, if this is the first that the cell asks for its variables. Returns whether this process is the copy and the
/// cell has ended its maker: then nothing of the cell is to run.
pub(super) fn keep() -> bool {
    if !front::has_front() || !DUE.swap(false, Ordering::SeqCst) || !is_alone().unwrap_or(false) {
        return false;
    }
    let maker = getpid();
    match fork::fork() {
        Ok(Fork::Parent(copy)) => {
            COPY.store(copy, Ordering::SeqCst);
            front::send(&Event::Copy { pid: copy });
            false
        }
        Ok(Fork::Child) => {
            if outlives(maker).and_then(|()| front::go_on()).is_err() {
                // Without a way to the kernel nobody would end it.
                let _ = raise(Signal::SIGKILL);
            }
            front::send(&Event::Kept {});
            println!("{PANICKED}");
            true
        }
        // No memory for a second process: this one does without.
        Err(_) => false,
    }
}

/// The cell is over: its copy is not needed.
pub(super) fn end() {
    let copy = COPY.swap(0, Ordering::SeqCst);
    if copy > 0 {
        let copy = Pid::from_raw(copy);
        // One that has been killed is waited for all the same.
        let _ = kill(copy, Signal::SIGKILL);
        while waitpid(copy, None) == Err(Errno::EINTR) {}
    }
    DUE.store(true, Ordering::SeqCst);
}

/// Tells whether all threads but the one that runs the cells are this library's.
fn is_alone() -> io::Result<bool> {
    let own = getpid().to_string();
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?;
        let name = fs::read_to_string(task.path().join("comm"))?;
        if task.file_name() != *own && ![FRONT_END, STDIN, STREAMS].contains(&name.trim_end()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits, in the copy, for the death of its maker.
fn outlives(maker: Pid) -> io::Result<()> {
    let mut died = SigSet::empty();
    died.add(DIED);
    died.thread_block()?;
    set_pdeathsig(DIED)?;
    // It may have died before.
    if getppid() == maker {
        died.wait()?;
    }
    // The signal comes when the thread has died that made the copy; the others may die a moment later.
    while getppid() == maker {
        thread::sleep(Duration::from_millis(1));
    }
    set_pdeathsig(None)?;
    died.thread_unblock()?;
    Ok(())
}
