//! `klab search`: the needle as it was written, the search with its progress, and the cell that does the same.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use probes::guest::Guest;
use probes::memory::GuestVirt;
use probes::search::{Needle, Search};
use vm::Progress as _;

use super::cli::{NeedleKind, SearchFor};
use super::look::{address, shown};
use super::output::{Context, Output};
use super::progress::Shown;
use super::read::{Argument as _, Place};

/// For how long nothing is said.
const QUIET: Duration = Duration::from_millis(500);

/// Searches.
pub(crate) fn run(what: &SearchFor, guest: &Guest, cx: &mut Context<'_>) -> Result<Output> {
    let search = search(what, guest)?;
    let interrupt = std::sync::Arc::clone(&cx.interrupt);
    let hits = {
        let mut shown = Shown::on(cx);
        let (began, mut begun) = (Instant::now(), false);
        search.run_with(&mut |done, total| {
            // A search that is done at once says nothing.
            if !begun && began.elapsed() > QUIET {
                begun = true;
                shown.step("searching");
            }
            shown.bytes(done, total);
            match interrupt.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?
    };
    shown(&hits)
}

fn kind(what: &SearchFor) -> NeedleKind {
    let number = what.needle.starts_with("0x") && address(&what.needle).is_some();
    what.kind.unwrap_or(if number {
        NeedleKind::U64
    } else {
        NeedleKind::Text
    })
}

/// A number as people write it.
fn number(text: &str) -> Result<u64> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.with_context(|| format!("`{text}` is no number: write it as 1234 or 0x4d2"))
}

fn search(what: &SearchFor, guest: &Guest) -> Result<Search> {
    let text = &*what.needle;
    let needle = match kind(what) {
        NeedleKind::Text => Needle::text(text),
        NeedleKind::Bytes => Needle::hex(text)?,
        NeedleKind::U32 => Needle::U32(
            u32::try_from(number(text)?)
                .with_context(|| format!("{text} has more than 32 bits"))?,
        ),
        NeedleKind::U64 => Needle::U64(number(text)?),
        NeedleKind::Pointer => {
            let at: GuestVirt = Place::from(text).resolve(guest)?;
            Needle::pointer_into(at, what.into)
        }
        NeedleKind::Regex => Needle::regex(text),
    };
    let mut search = guest.search(needle).limit(what.limit);
    if what.physical {
        search = search.physical();
    }
    if let Some(pid) = what.pid {
        search = search.user(pid);
    }
    if let Some(bytes) = what.aligned {
        search = search.aligned(bytes);
    }
    Ok(search)
}

/// The cell.
pub(crate) fn code(what: &SearchFor, guest: &str) -> Result<String> {
    let text = &*what.needle;
    let needle = match kind(what) {
        NeedleKind::Text => format!("Needle::text({text:?})"),
        NeedleKind::Bytes => format!("Needle::hex({text:?})?"),
        NeedleKind::U32 => format!("Needle::U32({:#x})", number(text)?),
        NeedleKind::U64 => format!("Needle::U64({:#x})", number(text)?),
        NeedleKind::Pointer => {
            let at = Place::from(text).literal(guest);
            match what.into {
                1 => format!("Needle::pointer({at})"),
                bytes => format!("Needle::pointer_into({at}, {bytes})"),
            }
        }
        NeedleKind::Regex => format!("Needle::regex({text:?})"),
    };
    let mut cell = format!("{guest}.search({needle})");
    if what.physical {
        cell += ".physical()";
    }
    if let Some(pid) = what.pid {
        cell += &format!(".user({pid})");
    }
    if let Some(bytes) = what.aligned {
        cell += &format!(".aligned({bytes})");
    }
    Ok(format!("{cell}.limit({}).run()?", what.limit))
}
