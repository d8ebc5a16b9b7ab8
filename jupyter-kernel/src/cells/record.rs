//! A guest that is recorded, in a notebook: a slider over its record, and the views that follow where it stands.
//!
//! A view of such a guest is shown under a name. Whatever moves the guest then, the slider, `%guest replay`, a cell's `guest.seek`, has it read
//! anew and shown in the same place, in every front end. Views of compiled cells stay what they were.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use klab_protocol::{Bundle, Shown, Sink, Stop};
use serde_json::{Map, Value};
use vm::{Machine, Progress};

use super::line;
use super::reader;
use crate::commands;

/// Views that follow, the newest ones: each is read again for each step.
const MOST: usize = 16;

/// How a view is read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read {
    /// By a `%` line.
    Line(String),
    /// By a cell that is a reader's call.
    Reader(String),
}

/// The views that are shown, and the way of the guest that they follow.
#[derive(Debug, Default)]
pub(super) struct Views {
    shown: Mutex<Vec<View>>,
    made: AtomicU64,
    /// Held on the way, and while views are read anew.
    way: Mutex<()>,
    /// Number of the last wish to go somewhere, by guest; one that is older has an end.
    wishes: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
}

#[derive(Debug, Clone)]
struct View {
    id: String,
    begun: Begun,
    read: Read,
}

/// A guest, and where it stood before it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Begun {
    guest: String,
    instruction: u64,
}

impl Views {
    /// Shows a value under a name. The guest may have moved while it was read: then it is read anew behind the cell.
    pub(super) fn keep(&self, begun: Begun, read: Read, value: Bundle, show: &Sink) {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let id = format!("klab-record-{}-{number}", std::process::id());
        show(Shown::Display {
            id: Some(id.clone()),
            update: false,
            data: value,
        });
        let mut shown = lock(&self.shown);
        // Where a cell is run again, what it showed before is there no more.
        shown.retain(|view| view.read != read || view.begun.guest != begun.guest);
        let surplus = (shown.len() + 1).saturating_sub(MOST);
        shown.drain(..surplus);
        shown.push(View { id, begun, read });
    }

    /// Reads the views of a guest that has moved since anew, unless a slider moves one now: then that does it.
    pub(super) fn follow(&self, show: &Sink, stop: &Stop) {
        if let Ok(way) = self.way.try_lock() {
            self.read(&way, show, stop);
        }
    }

    fn read(&self, _way: &MutexGuard<'_, ()>, show: &Sink, stop: &Stop) {
        let views = lock(&self.shown).clone();
        for view in views {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let Some(begun) = position(&view.begun.guest).filter(|now| *now != view.begun) else {
                continue;
            };
            let data = view.read.again(stop).unwrap_or_else(|said| {
                let at = begun.instruction;
                let text = format!("at instruction {at} it cannot be read: {said}");
                Bundle::from_iter([("text/plain".to_owned(), text.into())])
            });
            show(Shown::Display {
                id: Some(view.id.clone()),
                update: true,
                data,
            });
            if let Some(kept) = lock(&self.shown).iter_mut().find(|kept| kept.id == view.id) {
                kept.begun = begun;
            }
        }
    }

    /// Where a guest stands, for a slider; goes to a moment first, if one is wanted.
    pub(super) fn seek(&self, guest: &str, to: Option<u64>, show: &Sink) -> Map<String, Value> {
        let mut answer = Map::new();
        if let Some(to) = to
            && let Err(error) = self.go(guest, to, show)
        {
            let said = commands::in_a_cell(&error.to_string());
            answer.insert("error".to_owned(), said.into());
        }
        // Also where it did not get there.
        let stands = Machine::attach(guest).and_then(|machine| machine.position());
        match stands {
            Ok(position) => {
                answer.insert("record".to_owned(), commands::record(guest, position));
            }
            Err(error) => {
                let said = commands::in_a_cell(&error.to_string());
                answer.entry("error").or_insert(said.into());
            }
        }
        answer
    }

    fn go(&self, guest: &str, to: u64, show: &Sink) -> vm::Result<()> {
        let wish = Arc::clone(lock(&self.wishes).entry(guest.to_owned()).or_default());
        let own = wish.fetch_add(1, Ordering::SeqCst) + 1;
        let way = lock(&self.way);
        let mut newer = Newer { wish: &wish, own };
        // There was another one meanwhile.
        if newer.stopped() {
            return Ok(());
        }
        let machine = Machine::attach(guest)?;
        machine.recording()?;
        if !machine.replays() {
            // A slider of an earlier record would end this one.
            return Err(vm::Error::NotReplayed(guest.to_owned()));
        }
        let went = match machine.seek(Some(to), &mut newer) {
            Err(vm::Error::Interrupted(_)) => Ok(()),
            went => went.map(drop),
        };
        self.read(&way, show, &Stop::default());
        went
    }

    /// Ends the way to a moment that a slider has asked for.
    pub(super) fn interrupt(&self) {
        for wish in lock(&self.wishes).values() {
            wish.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Read {
    /// The guest that it reads and where that stands, if it is a view of one that replays its record. Asked before each cell: whether there is
    /// such a guest is a look at a file, what a line is takes a parser.
    pub(super) fn begin(&self) -> Option<Begun> {
        let begun = position(&self.guest()?)?;
        self.is_view().then_some(begun)
    }

    /// The guest that it reads; `None` where it reads something else.
    fn guest(&self) -> Option<String> {
        let Self::Line(line) = self else {
            return Some(commands::default_guest());
        };
        let source = super::followed::source(line)?;
        match source.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => Some(commands::default_guest()),
            ["--guest", name] => Some(name.to_owned()),
            [named] => Some(named.strip_prefix("--guest=")?.to_owned()),
            _ => None,
        }
    }

    /// Tells whether it reads, and does no more.
    fn is_view(&self) -> bool {
        match self {
            Self::Line(line) => commands::is_view(line),
            Self::Reader(_) => true,
        }
    }

    fn again(&self, stop: &Stop) -> Result<Bundle, String> {
        match self {
            Self::Line(line) => {
                let nowhere: Sink = Arc::new(|_| {});
                line::run(line, "", stop, &nowhere).map_err(|error| error.evalue)
            }
            Self::Reader(rust) => match reader::again(rust) {
                Some(value) => value.map_err(|error| commands::in_a_cell(&format!("{error:#}"))),
                None => Err("it is no reader".to_owned()),
            },
        }
    }
}

/// Ends a way when there is a newer wish.
struct Newer<'a> {
    wish: &'a AtomicU64,
    own: u64,
}

impl Progress for Newer<'_> {
    fn step(&mut self, _: &str) {}

    fn stopped(&self) -> bool {
        self.wish.load(Ordering::SeqCst) != self.own
    }
}

/// Where a guest that replays its record stands. One that is recorded moves all the time.
fn position(guest: &str) -> Option<Begun> {
    let machine = Machine::attach(guest).ok()?;
    let instruction = machine
        .replays()
        .then(|| machine.position().ok())??
        .instruction;
    Some(Begun {
        guest: guest.to_owned(),
        instruction,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_of_the_guest_that_it_reads() {
        let own = commands::default_guest();
        let line = |line: &str| Read::Line(line.to_owned()).guest();
        assert_eq!(line("%ps"), Some(own.clone()));
        assert_eq!(Read::Reader("guest.tasks()?".to_owned()).guest(), Some(own));
        assert_eq!(line("%ps --guest b").as_deref(), Some("b"));
        assert_eq!(line("%ps --guest=b").as_deref(), Some("b"));
        for other in ["%ps --core /f", "%ps --guest b --snapshot s"] {
            assert_eq!(line(other), None, "{other}");
        }
    }
}
