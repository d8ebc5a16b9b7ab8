//! A language of a few words.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::LIMIT;
use crate::{
    Bundle, Cell, CellError, Completeness, Completion, Events, Info, Language, LanguageInfo, Match,
    Outcome, Shown, Sink,
};

/// Each line of a cell is a word and its text: `out`, `err` and `show` show it, `value` is the cell's value, `fail` ends
/// the cell, `ask` shows what the user answers, `wait` runs until it is stopped, `hold` until
/// [`Fake::go`] says so, `panic` panics.
#[derive(Default)]
pub(super) struct Fake {
    background: OnceLock<Sink>,
    pub(super) ran: Mutex<Vec<String>>,
    pub(super) interrupts: AtomicUsize,
    pub(super) shutdowns: AtomicUsize,
    pub(super) go: AtomicBool,
}

impl Fake {
    pub(super) fn begin(&self, background: Sink) {
        let _ = self.background.set(background);
    }

    /// Shows text that is of no cell.
    pub(super) fn say(&self, text: &str) {
        let sink = self.background.get().unwrap();
        sink(Shown::Stderr(text.to_owned()));
    }
}

pub(super) fn plain(text: impl Into<String>) -> Bundle {
    Bundle::from_iter([("text/plain".to_owned(), Value::String(text.into()))])
}

impl Language for Fake {
    fn info(&self) -> Info {
        Info {
            implementation: "fake",
            implementation_version: "1",
            language: LanguageInfo {
                name: "words".to_owned(),
                version: "2".to_owned(),
                mimetype: None,
                file_extension: None,
                pygments_lexer: None,
                codemirror_mode: None,
                nbconvert_exporter: None,
            },
            comm: "fakes",
            debugger: true,
            banner: "a fake".to_owned(),
        }
    }

    fn execute(&self, cell: Cell) -> Outcome {
        self.ran.lock().unwrap().push(cell.code.clone());
        let mut value = None;
        for line in cell.code.lines() {
            let (word, text) = line.split_once(' ').unwrap_or((line, ""));
            let text = text.to_owned();
            match word {
                "out" => (cell.show)(Shown::Stdout(text)),
                "err" => (cell.show)(Shown::Stderr(text)),
                "show" => (cell.show)(Shown::value(plain(text))),
                "again" => (cell.show)(Shown::Display {
                    id: Some(text.clone()),
                    update: true,
                    data: plain(text),
                }),
                "value" => value = Some(plain(text)),
                "fail" => return Err(CellError::new("Failed", text)),
                "ask" => match (cell.input)(&text, false) {
                    Some(answer) => (cell.show)(Shown::Stdout(answer)),
                    None => (cell.show)(Shown::Stderr("nobody answers".to_owned())),
                },
                "wait" => {
                    let begin = Instant::now();
                    while !cell.stop.load(Ordering::Relaxed) {
                        assert!(begin.elapsed() < LIMIT, "nobody stops the cell");
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    return Err(CellError::new("Interrupted", "stopped"));
                }
                "hold" => {
                    let begin = Instant::now();
                    while !self.go.load(Ordering::Relaxed) {
                        assert!(begin.elapsed() < LIMIT, "nobody lets the cell go on");
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                "panic" => panic!("as the cell says"),
                _ => return Err(CellError::new("NoWord", word)),
            }
        }
        Ok(value)
    }

    fn complete(&self, code: &str, at: usize) -> Completion {
        let word = code[..at].rfind(' ').map_or(0, |blank| blank + 1);
        let kind = (!code.starts_with("ask")).then_some("word");
        Completion {
            matches: vec![Match {
                text: format!("{}!", &code[word..at]),
                kind: kind.map(str::to_owned),
            }],
            replaced: word..at,
        }
    }

    fn comm(&self, data: &Map<String, Value>, show: &Sink) -> Map<String, Value> {
        if let Some(text) = data.get("show").and_then(Value::as_str) {
            show(Shown::value(plain(text)));
        }
        assert!(!data.contains_key("panic"), "as the message says");
        Map::from_iter([("heard".to_owned(), data.clone().into())])
    }

    fn inspect(&self, code: &str, at: usize) -> Option<Bundle> {
        (!code.is_empty()).then(|| plain(format!("{at} bytes before")))
    }

    fn is_complete(&self, code: &str) -> Completeness {
        match code {
            "" => Completeness::Invalid,
            _ if code.ends_with('\\') => Completeness::Incomplete("  ".to_owned()),
            _ => Completeness::Complete,
        }
    }

    fn debug(&self, request: &Value, events: &Events) -> Option<Value> {
        let command = request["command"].as_str()?;
        events(json!({"type": "event", "event": "stopped", "body": {"reason": command}}));
        Some(
            json!({"type": "response", "request_seq": request["seq"], "command": command, "success": true}),
        )
    }

    fn interrupt(&self) {
        self.interrupts.fetch_add(1, Ordering::SeqCst);
    }

    fn shutdown(&self) {
        self.shutdowns.fetch_add(1, Ordering::SeqCst);
    }
}
