//! Loading and unloading modules, each in a process of its own.
//!
//! A module's init and exit run in the process that called the kernel. They may panic, and the kernel ends that process
//! in the middle; they may loop or sleep for as long as they like. None of that may happen to the agent.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, Stdio},
    thread,
};

use klab_wire::{
    Answer, Reply,
    frame::{self, Decoder},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::{
    error::{Context as _, Result},
    modules,
    run::Running,
    session::{Responder, Runs},
};

/// The argument that makes this binary load or unload a module and end.
pub(crate) const MODULE: &str = "module";
const LOAD: &str = "load";
const UNLOAD: &str = "unload";

/// A task to do.
#[derive(Debug)]
pub(crate) enum Job {
    Load { name: String, params: String },
    Unload { name: String },
}

impl Job {
    fn spawn(&self) -> Result<(Child, i32)> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("klab-module").arg(MODULE);
        match self {
            Self::Load { name, params } => command.args([LOAD, name, params]),
            Self::Unload { name } => command.args([UNLOAD, name]),
        };
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a process for the module")?;
        let pid = i32::try_from(child.id()).context("a pid")?;
        Ok((child, pid))
    }
}

/// Begins the job; a thread of its own sends how it goes and how it ends.
pub(crate) fn start(job: &Job, to: Responder, runs: &Runs) -> Result<()> {
    let (mut child, pid) = job.spawn()?;
    let running = Running::enter(pid, None, &to, runs);
    let runs = runs.clone();
    thread::spawn(move || {
        // A host that has gone hears nothing more; the session has killed the process, if the kernel lets it.
        let answer = watch(&mut child, pid, &running, &mut |answer| {
            let _ = to.send(answer);
        });
        let answer = answer.unwrap_or_else(|e| Answer::Error(format!("the module was lost: {e}")));
        let _ = to.send(answer);
        Running::leave(&to, &runs);
    });
    Ok(())
}

/// Does the job and waits for its end.
pub(crate) fn run(job: &Job) -> Result<Answer> {
    let (mut child, pid) = job.spawn()?;
    Ok(watch(&mut child, pid, &Running::new(pid), &mut |_| {})?)
}

/// Hands on what the process says on its way; gives how it ended.
fn watch(
    child: &mut Child,
    pid: i32,
    running: &Running,
    on: &mut dyn FnMut(Answer),
) -> io::Result<Answer> {
    let ended = Pid::from_raw(pid).ok_or(ErrorKind::InvalidInput)?;
    let ended = pidfd_open(ended, PidfdFlags::empty())?;
    let mut words = child.stdout.take().map(|p| File::from(OwnedFd::from(p)));
    let (mut decoder, mut last, mut buf) = (Decoder::new(), None, vec![0; 4096]);
    loop {
        let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            words
                .as_ref()
                .map(|words| PollFd::new(words.as_fd(), PollFlags::POLLIN)),
        );
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let over = fds[0].any().unwrap_or(false);
        let said = fds.get(1).is_some_and(|fd| fd.any().unwrap_or(false));
        if let Some(mut from) = words.as_ref().filter(|_| said) {
            match from.read(&mut buf) {
                Ok(0) => words = None,
                Ok(n) => decoder.feed(&buf[..n], |reply| match reply {
                    Ok(Reply { answer, .. }) if matches!(answer, Answer::Loading(_)) => on(answer),
                    Ok(Reply { answer, .. }) => last = Some(answer),
                    Err(_) => {}
                }),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => words = None,
            }
        } else if over {
            let status = running.wait(child)?;
            return Ok(last.unwrap_or_else(|| match status.signal() {
                Some(signal) => Answer::Died { signal },
                None => Answer::Error(format!("the module's process ended with {status}")),
            }));
        }
    }
}

/// The process itself: says on its standard output what it does.
pub(crate) fn child(args: &[String]) {
    let _ = nix::sys::prctl::set_name(c"klab-module");
    let mut loading = |module: &str| say(Answer::Loading(module.to_owned()));
    let answer = match args {
        [what, name, params] if what == LOAD => {
            modules::load(name, params, &mut loading).map_or_else(|e| e, Answer::Loaded)
        }
        [what, name] if what == UNLOAD => {
            modules::unload(name).map_or_else(|e| e, |()| Answer::Done)
        }
        _ => Answer::Error("there is no such thing to do with a module".to_owned()),
    };
    say(answer);
}

fn say(answer: Answer) {
    if let Ok(bytes) = frame::encode(&Reply { id: 0, answer }) {
        // Without a reader there is nobody to tell.
        let _ = io::stdout().lock().write_all(&bytes);
        let _ = io::stdout().lock().flush();
    }
}
