//! A view that is shown anew every so often.

use std::fmt;
use std::time::{Duration, Instant};

use super::{Bundle, check_interrupt, display};
use crate::view::View;

/// Interval at which a wait looks whether the cell is stopped.
const LOOK: Duration = Duration::from_millis(20);

/// Shows a view in one place, read anew every `every`, until the cell is stopped.
///
/// ```no_run
/// # use std::time::Duration;
/// # use klab_memory::{Result, cell::watch, kernel::Kernel};
/// # fn demo(kernel: &Kernel) -> Result<()> {
/// watch(Duration::from_secs(1), || kernel.eval("jiffies_64"))?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The error of `read`; what was read before stays.
///
/// # Panics
///
/// If the cell is stopped, as [`check_interrupt`] does: its variables are kept.
pub fn watch<V: View, E: fmt::Display>(
    every: Duration,
    mut read: impl FnMut() -> Result<V, E>,
) -> Result<(), E> {
    let shown = display(Bundle::from(&read()?));
    loop {
        let begun = Instant::now();
        while begun.elapsed() < every {
            check_interrupt();
            std::thread::sleep(LOOK.min(every));
        }
        check_interrupt();
        shown.update(Bundle::from(&read()?));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Text(&'static str);

    impl View for Text {
        fn text(&self) -> String {
            self.0.to_owned()
        }
    }

    #[test]
    fn a_watch_ends_with_what_its_reader_fails_with() {
        let mut times = 0;
        let ended = watch(Duration::from_millis(1), || {
            times += 1;
            match times {
                4 => Err("gone"),
                _ => Ok(Text("x")),
            }
        });
        assert_eq!((ended, times), (Err("gone"), 4));
    }
}
