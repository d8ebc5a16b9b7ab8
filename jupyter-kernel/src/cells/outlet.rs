//! The output of a cell, on its way to the client: in few pieces, and not without end.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use klab_protocol::{Shown, Sink};

use crate::commands::Stream;

/// Time that text waits for more.
const JOIN: Duration = Duration::from_millis(30);
/// Bytes of text that go on at once.
const PIECE: usize = 64 << 10;
/// Bytes of a cell's text that the client gets.
const SHOWN: usize = 1 << 20;
/// Bytes that the file with the whole text takes.
const WHOLE: u64 = 1 << 30;
/// Number of such files that are kept.
const KEPT: usize = 8;

/// Joins and bounds what cells print.
#[derive(Debug)]
pub(super) struct Outlets {
    waiting: mpsc::Sender<Outlet>,
    folder: PathBuf,
}

/// The way of one cell's output.
#[derive(Clone)]
pub(super) struct Outlet {
    sink: Sink,
    folder: PathBuf,
    state: Arc<Mutex<State>>,
    waiting: mpsc::Sender<Self>,
}

#[derive(Default)]
struct State {
    /// Text that has not gone on, all of one stream.
    pending: Option<(Stream, String)>,
    /// Text that went on, with which the file begins.
    head: String,
    /// Text that did not go on.
    left: Option<Left>,
}

/// The part of the output that the client does not get.
struct Left {
    bytes: u64,
    lines: u64,
    path: PathBuf,
    /// None once it is full, or cannot be written.
    file: Option<File>,
    written: u64,
}

impl Outlets {
    /// Starts the thread that sends on the text that has waited. Files go into `folder`.
    pub(super) fn start(folder: PathBuf) -> std::io::Result<Self> {
        let (waiting, due) = mpsc::channel::<Outlet>();
        thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || {
                for outlet in due {
                    thread::sleep(JOIN);
                    outlet.flush();
                }
            })?;
        Ok(Self { waiting, folder })
    }

    /// The outlet of a cell whose client takes what it shows by `sink`.
    pub(super) fn of(&self, sink: Sink) -> Outlet {
        Outlet {
            sink,
            folder: self.folder.clone(),
            state: Arc::default(),
            waiting: self.waiting.clone(),
        }
    }
}

impl Outlet {
    /// The sink by which the cell shows.
    pub(super) fn sink(&self) -> Sink {
        let outlet = self.clone();
        Arc::new(move |shown| outlet.show(shown))
    }

    fn show(&self, shown: Shown) {
        // Held while the client is slow: what comes meanwhile has to wait anyway.
        let mut state = self.lock();
        match shown {
            Shown::Stdout(text) => self.text(&mut state, Stream::Stdout, &text),
            Shown::Stderr(text) => self.text(&mut state, Stream::Stderr, &text),
            other @ Shown::Display { .. } => {
                self.send(&mut state);
                (self.sink)(other);
            }
        }
    }

    /// Sends on the text that waits.
    pub(super) fn flush(&self) {
        self.send(&mut self.lock());
    }

    /// Ends the cell: sends on the text that waits, and says how much was left out.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        self.send(&mut state);
        if let Some(left) = &state.left {
            (self.sink)(Shown::Stderr(left.say()));
        }
    }

    fn text(&self, state: &mut State, stream: Stream, text: &str) {
        let mut text = text;
        if state.left.is_none() {
            let waiting = state.pending.as_ref().map_or(0, |(_, text)| text.len());
            let room = SHOWN - (state.head.len() + waiting).min(SHOWN);
            let fits = text.floor_char_boundary(room);
            self.pend(state, stream, &text[..fits]);
            text = &text[fits..];
            if text.is_empty() {
                return;
            }
            self.send(state);
            state.left = Some(Left::new(&self.folder, &state.head));
        }
        if let Some(left) = &mut state.left {
            left.take(text);
        }
    }

    fn pend(&self, state: &mut State, stream: Stream, text: &str) {
        if text.is_empty() {
            return;
        }
        match &mut state.pending {
            Some((of, pending)) if *of == stream => pending.push_str(text),
            _ => {
                self.send(state);
                state.pending = Some((stream, text.to_owned()));
                // Without the thread the kernel is at its end.
                let _ = self.waiting.send(self.clone());
            }
        }
        if state
            .pending
            .as_ref()
            .is_some_and(|(_, text)| text.len() >= PIECE)
        {
            self.send(state);
        }
    }

    fn send(&self, state: &mut State) {
        let Some((stream, text)) = state.pending.take() else {
            return;
        };
        state.head.push_str(&text);
        (self.sink)(match stream {
            Stream::Stdout => Shown::Stdout(text),
            Stream::Stderr => Shown::Stderr(text),
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Left {
    fn new(folder: &Path, head: &str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let name = format!(
            "{}-{}.txt",
            now.unwrap_or_default().as_millis(),
            std::process::id()
        );
        let path = folder.join(name);
        let file = fs::create_dir_all(folder).and_then(|()| {
            keep_newest(folder)?;
            File::create(&path)
        });
        let mut left = Self {
            bytes: 0,
            lines: 0,
            path,
            file: file.ok(),
            written: 0,
        };
        left.write(head);
        left
    }

    fn take(&mut self, text: &str) {
        self.bytes += text.len() as u64;
        self.lines += text.bytes().filter(|byte| *byte == b'\n').count() as u64;
        self.write(text);
    }

    fn write(&mut self, text: &str) {
        self.written += text.len() as u64;
        if self.written > WHOLE
            || self
                .file
                .as_mut()
                .is_some_and(|file| file.write_all(text.as_bytes()).is_err())
        {
            self.file = None;
        }
    }

    fn say(&self) -> String {
        let place = match (&self.file, self.written > WHOLE) {
            (Some(_), _) => format!("the whole output is in {}", self.path.display()),
            (None, true) => format!("its first GiB is in {}", self.path.display()),
            (None, false) => "no file could be written with it".to_owned(),
        };
        format!(
            "\nklab: {} bytes ({} lines) more were printed; {place}\n",
            self.bytes, self.lines
        )
    }
}

/// Removes the oldest files, so that one more is not too many.
fn keep_newest(folder: &Path) -> std::io::Result<()> {
    // Their names are in the order of their times.
    let mut all: Vec<_> = fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    all.sort();
    let old = (all.len() + 1).saturating_sub(KEPT);
    all.iter().take(old).try_for_each(fs::remove_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlet(folder: &Path) -> (Outlet, Arc<Mutex<Vec<Shown>>>) {
        let seen = Arc::<Mutex<Vec<Shown>>>::default();
        let to = Arc::clone(&seen);
        let outlets = Outlets::start(folder.to_owned()).unwrap();
        (
            outlets.of(Arc::new(move |shown| to.lock().unwrap().push(shown))),
            seen,
        )
    }

    #[test]
    fn small_writes_are_one_piece_and_come_by_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let (outlet, seen) = outlet(folder.path());
        for letter in ["a", "b", "c"] {
            outlet.show(Shown::Stdout(letter.to_owned()));
        }
        assert!(seen.lock().unwrap().is_empty());
        thread::sleep(JOIN * 10);
        assert_eq!(*seen.lock().unwrap(), [Shown::Stdout("abc".to_owned())]);
    }

    #[test]
    fn the_order_of_streams_and_values_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (outlet, seen) = outlet(folder.path());
        let value = Shown::value(klab_protocol::Bundle::new());
        let all = [
            Shown::Stdout("1".to_owned()),
            Shown::Stderr("2".to_owned()),
            value,
            Shown::Stdout("3".to_owned()),
        ];
        all.iter().cloned().for_each(|shown| outlet.show(shown));
        outlet.end();
        assert_eq!(*seen.lock().unwrap(), all);
    }

    #[test]
    fn what_is_left_out_is_counted_and_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let (outlet, seen) = outlet(folder.path());
        let line = format!("{}é\n", "x".repeat(997));
        for _ in 0..3000 {
            outlet.show(Shown::Stdout(line.clone()));
        }
        outlet.end();
        let mut seen = std::mem::take(&mut *seen.lock().unwrap());
        let Some(Shown::Stderr(said)) = seen.pop() else {
            panic!("nothing is said");
        };
        let shown: usize = seen
            .iter()
            .map(|shown| match shown {
                Shown::Stdout(text) => text.len(),
                other => panic!("{other:?}"),
            })
            .sum();
        assert!(shown <= SHOWN && shown + 4 > SHOWN);
        assert!(
            said.contains(&format!("{} bytes", 3000 * line.len() - shown)),
            "{said}"
        );
        let path = said.trim_end().rsplit(' ').next().unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), line.repeat(3000));
    }
}
