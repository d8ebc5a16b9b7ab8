//! Recording while a command runs in the guest, until it ends or the user has seen enough.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use probes::guest::Guest;
use probes::skb::{CaptureOptions, Paths};

use super::output::{Context, Stream};

/// Interval at which the rings are read.
const EVERY: Duration = Duration::from_millis(20);
/// Time that a command that was killed may take to end: a guest that hangs must not keep what was recorded.
const PATIENCE: Duration = Duration::from_secs(2);

/// The packets that the guest's kernel handles while a command runs in it, and whether that was interrupted: then the
/// command is ended, and the packets are those until then.
pub(super) fn run(
    guest: &Guest,
    options: CaptureOptions,
    command: &[String],
    cx: &mut Context<'_>,
) -> Result<(Paths, bool)> {
    // An interrupt ends the steps before, such as building the module, as ever.
    let mut capture = guest.capture(options)?;
    cx.catch_interrupts()?;
    let mut client = guest.agent()?;
    let (canceller, command) = (client.canceller(), command.to_vec());
    let work = thread::spawn(move || client.output(&command));
    let mut interrupted = None;
    while !work.is_finished() {
        match interrupted {
            None if cx.interrupt.load(Ordering::Acquire) => {
                interrupted = Some(Instant::now());
                canceller.cancel();
            }
            Some(since) if since.elapsed() > PATIENCE => {
                let said = "the command did not end: it may still run in the guest\n";
                (cx.sink)(Stream::Stderr, said.as_bytes());
                break;
            }
            _ => {}
        }
        if let Err(error) = capture.drain() {
            canceller.cancel();
            return Err(error.into());
        }
        thread::sleep(EVERY);
    }
    if interrupted.is_some() {
        let said = "interrupted: these are the packets until then\n";
        (cx.sink)(Stream::Stderr, said.as_bytes());
        return Ok((capture.paths()?, true));
    }
    work.join()
        .map_err(|_| anyhow!("the thread that ran the command panicked"))??;
    capture.settle()?;
    Ok((capture.paths()?, false))
}
