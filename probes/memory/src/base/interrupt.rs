//! Stopping a cell that runs, with its variables kept.
//!
//! An interrupt is a signal to the cell's process. Its handler only sets a flag; the library's loops
//! look at the flag and leave by a panic, which evcxr catches at the end of the cell. A loop that
//! never looks is ended by the front end, which kills the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Payload of the panic of an interrupted cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted;

/// Leaves the cell if the user asked to interrupt it; costs one load otherwise.
///
/// Every loop of this library whose length the guest decides calls this, and so may a cell's own.
///
/// # Panics
///
/// With [`Interrupted`] as payload, if an interrupt was asked for since the cell began.
#[inline]
pub fn check_interrupt() {
    if REQUESTED.load(Ordering::Relaxed) {
        leave();
    }
}

#[cold]
fn leave() {
    clear();
    std::panic::panic_any(Interrupted);
}

/// Forgets an interrupt that came too late for the last cell.
pub fn clear() {
    REQUESTED.store(false, Ordering::Relaxed);
}

/// The flag itself, for waits that look at it in their own way.
pub fn flag() -> Arc<AtomicBool> {
    Arc::clone(&REQUESTED)
}

/// Makes SIGINT set the flag instead of ending the process.
///
/// # Errors
/// When the system refuses.
pub fn install() -> std::io::Result<()> {
    interrupt_on(signal_hook::consts::SIGINT)
}

/// Makes a signal set the flag that [`check_interrupt`] looks at, instead of ending the process: for programs of their own.
///
/// # Errors
/// When the system refuses.
pub fn interrupt_on(signal: i32) -> std::io::Result<()> {
    signal_hook::flag::register(signal, Arc::clone(&REQUESTED)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set in the process that takes the signal: the other tests of this one must not see the flag.
    const ALONE: &str = "KLAB_TEST_SIGNAL";

    #[test]
    fn a_signal_makes_the_next_check_leave_once() {
        if std::env::var_os(ALONE).is_none() {
            let name = "base::interrupt::tests::a_signal_makes_the_next_check_leave_once";
            let test = std::process::Command::new(std::env::current_exe().unwrap())
                .args([name, "--exact"])
                .env(ALONE, "1")
                .output()
                .unwrap();
            assert!(
                test.status.success(),
                "{}",
                String::from_utf8_lossy(&test.stdout)
            );
            assert!(String::from_utf8_lossy(&test.stdout).contains("1 passed"));
            return;
        }
        install().unwrap();
        check_interrupt();
        signal_hook::low_level::raise(signal_hook::consts::SIGINT).unwrap();
        let payload = std::panic::catch_unwind(check_interrupt).unwrap_err();
        assert!(payload.is::<Interrupted>());
        check_interrupt();
    }
}
