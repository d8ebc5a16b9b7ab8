//! `klab search`: the needle as it was written, the search with its progress, and the cell that does the same.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use probes::guest::Guest;
use probes::memory::GuestVirt;
use probes::readers::Argument as _;
use probes::search::{Needle, Search};
use vm::Progress as _;

use super::output::{Context, Output};
use super::progress::Shown;
use super::source::Source;

/// Time for which nothing is said.
const QUIET: Duration = Duration::from_millis(500);

/// What to search for, and where.
#[derive(Debug, Args)]
pub(crate) struct SearchFor {
    /// What to search for
    needle: String,
    /// What it is [default: u64 for a number in hexadecimal with 0x, else text]
    #[arg(long = "as", value_name = "KIND")]
    kind: Option<NeedleKind>,
    /// With `--as pointer`: pointers into so many bytes from the address on
    #[arg(long, value_name = "BYTES", default_value_t = 1)]
    into: u64,
    /// Search all of physical memory instead of what the kernel has mapped
    #[arg(long, conflicts_with = "pid")]
    physical: bool,
    /// Search the memory of this process instead
    #[arg(long)]
    pid: Option<i32>,
    /// Only at multiples of so many bytes [default: its size for values and pointers, else 1]
    #[arg(long, value_name = "BYTES")]
    aligned: Option<u64>,
    /// End after so many hits
    #[arg(long, value_name = "HITS", default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    pub(super) source: Source,
}

/// What a needle of a search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum NeedleKind {
    /// Text
    Text,
    /// Bytes in hexadecimal
    Bytes,
    /// A 32-bit number
    U32,
    /// A 64-bit number
    U64,
    /// Pointers to an address: in hexadecimal, a symbol, or a C expression
    Pointer,
    /// A regular expression on bytes
    Regex,
}

/// Searches.
pub(super) fn run(what: &SearchFor, guest: &Guest, cx: &mut Context<'_>) -> Result<Output> {
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
    Output::of(&hits)
}

fn kind(what: &SearchFor) -> NeedleKind {
    let number = what.needle.starts_with("0x") && GuestVirt::parse(&what.needle).is_some();
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
            let at: GuestVirt = GuestVirt::read(Some(text), guest)?;
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
pub(super) fn code(what: &SearchFor, guest: &str) -> Result<String> {
    let text = &*what.needle;
    let needle = match kind(what) {
        NeedleKind::Text => format!("Needle::text({text:?})"),
        NeedleKind::Bytes => format!("Needle::hex({text:?})?"),
        NeedleKind::U32 => format!("Needle::U32({:#x})", number(text)?),
        NeedleKind::U64 => format!("Needle::U64({:#x})", number(text)?),
        NeedleKind::Pointer => {
            let at = GuestVirt::literal(Some(text), guest);
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
