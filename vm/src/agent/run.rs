use std::{os::fd::BorrowedFd, time::Instant};

use klab_wire::{Answer, Ask, MAX_STDIN, Reply};

use super::input::Feeder;
use super::{Client, Error, Exit, Result, RunSpec, SLICE, Stream, unexpected};

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
    /// Its end.
    pub status: Exit,
}

impl Output {
    /// Its standard output as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A request that may take as long as it likes: the agent is asked now and then whether it still has it.
#[derive(Debug)]
pub(super) struct Long {
    id: u32,
    ping: u32,
}

impl Client {
    /// Sends a request that may take as long as it likes.
    pub(super) fn begin(&mut self, ask: Ask) -> Result<Long> {
        Ok(Long {
            id: self.link.send(ask, self.timeout)?,
            ping: 0,
        })
    }

    /// Answers to the request, or to those in `also`, within a moment.
    pub(super) fn next(&mut self, long: &mut Long, also: &[u32]) -> Result<Option<Reply>> {
        let mut ids = vec![long.id, long.ping];
        ids.extend(also);
        match self.link.receive_any(&ids, Instant::now() + SLICE)? {
            Some(Reply { id, answer }) if id == long.ping => {
                long.ping = 0;
                match answer {
                    // A server that was started again knows nothing of the request.
                    Answer::Error(text) => Err(Error::Agent(text)),
                    _ => Ok(None),
                }
            }
            Some(reply) => Ok(Some(reply)),
            None if self.link.silence() > self.timeout => Err(self.link.silent(self.timeout)),
            None => {
                if long.ping == 0 && self.link.silence() > self.timeout / 3 {
                    long.ping = self.signal(long, 0)?;
                }
                Ok(None)
            }
        }
    }

    /// Sends SIGKILL to what the request has started.
    pub(super) fn kill(&mut self, long: &Long) -> Result<()> {
        self.signal(long, SIGKILL).map(drop)
    }

    /// Tells whether the user has asked to end what is under way, since this was last asked.
    pub(super) fn cancelled(&self) -> bool {
        self.cancel.take()
    }

    fn signal(&mut self, long: &Long, signal: i32) -> Result<u32> {
        let run = long.id;
        self.link
            .send_besides(Ask::Kill { run, signal }, self.timeout)
    }

    /// Runs a command in the guest and hands on what it writes as it comes. A command may be silent for
    /// as long as it likes: the agent is asked meanwhile whether it still runs. [`Client::canceller`] kills it.
    ///
    /// # Errors
    /// When the command cannot be started, or the agent falls silent.
    pub fn run(&mut self, spec: &RunSpec, on_output: impl FnMut(Stream, &[u8])) -> Result<Exit> {
        self.run_from(spec, None, on_output)
    }

    /// The same, and what can be read from `input`, of any length, is the command's standard input after what `spec`
    /// has of it. It is read no faster than the command does. A terminal is read only while this process is in its
    /// foreground.
    ///
    /// # Errors
    /// As [`Client::run`]; when `input` cannot be read.
    pub fn run_from(
        &mut self,
        spec: &RunSpec,
        input: Option<BorrowedFd<'_>>,
        mut on_output: impl FnMut(Stream, &[u8]),
    ) -> Result<Exit> {
        if spec.stdin.len() > MAX_STDIN {
            return Err(Error::Stdin(spec.stdin.len()));
        }
        let more = input.is_some();
        let mut run = self.begin(Ask::Run(RunSpec {
            more,
            ..spec.clone()
        }))?;
        let mut feeder = Feeder::new(input);
        loop {
            if self.cancelled() {
                self.kill(&run)?;
                feeder.end();
            }
            if let Err(stopped) = self.check_stop() {
                self.kill(&run)?;
                return Err(stopped);
            }
            // The answer to a question goes first: the agent may wait for this side to read before it reads on.
            if run.ping == 0
                && let Err(error) = self.feed(run.id, &mut feeder, SLICE)
            {
                self.kill(&run)?;
                return Err(error);
            }
            let Some(Reply { id, answer }) = self.next(&mut run, feeder.sent())? else {
                continue;
            };
            if id != run.id {
                feeder.answered(id, &answer);
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
        self.output_from(spec, None)
    }

    /// The same with an input, as [`Client::run_from`] takes it.
    ///
    /// # Errors
    /// As [`Client::output`] and [`Client::run_from`].
    pub fn output_from(&mut self, spec: &RunSpec, input: Option<BorrowedFd<'_>>) -> Result<Output> {
        let (mut stdout, mut stderr, mut over) = (Vec::new(), Vec::new(), false);
        let cancel = self.canceller();
        let status = self.run_from(spec, input, |stream, data| {
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
