//! The build of `klab-cells` behind the first lessons, as a cell that needs its end sees it.

use std::fs::{self, File, TryLockError};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use klab_language::{Bundle, CellError, Shown, Sink, Stop};
use probes::view::escape;

/// File in the cache: a builder (`cargo xtask lab`) holds its lock while it works, and writes its progress into it.
const BUILD: &str = "cells-build";
/// Interval at which a cell looks for the state of the build.
const LOOK: Duration = Duration::from_millis(200);
/// Width of the bar, in characters.
const WIDTH: u64 = 30;

/// State of the build, if somebody builds: a builder that died holds no lock.
pub(crate) fn under_way() -> Option<String> {
    let path = vm::paths::cache().ok()?.join(BUILD);
    let file = File::open(&path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => fs::read_to_string(path).ok(),
        _ => None,
    }
}

/// Waits until nobody builds, and shows the progress meanwhile.
///
/// # Errors
/// If the cell is to stop.
pub(super) fn wait(show: &Sink, stop: &Stop) -> Result<(), CellError> {
    let Some(mut said) = under_way() else {
        return Ok(());
    };
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let id = format!("klab-build-{}-{count}", std::process::id());
    let draw = |update, data| {
        let id = Some(id.clone());
        show(Shown::Display { id, update, data });
    };
    let begun = Instant::now();
    draw(false, bar(&said));
    loop {
        pause(LOOK, stop)?;
        let Some(now) = under_way() else { break };
        if now != said && !now.is_empty() {
            draw(true, bar(&now));
            said = now;
        }
    }
    let waited = begun.elapsed().as_secs();
    draw(
        true,
        text(format!(
            "the program of the Rust cells is built: this cell waited {waited} s"
        )),
    );
    Ok(())
}

/// Sleeps, unless the cell is to stop.
///
/// # Errors
/// If it is.
pub(super) fn pause(time: Duration, stop: &Stop) -> Result<(), CellError> {
    if stop.load(Ordering::SeqCst) {
        return Err(CellError::new(
            "Interrupted",
            "the cell was stopped before it ran",
        ));
    }
    thread::sleep(time);
    Ok(())
}

fn text(text: String) -> Bundle {
    Bundle::from_iter([("text/plain".to_owned(), text.into())])
}

/// The builder's message, with a bar where that begins with `12/345`.
fn bar(said: &str) -> Bundle {
    const WHAT: &str = "Rust cells are being built";
    let said = said.trim();
    let count = said.split_whitespace().next().and_then(|count| {
        let (done, all) = count.split_once('/')?;
        Some((done.parse::<u64>().ok()?, all.parse::<u64>().ok()?))
    });
    let Some((done, all)) = count.filter(|(done, all)| *all > 0 && done <= all) else {
        return text(format!("{WHAT}: {said}"));
    };
    let filled = "#".repeat((done * WIDTH / all) as usize);
    let mut data = text(format!("{WHAT} [{filled:.<30}] {said}"));
    let html = format!(
        "{WHAT} <progress value=\"{done}\" max=\"{all}\"></progress> {}",
        escape(said)
    );
    data.insert("text/html".to_owned(), html.into());
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(said: &str) -> String {
        bar(said)["text/plain"].as_str().unwrap().to_owned()
    }

    #[test]
    fn the_bar_says_how_many_crates_are_done() {
        assert_eq!(
            plain("103/206 crates (salsa)\n"),
            format!(
                "Rust cells are being built [{}{}] 103/206 crates (salsa)",
                "#".repeat(15),
                ".".repeat(15)
            )
        );
        let html = bar("1/2 crates (<x>)")["text/html"].to_string();
        assert!(
            html.contains("max=\\\"2\\\"") && html.contains("&lt;x&gt;"),
            "{html}"
        );
        for odd in ["", "3/0 x", "9/3", "compiling the library"] {
            assert_eq!(plain(odd), format!("Rust cells are being built: {odd}"));
        }
    }

    #[test]
    fn a_cell_that_waits_can_be_stopped() {
        let stop = Stop::new(true.into());
        let stopped = pause(Duration::ZERO, &stop).unwrap_err();
        assert_eq!(stopped.ename, "Interrupted");
    }
}
