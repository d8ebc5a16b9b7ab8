use std::time::{Duration, Instant};

use klab_wire::{Answer, Ask, MAX_STDIN, Reply};

use super::{Client, Error, Exit, Result, RunSpec, Stream, unexpected};

/// How often a waiting run looks whether it was cancelled.
const SLICE: Duration = Duration::from_millis(50);
/// The most that [`Client::output`] keeps of both streams.
const MAX_OUTPUT: usize = 64 << 20;
const SIGKILL: i32 = 9;

/// All that a command wrote, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub status: Exit,
}

impl Output {
    /// Its standard output as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Client {
    /// Runs a command in the guest and hands on what it writes as it comes. A command may be silent for
    /// as long as it likes: the agent is asked meanwhile whether it still runs. [`Client::canceller`] kills it.
    ///
    /// # Errors
    /// When the command cannot be started, or the agent falls silent.
    pub fn run(
        &mut self,
        spec: &RunSpec,
        mut on_output: impl FnMut(Stream, &[u8]),
    ) -> Result<Exit> {
        if spec.stdin.len() > MAX_STDIN {
            return Err(Error::Stdin(spec.stdin.len()));
        }
        let id = self.link.send(Ask::Run(spec.clone()), self.timeout)?;
        let mut ping = 0;
        loop {
            if self.cancel.take() {
                self.link.send_besides(
                    Ask::Kill {
                        run: id,
                        signal: SIGKILL,
                    },
                    self.timeout,
                )?;
            }
            match self.link.receive_any(&[id, ping], Instant::now() + SLICE)? {
                Some(Reply { id: from, answer }) => {
                    if from == ping {
                        // A server that was started again knows nothing of the run.
                        if let Answer::Error(text) = answer {
                            return Err(Error::Agent(text));
                        }
                        ping = 0;
                        continue;
                    }
                    match answer {
                        Answer::Started { .. } => {}
                        Answer::Output { stream, data } => on_output(stream, &data),
                        Answer::Exit(exit) => return Ok(exit),
                        Answer::Error(text) => return Err(Error::Agent(text)),
                        other => return Err(unexpected(&other)),
                    }
                }
                None if self.link.silence() > self.timeout => {
                    return Err(self.link.silent(self.timeout));
                }
                None if ping == 0 && self.link.silence() > self.timeout / 3 => {
                    ping = self
                        .link
                        .send_besides(Ask::Kill { run: id, signal: 0 }, self.timeout)?;
                }
                None => {}
            }
        }
    }

    /// Runs a command and collects what it writes.
    ///
    /// # Errors
    /// As [`Client::run`]; [`Error::TooMuch`] past 64 MiB, when the command is killed.
    pub fn output<S: AsRef<str>>(&mut self, argv: &[S]) -> Result<Output> {
        let spec = RunSpec {
            argv: argv.iter().map(|a| a.as_ref().to_owned()).collect(),
            ..RunSpec::default()
        };
        self.output_of(&spec)
    }

    /// Runs a shell line (`sh -c`) and collects what it writes.
    ///
    /// # Errors
    /// As [`Client::output`].
    pub fn shell(&mut self, line: &str) -> Result<Output> {
        self.output(&["sh", "-c", line])
    }

    /// Runs `spec` and collects what it writes.
    ///
    /// # Errors
    /// As [`Client::output`].
    pub fn output_of(&mut self, spec: &RunSpec) -> Result<Output> {
        let (mut stdout, mut stderr, mut over) = (Vec::new(), Vec::new(), false);
        let cancel = self.canceller();
        let status = self.run(spec, |stream, data| {
            if stdout.len() + stderr.len() + data.len() > MAX_OUTPUT {
                if !std::mem::replace(&mut over, true) {
                    cancel.cancel();
                }
                return;
            }
            match stream {
                Stream::Stdout => stdout.extend_from_slice(data),
                Stream::Stderr => stderr.extend_from_slice(data),
            }
        })?;
        if over {
            Err(Error::TooMuch(MAX_OUTPUT))
        } else {
            Ok(Output {
                stdout,
                stderr,
                status,
            })
        }
    }
}
