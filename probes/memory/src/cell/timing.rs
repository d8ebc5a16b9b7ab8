//! Time of code that runs many times: what `%timeit` runs.

use std::fmt;
use std::time::{Duration, Instant};

use super::check_interrupt;

/// Time after which no further round begins.
const LONG: Duration = Duration::from_secs(2);
/// Time that a round is to take, so that the clock does not count.
const ROUND: Duration = Duration::from_millis(1);
/// Rounds of that length after which it is enough.
const ROUNDS: u32 = 200;

/// The times of code that is run in rounds, each of as many runs as [`Timing::round`] asks for.
#[derive(Debug, Default)]
pub struct Timing {
    /// The runs of the round that is under way, and when it began.
    now: Option<(u32, Instant)>,
    runs: u64,
    total: Duration,
    /// The shortest time of one run, by the mean of its round.
    least: Option<Duration>,
    /// The rounds that were long enough.
    whole: u32,
}

impl Timing {
    /// Ends the round that is under way; gives how many runs the next one is to have, or `None` when it is enough: after 2 s,
    /// or after 200 rounds of a millisecond.
    ///
    /// # Panics
    ///
    /// If the cell was interrupted, as [`check_interrupt`] does.
    pub fn round(&mut self) -> Option<u32> {
        let next = match self.now.take() {
            None => 1,
            Some((runs, begun)) => self.ended(runs, begun.elapsed()),
        };
        check_interrupt();
        if self.total >= LONG || self.whole >= ROUNDS {
            return None;
        }
        self.now = Some((next, Instant::now()));
        Some(next)
    }

    /// Adds a round; gives how many runs the next one is to have.
    fn ended(&mut self, runs: u32, took: Duration) -> u32 {
        self.runs += u64::from(runs);
        self.total += took;
        let one = took / runs;
        self.least = Some(self.least.map_or(one, |least| least.min(one)));
        if took < ROUND {
            return runs.saturating_mul(2);
        }
        self.whole += 1;
        runs
    }
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.total.as_nanos() / u128::from(self.runs.max(1));
        let mean = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let least = self.least.unwrap_or_default();
        let runs = self.runs;
        write!(f, "mean {mean:.3?}, least {least:.3?}, {runs} runs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_code_runs_in_rounds_and_slow_code_once() {
        let mut quick = Timing::default();
        let one = Duration::from_micros(10);
        let mut next = 1;
        while quick.whole < 3 {
            next = quick.ended(next, one * next);
        }
        // 1, 2, 4, .. 64; and three times 128.
        assert_eq!(quick.to_string(), "mean 10.000µs, least 10.000µs, 511 runs");
        let mut slow = Timing::default();
        assert_eq!(slow.round(), Some(1));
        slow.now = None;
        slow.ended(1, LONG);
        assert_eq!(slow.to_string(), "mean 2.000s, least 2.000s, 1 runs");
        assert_eq!((slow.whole, slow.total >= LONG), (1, true));
    }

    #[test]
    fn it_ends() {
        let mut timing = Timing::default();
        while let Some(runs) = timing.round() {
            (0..runs).map(std::hint::black_box).for_each(|_| {});
        }
        assert!(timing.runs > 1000 && timing.total < LONG * 2, "{timing}");
    }
}
