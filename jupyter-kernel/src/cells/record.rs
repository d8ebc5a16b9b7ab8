//! A guest that is recorded, in a notebook: a slider over its record, and the views that follow where it stands.
//!
//! A view of such a guest is shown under a name. Whatever moves the guest then, the slider, `%guest replay`, a cell's `guest.seek`, has it read
//! anew and shown in the same place, in every front end. Views of compiled cells stay what they were.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use klab_protocol::{Bundle, Shown, Sink, Stop};
use serde_json::{Map, Value, json};
use vm::{Machine, Position, Progress};

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
    /// Held on the way.
    way: Mutex<()>,
    /// Number of the last wish to go somewhere; one that is older has an end.
    wish: AtomicU64,
}

#[derive(Debug, Clone)]
struct View {
    id: String,
    read: Read,
    guest: String,
    /// Where the guest stood when it was read.
    at: u64,
}

impl Views {
    /// Shows a value under a name, if it is a view of a guest with a record; else it is handed back.
    pub(super) fn keep(&self, read: Read, value: Bundle, show: &Sink) -> Option<Bundle> {
        let guest = read.guest();
        let stands = |guest: String| position(&guest).map(|at| (guest, at));
        let Some((guest, at)) = guest.and_then(stands) else {
            return Some(value);
        };
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let id = format!("klab-record-{}-{number}", std::process::id());
        show(Shown::Display {
            id: Some(id.clone()),
            update: false,
            data: value,
        });
        let mut shown = self.shown();
        // Where a cell is run again, what it showed before is there no more.
        shown.retain(|view| view.read != read || view.guest != guest);
        let surplus = (shown.len() + 1).saturating_sub(MOST);
        shown.drain(..surplus);
        shown.push(View {
            id,
            read,
            guest,
            at: at.instruction,
        });
        None
    }

    /// Reads the views of a guest that has moved since anew.
    pub(super) fn follow(&self, show: &Sink) {
        let views = self.shown().clone();
        for view in views {
            let Some(position) = position(&view.guest).filter(|now| now.instruction != view.at)
            else {
                continue;
            };
            show(Shown::Display {
                id: Some(view.id.clone()),
                update: true,
                data: view.read.again().unwrap_or_else(|said| {
                    let at = position.instruction;
                    let text = format!("at instruction {at} it cannot be read: {said}");
                    Bundle::from_iter([("text/plain".to_owned(), text.into())])
                }),
            });
            if let Some(kept) = self.shown().iter_mut().find(|kept| kept.id == view.id) {
                kept.at = position.instruction;
            }
        }
    }

    /// Goes to a moment of a record, for a slider; what it says is for the slider too.
    pub(super) fn seek(&self, guest: &str, to: u64, show: &Sink) -> Map<String, Value> {
        let own = self.newest();
        let _way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        let mut newer = Newer {
            wish: &self.wish,
            own,
        };
        // Another one was dropped meanwhile.
        let went = match newer.stopped() {
            true => None,
            false => {
                Some(Machine::attach(guest).and_then(|machine| machine.seek(Some(to), &mut newer)))
            }
        };
        let answer = match went {
            None | Some(Err(vm::Error::Interrupted(_))) => json!({"superseded": true}),
            Some(Ok(position)) => json!({"record": commands::record(guest, position)}),
            Some(Err(error)) => json!({"error": commands::in_a_cell(&error.to_string())}),
        };
        self.follow(show);
        match answer {
            Value::Object(answer) => answer,
            _ => Map::new(),
        }
    }

    /// Ends the way to a moment that a slider has asked for.
    pub(super) fn interrupt(&self) {
        self.newest();
    }

    fn newest(&self) -> u64 {
        self.wish.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn shown(&self) -> MutexGuard<'_, Vec<View>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read {
    /// The guest that it reads; `None` where it does more than read, or reads something else.
    fn guest(&self) -> Option<String> {
        let Self::Line(line) = self else {
            return Some(commands::default_guest());
        };
        let source = super::followed::source(line);
        match source.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            _ if !commands::is_view(line) => None,
            [] => Some(commands::default_guest()),
            ["--guest", name] => Some(name.to_owned()),
            [named] => Some(named.strip_prefix("--guest=")?.to_owned()),
            _ => None,
        }
    }

    fn again(&self) -> Result<Bundle, String> {
        match self {
            Self::Line(line) => {
                let nowhere: Sink = Arc::new(|_| {});
                line::run(line, "", &Stop::default(), &nowhere).map_err(|error| error.evalue)
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

/// Where a guest stands in its record; `None` for one without.
fn position(guest: &str) -> Option<Position> {
    let machine = Machine::attach(guest).ok()?;
    machine.recording().ok()?;
    machine.position().ok()
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
        for other in [
            "%ps --core /f",
            "%ps --guest b --snapshot s",
            "%set jiffies 1",
            "%guest reset",
        ] {
            assert_eq!(line(other), None, "{other}");
        }
    }
}
