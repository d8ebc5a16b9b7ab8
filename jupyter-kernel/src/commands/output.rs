//! A command's result, and its messages while it runs.

use std::io::{ErrorKind, Write};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use probes::readers::Shown;
use serde::Serialize;
use serde_json::Value;
use signal_hook::consts::SIGINT;

/// The result of a command: one value, as text for a terminal, as HTML or SVG for a notebook, as JSON for programs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Output {
    /// Plain text, lines ended by `\n`. Empty where all has been streamed already.
    pub(crate) text: String,
    /// The same as a self-contained HTML fragment.
    pub(crate) html: Option<String>,
    /// The same as a picture.
    pub(crate) svg: Option<String>,
    /// The same for programs, a line of JSON; `None` where there is nothing to say.
    pub(crate) json: Option<String>,
    /// The exit code of the process; a notebook's cell fails where it is not 0.
    pub(crate) code: u8,
}

/// The one face that the command line prints; a notebook takes all. A face of 100,000 rows that nobody sees is a gigabyte.
static ONLY: OnceLock<Face> = OnceLock::new();

/// Form in which an output is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Face {
    /// The text.
    Text,
    /// The JSON.
    Json,
}

impl Face {
    /// Says that this face alone will be printed by this process.
    pub(crate) fn only(self) {
        // Set once, by the command line.
        let _ = ONLY.set(self);
    }

    /// Tells whether this face may be printed.
    pub(crate) fn is_wanted(self) -> bool {
        ONLY.get().is_none_or(|only| *only == self)
    }

    /// Tells whether a notebook takes the output.
    pub(crate) fn all() -> bool {
        ONLY.get().is_none()
    }
}

impl Output {
    /// Text, and the value that it was made from.
    pub(crate) fn new(text: impl Into<String>, value: &impl Serialize) -> anyhow::Result<Self> {
        Ok(Self {
            text: text.into(),
            json: match Face::Json.is_wanted() {
                true => Some(serde_json::to_string(value)?),
                false => None,
            },
            ..Self::default()
        })
    }

    /// All faces of one value that are wanted. If a part of it could not be read, the exit code is 1.
    pub(crate) fn of(value: &dyn Shown) -> anyhow::Result<Self> {
        let mut text = match Face::Text.is_wanted() {
            true => value.text(),
            false => String::new(),
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(Self {
            text,
            html: if Face::all() { value.html() } else { None },
            svg: if Face::all() { value.svg() } else { None },
            json: match Face::Json.is_wanted() {
                true => Some(value.json()?),
                false => None,
            },
            code: u8::from(!value.missing().is_empty()),
        })
    }

    /// Text alone; as JSON it is a string.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            json: Some(Value::String(text.clone()).to_string()),
            text,
            ..Self::default()
        }
    }

    /// The JSON as the text, one line; for `--json`.
    pub(crate) fn into_json(self) -> Self {
        let mut text = self.json.unwrap_or_default();
        if !text.is_empty() {
            text.push('\n');
        }
        Self {
            text,
            html: None,
            svg: None,
            json: None,
            code: self.code,
        }
    }
}

/// One of the two streams that a command may write to while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// The result that was asked for.
    Stdout,
    /// Progress and warnings.
    Stderr,
}

/// Takes what a command writes while it runs.
pub(crate) type Sink<'a> = dyn FnMut(Stream, &[u8]) + Send + 'a;

/// Surroundings of a command: the guest that it looks at, its stream, and what interrupts it.
pub(crate) struct Context<'a> {
    /// The guest that is meant if none is named.
    pub(crate) guest: String,
    /// Takes what is written while the command runs.
    pub(crate) sink: &'a mut Sink<'a>,
    /// True if the sink's end can rewrite its last line after a `\r`.
    pub(crate) rewrites: bool,
    /// Set to end a running command early.
    pub(crate) interrupt: Arc<AtomicBool>,
    /// True if the command is all that this process does, so that a signal to it is meant for the command.
    pub(crate) signals: bool,
}

/// Exit code of a command that was interrupted and shows what it has, as a shell counts SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

impl Context<'_> {
    /// Makes Ctrl-C interrupt the command instead of ending this process; a second one ends it.
    ///
    /// # Errors
    /// When the system refuses the handler.
    pub(crate) fn catch_interrupts(&self) -> std::io::Result<()> {
        if self.signals {
            let interrupt = || Arc::clone(&self.interrupt);
            // They run in this order.
            signal_hook::flag::register_conditional_default(SIGINT, interrupt())?;
            signal_hook::flag::register(SIGINT, interrupt())?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("guest", &self.guest)
            .finish_non_exhaustive()
    }
}

/// The guest that is meant if none is named: `$KLAB_GUEST`, else `default`.
pub(crate) fn default_guest() -> String {
    std::env::var("KLAB_GUEST")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "default".to_owned())
}

/// Writes to this process's own streams. A reader that has gone (`klab log | head`) ends the process quietly.
pub(crate) fn to_terminal(stream: Stream, bytes: &[u8]) {
    let written = match stream {
        Stream::Stdout => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
        Stream::Stderr => std::io::stderr().lock().write_all(bytes),
    };
    if written.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        std::process::exit(141);
    }
}
