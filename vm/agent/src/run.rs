//! Commands: each a process group of its own, watched by one thread.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use klab_wire::{Answer, CHUNK, Exit, Run, Stream};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::{
    error::{Context as _, Error, Result, reason},
    input::{Input, Piece, feed},
    session::{Responder, Runs},
};

/// Command that a request has started.
#[derive(Debug)]
pub(crate) struct Running {
    /// Its process group, for as long as its leader has not been waited for: until then its number is taken.
    pid: Mutex<Option<i32>>,
    /// Rest of its standard input, if it has one.
    input: Option<Input>,
}

impl Running {
    /// One that nobody but the caller knows.
    pub(crate) fn new(pid: i32) -> Self {
        Self {
            pid: Mutex::new(Some(pid)),
            input: None,
        }
    }

    /// One that the host can reach by its request's id.
    pub(crate) fn enter(pid: i32, input: Option<Input>, to: &Responder, runs: &Runs) -> Arc<Self> {
        let running = Arc::new(Self {
            input,
            ..Self::new(pid)
        });
        runs.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(to.id(), Arc::clone(&running));
        running
    }

    /// Ends that.
    pub(crate) fn leave(to: &Responder, runs: &Runs) {
        runs.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&to.id());
    }

    /// Takes a piece of the standard input; `to` hears when the command's pipe has it.
    pub(crate) fn feed(&self, data: Vec<u8>, last: bool, to: Responder) -> Result<()> {
        let Some(input) = &self.input else {
            return Err(Error("the command was given no input to go on".to_owned()));
        };
        input.push(Piece {
            data,
            last,
            to: Some(to),
        })
    }

    /// Sends a signal to every process of the group.
    pub(crate) fn kill(&self, signal: i32) {
        if let Some(pid) = *self.pid.lock().unwrap_or_else(PoisonError::into_inner)
            && let Ok(signal) = nix::sys::signal::Signal::try_from(signal)
        {
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), signal);
        }
    }

    /// Waits for the group's leader, which has ended.
    pub(crate) fn wait(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let mut pid = self.pid.lock().unwrap_or_else(PoisonError::into_inner);
        *pid = None;
        child.wait()
    }
}

/// Starts a command; a thread of its own sends what it writes and how it ends.
pub(crate) fn start(spec: Run, to: Responder, runs: &Runs) -> Result<()> {
    let Some((program, args)) = spec.argv.split_first() else {
        return Err(Error("a command needs at least a program".to_owned()));
    };
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    let mut command = Command::new(program);
    command
        .args(args)
        .envs(spec.env.iter().map(|(k, v)| (k, v)))
        .current_dir(cwd)
        .process_group(0);
    let input = (spec.more || !spec.stdin.is_empty()).then(Input::new);
    let input = input.transpose().context("an eventfd")?;
    command.stdin(if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|e| {
        let why = reason(&e);
        Error(format!("cannot run `{program}` in {cwd}: {why} (the guest has busybox, ip and nft; push what else you need)"))
    })?;
    let pid = i32::try_from(child.id()).context("a pid")?;
    if let Some(input) = &input {
        input.push(Piece {
            data: spec.stdin,
            last: !spec.more,
            to: None,
        })?;
    }
    let running = Running::enter(pid, input, &to, runs);
    let (runs, timeout_ms) = (Arc::clone(runs), spec.timeout_ms);
    thread::spawn(move || {
        // A host that has gone hears nothing more; the session has killed the group.
        let _ = to.send(Answer::Started { pid });
        let answer = match watch(&mut child, pid, timeout_ms, &running, &to) {
            Ok(exit) => Answer::Exit(exit),
            Err(e) => {
                running.kill(libc::SIGKILL);
                let _ = running.wait(&mut child);
                Answer::Error(format!("the run was lost: {e}"))
            }
        };
        let _ = to.send(answer);
        Running::leave(&to, &runs);
    });
    Ok(())
}

/// One of the command's streams, until it ends.
struct Output {
    from: Option<File>,
    stream: Stream,
}

/// Waits for the command itself; what it left running in the background is not waited for.
fn watch(
    child: &mut Child,
    pid: i32,
    timeout_ms: u64,
    running: &Running,
    to: &Responder,
) -> io::Result<Exit> {
    let ended = Pid::from_raw(pid).ok_or(ErrorKind::InvalidInput)?;
    let ended = pidfd_open(ended, PidfdFlags::empty())?;
    let mut outputs = [
        Output {
            from: child.stdout.take().map(|p| File::from(OwnedFd::from(p))),
            stream: Stream::Stdout,
        },
        Output {
            from: child.stderr.take().map(|p| File::from(OwnedFd::from(p))),
            stream: Stream::Stderr,
        },
    ];
    let mut stdin = child.stdin.take().zip(running.input.as_ref());
    for fd in outputs.iter().filter_map(|o| o.from.as_ref()) {
        nonblocking(fd.as_fd())?;
    }
    if let Some((pipe, _)) = &stdin {
        nonblocking(pipe.as_fd())?;
    }
    let deadline = (timeout_ms > 0).then(|| Instant::now() + Duration::from_millis(timeout_ms));
    let mut timed_out = false;
    let mut buf = vec![0; CHUNK];
    loop {
        let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            outputs
                .iter()
                .filter_map(|o| Some(PollFd::new(o.from.as_ref()?.as_fd(), PollFlags::POLLIN))),
        );
        if let Some((pipe, input)) = &stdin {
            // Without a piece to write it is heard all the same when the pipe has no reader any more.
            fds.push(PollFd::new(pipe.as_fd(), input.wants()));
        }
        fds.extend(running.input.iter().map(Input::news));
        let timeout = match deadline {
            Some(deadline) if !timed_out => left(deadline),
            _ => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let over = fds[0].any().unwrap_or(false);
        let broken = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| r.contains(PollFlags::POLLERR));
        if stdin.is_some() && fds.iter().rev().nth(1).is_some_and(broken) {
            stdin = None;
        }
        feed(&mut stdin, running.input.as_ref())?;
        for output in &mut outputs {
            drain(output, &mut buf, over, to)?;
        }
        if over {
            let status = running.wait(child)?;
            return Ok(match (timed_out, status.code(), status.signal()) {
                (true, ..) => Exit::TimedOut,
                (_, Some(code), _) => Exit::Code(code),
                (_, None, signal) => Exit::Signal(signal.unwrap_or(0)),
            });
        }
        if !timed_out && deadline.is_some_and(|d| Instant::now() >= d) {
            timed_out = true;
            running.kill(libc::SIGKILL);
        }
    }
}

/// Milliseconds until `deadline`, rounded up, as poll takes them.
fn left(deadline: Instant) -> PollTimeout {
    let ms = deadline
        .saturating_duration_since(Instant::now())
        .as_millis()
        .saturating_add(1);
    PollTimeout::try_from(ms.min(i32::MAX as u128)).unwrap_or(PollTimeout::MAX)
}

fn nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Sends what is there of a stream: once around, or all of it when the command is over.
fn drain(output: &mut Output, buf: &mut [u8], all: bool, to: &Responder) -> io::Result<()> {
    // A background process may write for ever into the pipe that it inherited.
    let mut rounds = if all { 1024 } else { 1 };
    while rounds > 0
        && let Some(mut from) = output.from.as_ref()
    {
        rounds -= 1;
        match from.read(buf) {
            Ok(0) => output.from = None,
            Ok(n) => to.send(Answer::Output {
                stream: output.stream,
                data: buf[..n].to_vec(),
            })?,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => output.from = None,
        }
    }
    Ok(())
}
