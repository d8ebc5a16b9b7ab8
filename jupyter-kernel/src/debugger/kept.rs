//! The guest that this process keeps stopped. It is one, since a notebook has one place where it stands.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use probes::debug::{Reason, Stopped, Where};
use probes::guest::Guest;

/// Interval at which a guest that runs is asked whether it has stopped.
const LOOK: Duration = Duration::from_millis(5);

/// Changes that others want to know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// The guest stands, for this reason (in the Debug Adapter Protocol's words).
    Stopped(&'static str),
    /// It runs, and may stop again.
    Continued,
    /// Nobody debugs it any more.
    Ended,
}

type Listener = Arc<dyn Fn(News) + Send + Sync>;

#[derive(Default)]
struct Kept {
    stopped: Option<Stopped>,
    /// Reason why it is kept no more, which nobody has been told yet.
    lost: Option<String>,
    listener: Option<Listener>,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept {
    stopped: None,
    lost: None,
    listener: None,
});

fn lock() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets who is told of each change.
pub(crate) fn listen(listener: impl Fn(News) + Send + Sync + 'static) {
    lock().listener = Some(Arc::new(listener));
}

/// Tells of a change, without the lock: whoever hears of it looks.
fn tell(news: News) {
    let listener = lock().listener.clone();
    if let Some(listener) = listener {
        listener(news);
    }
}

/// The reason of a stop in the Debug Adapter Protocol's words.
const fn reason(why: &Reason) -> &'static str {
    match why {
        Reason::Breakpoint | Reason::Condition(_) => "function breakpoint",
        Reason::Write(_) => "data breakpoint",
        Reason::Step | Reason::Returned(..) => "step",
        Reason::Interrupted => "pause",
    }
}

/// Keeps a guest that has stopped, in place of the one before.
pub(crate) fn keep(stopped: Stopped) -> Result<()> {
    let why = reason(stopped.why());
    let before = lock().stopped.replace(stopped);
    if let Some(before) = before {
        before.end()?;
    }
    tell(News::Stopped(why));
    Ok(())
}

/// Ends it: the guest runs, without breakpoints. `false` when none is kept.
pub(crate) fn end() -> Result<bool> {
    let Some(stopped) = lock().stopped.take() else {
        return Ok(false);
    };
    stopped.end()?;
    tell(News::Ended);
    Ok(true)
}

/// Ends it if it is this guest.
pub(crate) fn end_of(name: &str) -> Result<bool> {
    let is_it = lock()
        .stopped
        .as_ref()
        .is_some_and(|stopped| is(stopped, name));
    if is_it { end() } else { Ok(false) }
}

fn is(stopped: &Stopped, name: &str) -> bool {
    stopped
        .guest()
        .machine()
        .is_ok_and(|machine| machine.name() == name)
}

/// Tells whether a guest is kept that stands.
pub(crate) fn stands() -> bool {
    lock().stopped.as_ref().is_some_and(Stopped::is_standing)
}

/// Tells whether a guest is kept.
pub(crate) fn is_kept() -> bool {
    lock().stopped.is_some()
}

/// Does something with the guest that is kept.
///
/// # Errors
/// When none is; a guest that was reset or has ended is kept no more.
pub(crate) fn with<T>(work: impl FnOnce(&mut Stopped) -> probes::Result<T>) -> Result<T> {
    let mut kept = lock();
    if let Some(why) = kept.lost.take() {
        bail!("{why}");
    }
    let Some(stopped) = &mut kept.stopped else {
        bail!(
            "this notebook keeps no guest stopped: `klab break FUNCTION --stay` stops it at a call, `klab watch EXPRESSION` behind a write"
        );
    };
    if let Err(error) = stopped.check() {
        kept.stopped = None;
        drop(kept);
        tell(News::Ended);
        return Err(error.into());
    }
    Ok(work(stopped)?)
}

/// Does something with the guest while it stands, to set what it stops at: one that runs is stopped for that moment, and one
/// that is not kept is from then on, if it has something to stop at.
///
/// # Errors
/// When another debugger has it; those of `work`.
pub(crate) fn still<T>(
    guest: &Guest,
    work: impl FnOnce(&mut Stopped) -> probes::Result<T>,
) -> Result<T> {
    let mut kept = lock();
    let new = kept.stopped.is_none();
    let mut stopped = match kept.stopped.take() {
        Some(stopped) => stopped,
        None => guest.stop()?,
    };
    let ran = new || !stopped.is_standing();
    if !ran {
        let done = work(&mut stopped);
        kept.stopped = Some(stopped);
        return Ok(done?);
    }
    stopped.pause()?;
    let done = work(&mut stopped);
    if new && stopped.breakpoints().is_empty() {
        stopped.end()?;
        return Ok(done?);
    }
    // It has come to a stop at that very moment: the watcher tells.
    let met = !new && !matches!(stopped.why(), Reason::Interrupted);
    if !met {
        stopped.release()?;
    }
    kept.stopped = Some(stopped);
    drop(kept);
    if new {
        watcher()?;
    }
    Ok(done?)
}

/// Stops a guest where it is, and keeps it.
///
/// # Errors
/// When it stands still already, or another debugger has it.
pub(crate) fn stop(guest: &Guest) -> Result<()> {
    if is_kept() {
        return pause().map(drop);
    }
    keep(guest.stop()?)
}

/// A move of the guest: a step, a return.
///
/// # Errors
/// As [`with`]; those of the move.
pub(crate) fn go(
    stop: &Arc<AtomicBool>,
    work: impl FnOnce(&mut Stopped) -> probes::Result<Where>,
) -> Result<Where> {
    let here = with(|stopped| {
        stopped.until(Arc::clone(stop));
        work(stopped)
    })?;
    tell(News::Stopped(reason(&here.why)));
    Ok(here)
}

/// Lets the guest run to its next stop, which a thread of this process waits for.
pub(crate) fn release() -> Result<()> {
    let ran = with(|stopped| {
        let ran = !stopped.is_standing();
        stopped.release().map(|()| ran)
    })?;
    tell(News::Continued);
    if !ran {
        watcher()?;
    }
    Ok(())
}

/// Starts the thread that waits for the guest's next stop.
fn watcher() -> Result<()> {
    let thread = thread::Builder::new().name("klab-stops".to_owned());
    Ok(thread.spawn(watch).map(drop)?)
}

/// Waits until the guest stands, or is kept no more.
fn watch() {
    loop {
        let mut kept = lock();
        let Some(stopped) = &mut kept.stopped else {
            return;
        };
        // The command that let it go has told already what stopped at once.
        match stopped.poll() {
            Ok(true) => {
                let why = reason(stopped.why());
                drop(kept);
                return tell(News::Stopped(why));
            }
            Ok(false) => {}
            Err(error) => {
                kept.stopped = None;
                kept.lost = Some(error.to_string());
                drop(kept);
                return tell(News::Ended);
            }
        }
        drop(kept);
        thread::sleep(LOOK);
    }
}

/// Stops the guest where it is.
pub(crate) fn pause() -> Result<Where> {
    let (ran, here) = with(|stopped| Ok((!stopped.is_standing(), stopped.pause()?)))?;
    if ran {
        // The watcher sees that it stands, and tells.
        return Ok(here);
    }
    tell(News::Stopped(reason(&here.why)));
    Ok(here)
}

/// Lets the guest run to its next stop, and waits for that: `None` when it has not come to one in time. A wish to stop stops
/// the guest where it is.
pub(crate) fn go_on(stop: &Arc<AtomicBool>, time: Duration) -> Result<Option<Where>> {
    release()?;
    let until = Instant::now() + time;
    loop {
        thread::sleep(LOOK);
        let here = with(|stopped| match stopped.is_standing() {
            true => stopped.here().map(Some),
            false => Ok(None),
        })?;
        if here.is_some() {
            return Ok(here);
        }
        if stop.load(Ordering::Acquire) {
            return pause().map(Some);
        }
        if Instant::now() >= until {
            return Ok(None);
        }
    }
}
