//! A progress bar that moves in place.

use std::time::{Duration, Instant};

use super::{Bundle, Display, check_interrupt, display};

/// Front ends redraw an output whole: ten times a second is as fast as one can look.
const REDRAW: Duration = Duration::from_millis(100);

/// A progress bar that moves in place, and a point where the cell can be interrupted.
///
/// ```no_run
/// # use klab_memory::cell::Progress;
/// let mut progress = Progress::new("pages", 512);
/// for page in 0..512 {
///     progress.set(page + 1);
/// }
/// ```
#[derive(Debug)]
pub struct Progress {
    label: String,
    total: u64,
    done: u64,
    shown: Display,
    drawn: Instant,
}

impl Progress {
    /// Shows an empty bar.
    pub fn new(label: impl Into<String>, total: u64) -> Self {
        let label = label.into();
        let shown = display(bar(&label, 0, total));
        Self {
            label,
            total,
            done: 0,
            shown,
            drawn: Instant::now(),
        }
    }

    /// Moves the bar to `done` of the total.
    ///
    /// # Panics
    ///
    /// If the cell was interrupted, as [`check_interrupt`] does.
    pub fn set(&mut self, done: u64) {
        check_interrupt();
        self.done = done;
        if self.drawn.elapsed() >= REDRAW {
            self.draw();
        }
    }

    fn draw(&mut self) {
        self.shown.update(bar(&self.label, self.done, self.total));
        self.drawn = Instant::now();
    }
}

impl Drop for Progress {
    /// The last state is drawn always: it is what a saved notebook keeps.
    fn drop(&mut self) {
        self.draw();
    }
}

fn bar(label: &str, done: u64, total: u64) -> Bundle {
    let fraction = if total == 0 {
        1.0
    } else {
        (done.min(total) as f64) / (total as f64)
    };
    let filled = (fraction * 30.0) as usize;
    let text = format!(
        "{label} [{}{}] {done}/{total}",
        "#".repeat(filled),
        ".".repeat(30 - filled)
    );
    Bundle::text(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_stays_within_its_width() {
        assert_eq!(
            bar("x", 0, 0).plain(),
            format!("x [{}] 0/0", "#".repeat(30))
        );
        assert_eq!(
            bar("x", 9, 3).plain(),
            format!("x [{}] 9/3", "#".repeat(30))
        );
        assert_eq!(
            bar("x", 1, 2).plain(),
            format!("x [{}{}] 1/2", "#".repeat(15), ".".repeat(15))
        );
    }
}
