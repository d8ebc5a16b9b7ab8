//! A connection to the drgn process: a JSON object a line, each way.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};

use super::process;
use crate::base::check_interrupt;
use crate::{Error, Result};

/// Interval between two looks for an interrupt while the answer is waited for.
const GLANCE: Duration = Duration::from_millis(50);
/// Time that interrupted Python has to leave what it does.
const GRACE: Duration = Duration::from_secs(3);
/// More bytes than an answer has.
const MAX_LINE: usize = 256 << 20;

/// A message from Python while it works on a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Printed.
    Stdout(String),
    /// Printed to stderr.
    Stderr(String),
    /// Shown, by mime type.
    Display(Map<String, Value>),
}

/// An exception that the code raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    /// Its class: `LookupError`.
    pub ename: String,
    /// Text of the exception.
    pub evalue: String,
    /// Traceback, a line for each frame, from the code's own first frame on.
    pub traceback: Vec<String>,
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.evalue.as_str() {
            "" => f.write_str(&self.ename),
            text => write!(f, "{}: {text}", self.ename),
        }
    }
}

impl std::error::Error for Raised {}

/// Reasons why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The code raised an exception; the process goes on.
    #[error(transparent)]
    Raised(#[from] Raised),
    /// There is no process, or no more.
    #[error(transparent)]
    Lost(#[from] Error),
}

/// A connection. What is asked through it is answered in order.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    rest: Vec<u8>,
}

/// Stops what a connection's process works on, from any thread.
#[derive(Debug)]
pub struct Stop(UnixStream);

impl Stop {
    /// Raises `KeyboardInterrupt` in it. Its variables are kept.
    pub fn interrupt(&mut self) {
        // A process that has just died needs no interrupt.
        let _ = self.0.write_all(b"{\"do\":\"interrupt\"}\n");
    }

    /// Ends it. Its variables are lost.
    pub fn kill(&self) {
        if let Ok(peer) = getsockopt(&self.0, PeerCredentials) {
            let _ = kill(Pid::from_raw(peer.pid()), Signal::SIGKILL);
        }
    }
}

impl Connection {
    /// Connects to the process, which is started if it does not run.
    ///
    /// # Errors
    /// With the cure, when it does not start.
    pub fn open() -> Result<Self> {
        let stream = process::connect()?;
        stream.set_read_timeout(Some(GLANCE)).map_err(io)?;
        Ok(Self {
            stream,
            rest: Vec::new(),
        })
    }

    /// Handle that stops the process's work.
    ///
    /// # Errors
    /// When this process has no file descriptor left.
    pub fn stop(&self) -> Result<Stop> {
        Ok(Stop(self.stream.try_clone().map_err(io)?))
    }

    /// Asks, hands on what is said meanwhile, and waits for the answer for as long as it takes. An interrupt of this
    /// process's cell is passed on, as a kill where Python does not heed it.
    ///
    /// # Errors
    /// The exception that the code raised, or the process's death.
    pub fn ask(
        &mut self,
        request: &Value,
        said: &mut dyn FnMut(Said),
    ) -> std::result::Result<Value, Failure> {
        let mut line = request.to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes()).map_err(|_| died())?;
        loop {
            let mut event: Map<String, Value> = self.event()?;
            if let Some(done) = event.remove("done") {
                return Ok(done);
            }
            if let Some(error) = event.remove("error") {
                return Err(raised(&error).into());
            }
            let text =
                |event: &Map<String, Value>| event["text"].as_str().unwrap_or_default().to_owned();
            match (
                event.get("stream").and_then(Value::as_str),
                event.get("display"),
            ) {
                (Some("stderr"), _) => said(Said::Stderr(text(&event))),
                (Some(_), _) => said(Said::Stdout(text(&event))),
                (None, Some(Value::Object(data))) => said(Said::Display(data.clone())),
                (None, _) => {}
            }
        }
    }

    /// The next event.
    fn event(&mut self) -> Result<Map<String, Value>> {
        let mut seen = 0;
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.rest[seen..]) {
                let line: Vec<u8> = self.rest.drain(..=seen + end).collect();
                return serde_json::from_slice(&line).map_err(|error| {
                    Error::machine(format!("drgn's process says no JSON: {error}"))
                });
            }
            seen = self.rest.len();
            if seen > MAX_LINE {
                return Err(Error::machine(format!(
                    "drgn's answer has more than {MAX_LINE} bytes"
                )));
            }
            let mut chunk = [0; 16384];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(died()),
                Ok(count) => self.rest.extend_from_slice(&chunk[..count]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    Leave(self).check();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(died()),
            }
        }
    }
}

/// Passes an interrupt of the cell on to Python, on the way out.
struct Leave<'a>(&'a mut Connection);

impl Leave<'_> {
    fn check(self) {
        check_interrupt();
        std::mem::forget(self);
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let Ok(mut stop) = self.0.stop() else { return };
        stop.interrupt();
        let began = Instant::now();
        let mut chunk = [0; 4096];
        // The error that it answers with is the sign that it has stopped; nobody reads this connection on.
        while began.elapsed() < GRACE {
            if matches!(self.0.stream.read(&mut chunk), Ok(count) if chunk[..count].windows(7).any(|window| window == b"\"error\"") || count == 0)
            {
                return;
            }
        }
        stop.kill();
    }
}

fn raised(error: &Value) -> Raised {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Raised {
        ename: text(&error["ename"]),
        evalue: text(&error["evalue"]),
        traceback: error["traceback"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect(),
    }
}

fn died() -> Error {
    let why = process::last_words().map_or_else(String::new, |words| format!(" ({words})"));
    Error::machine(format!(
        "the process of drgn died{why}; its variables are lost, the next use starts another"
    ))
}

fn io(error: std::io::Error) -> Error {
    Error::machine(format!("the connection to drgn: {error}"))
}

/// Completes the name at the end of `code`: whole names, and how many characters they replace. Asks a process that
/// runs already, and none that does not.
#[must_use]
pub fn complete(code: &str) -> Option<(Vec<String>, usize)> {
    let stream = UnixStream::connect(process::socket().ok()?).ok()?;
    stream.set_read_timeout(Some(GLANCE)).ok()?;
    let mut connection = Connection {
        stream,
        rest: Vec::new(),
    };
    let found = connection
        .ask(&json!({"do": "complete", "code": code}), &mut |_| {})
        .ok()?;
    let matches = found["matches"].as_array()?;
    let matches = matches
        .iter()
        .filter_map(|name| name.as_str().map(str::to_owned));
    Some((
        matches.collect(),
        usize::try_from(found["replaces"].as_u64()?).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(lines: &str) -> (std::result::Result<Value, Failure>, Vec<Said>) {
        let (stream, mut other) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(GLANCE)).unwrap();
        other.write_all(lines.as_bytes()).unwrap();
        other.shutdown(std::net::Shutdown::Write).unwrap();
        let mut connection = Connection {
            stream,
            rest: Vec::new(),
        };
        let mut said = Vec::new();
        let answer = connection.ask(&json!({"do": "run"}), &mut |what| said.push(what));
        (answer, said)
    }

    #[test]
    fn what_is_said_comes_before_the_answer() {
        let (answer, said) = answered(
            "{\"stream\":\"stdout\",\"text\":\"a\"}\n{\"stream\":\"stderr\",\"text\":\"b\"}\n{\"done\":7}\n",
        );
        assert_eq!(answer.unwrap(), 7);
        assert_eq!(
            said,
            [Said::Stdout("a".to_owned()), Said::Stderr("b".to_owned())]
        );
    }

    #[test]
    fn an_exception_is_one() {
        let (answer, _) = answered(
            "{\"error\":{\"ename\":\"KeyError\",\"evalue\":\"'x'\",\"traceback\":[\"1\",\"2\"]}}\n",
        );
        let Err(Failure::Raised(raised)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(raised.to_string(), "KeyError: 'x'");
        assert_eq!(raised.traceback.len(), 2);
    }

    #[test]
    fn an_end_without_an_answer_is_a_death() {
        for lines in ["", "{\"stream\":\"stdout\"", "no json\n"] {
            assert!(
                matches!(answered(lines).0, Err(Failure::Lost(_))),
                "{lines}"
            );
        }
        let died = answered("").0.unwrap_err().to_string();
        assert!(died.contains("the process of drgn died"), "{died}");
    }
}
