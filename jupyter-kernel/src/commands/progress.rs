//! Lines of a long step on stderr: the step, its bytes, its time.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vm::Progress;

use super::output::{Context, Stream};

/// Shows the steps of a machine on the context's stderr.
pub(crate) struct Shown<'a, 'b> {
    cx: &'a mut Context<'b>,
    step: Option<(String, Instant)>,
    drawn: Instant,
    bytes: u64,
}

/// Shortest time between two states of a line.
const EVERY: Duration = Duration::from_millis(100);

impl<'a, 'b> Shown<'a, 'b> {
    /// Shows on `cx`.
    pub(crate) fn on(cx: &'a mut Context<'b>) -> Self {
        Self {
            cx,
            step: None,
            drawn: Instant::now(),
            bytes: 0,
        }
    }

    fn end(&mut self) {
        let Some((step, since)) = self.step.take() else {
            return;
        };
        let seconds = since.elapsed().as_secs_f64();
        let bytes = if self.bytes > 0 {
            format!(", {}", mib(self.bytes))
        } else {
            String::new()
        };
        let back = if self.cx.rewrites { "\r\x1b[K" } else { "" };
        (self.cx.sink)(
            Stream::Stderr,
            format!("{back}{step}: {seconds:.1} s{bytes}\n").as_bytes(),
        );
    }
}

impl Drop for Shown<'_, '_> {
    fn drop(&mut self) {
        self.end();
    }
}

impl Progress for Shown<'_, '_> {
    fn step(&mut self, text: &str) {
        self.end();
        (self.step, self.bytes) = (Some((text.to_owned(), Instant::now())), 0);
        if self.cx.rewrites {
            (self.cx.sink)(Stream::Stderr, format!("{text} ..").as_bytes());
        }
    }

    fn stopped(&self) -> bool {
        self.cx.interrupt.load(Ordering::Acquire)
    }

    fn bytes(&mut self, done: u64, total: u64) {
        self.bytes = done;
        if !self.cx.rewrites || self.drawn.elapsed() < EVERY {
            return;
        }
        self.drawn = Instant::now();
        let Some((step, since)) = &self.step else {
            return;
        };
        let seconds = since.elapsed().as_secs_f64();
        let line = format!(
            "\r\x1b[K{step}: {} of {}, {seconds:.0} s",
            mib(done),
            mib(total)
        );
        (self.cx.sink)(Stream::Stderr, line.as_bytes());
    }
}

/// `12.3 MiB`.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20)
}
