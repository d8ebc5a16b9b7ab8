//! Commands: each a process group of its own, watched by one thread.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
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
    session::{Responder, Runs},
};

/// A run's process group, for as long as its leader has not been waited for: until then its number is taken.
#[derive(Debug)]
pub(crate) struct Running(Mutex<Option<i32>>);

impl Running {
    /// Sends a signal to every process of the group.
    pub(crate) fn kill(&self, signal: i32) {
        if let Some(pid) = *self.0.lock().unwrap_or_else(PoisonError::into_inner)
            && let Ok(signal) = nix::sys::signal::Signal::try_from(signal)
        {
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), signal);
        }
    }

    fn wait(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let mut pid = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
    command.stdin(if spec.stdin.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|e| {
        let why = reason(&e);
        Error(format!("cannot run `{program}` in {cwd}: {why} (the guest has busybox, ip and nft; push what else you need)"))
    })?;
    let pid = i32::try_from(child.id()).context("a pid")?;
    let running = Arc::new(Running(Mutex::new(Some(pid))));
    runs.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(to.id(), Arc::clone(&running));
    let runs = Arc::clone(runs);
    thread::spawn(move || {
        // A host that has gone hears nothing more; the session has killed the group.
        let _ = to.send(Answer::Started { pid });
        let answer = match watch(&mut child, pid, spec, &running, &to) {
            Ok(exit) => Answer::Exit(exit),
            Err(e) => {
                running.kill(libc::SIGKILL);
                let _ = running.wait(&mut child);
                Answer::Error(format!("the run was lost: {e}"))
            }
        };
        let _ = to.send(answer);
        runs.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&to.id());
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
    spec: Run,
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
    let mut stdin = child.stdin.take();
    for fd in outputs.iter().filter_map(|o| o.from.as_ref()) {
        nonblocking(fd.as_fd())?;
    }
    if let Some(stdin) = &stdin {
        nonblocking(stdin.as_fd())?;
    }
    let mut rest = spec.stdin.as_slice();
    let deadline =
        (spec.timeout_ms > 0).then(|| Instant::now() + Duration::from_millis(spec.timeout_ms));
    let mut timed_out = false;
    let mut buf = vec![0; CHUNK];
    loop {
        let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            outputs
                .iter()
                .filter_map(|o| Some(PollFd::new(o.from.as_ref()?.as_fd(), PollFlags::POLLIN))),
        );
        fds.extend(
            stdin
                .as_ref()
                .map(|s| PollFd::new(s.as_fd(), PollFlags::POLLOUT)),
        );
        let timeout = match deadline {
            Some(deadline) if !timed_out => left(deadline),
            _ => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let over = fds[0].any().unwrap_or(false);
        feed(&mut stdin, &mut rest);
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

/// Writes what the command's standard input takes; closes it at the end, or when nobody reads it.
fn feed(stdin: &mut Option<ChildStdin>, rest: &mut &[u8]) {
    while let Some(pipe) = stdin {
        if rest.is_empty() {
            *stdin = None;
            return;
        }
        match pipe.write(rest) {
            Ok(n) => *rest = &rest[n..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => return,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => *stdin = None,
        }
    }
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
