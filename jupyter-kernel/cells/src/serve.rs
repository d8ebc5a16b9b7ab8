//! One session for the kernel that is at the other end of this process's stdin.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use anyhow::Result;
use klab_language::wire::{self, Answer, Hear, Question, Say};
use klab_language::{Input, Sink};

use crate::prepare::{self, Folder};
use crate::session::Session;

/// Serves until the kernel hangs up, by its end or otherwise.
pub(crate) fn run() -> Result<()> {
    let folder = Folder::take()?;
    evcxr::build_with(prepare::without);
    let kernel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // A program that is started from here must not hold the socket open, nor read it.
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    let server = Arc::new(Server {
        to: Mutex::new(kernel.try_clone()?),
        asked: Mutex::default(),
        asks: AtomicU64::new(0),
    });
    let session = Arc::new(Session::start(server.sink())?);
    let mut from = BufReader::new(kernel);
    // Nothing here waits: the kernel would wait too.
    while let Ok(Some(say)) = wire::read::<Say>(&mut from) {
        match say {
            Say::Question(id, question) => {
                let answer = server.answer(question, &session);
                let server = Arc::clone(&server);
                thread::Builder::new().spawn(move || server.say(&Hear::Answer(id, answer())))?;
            }
            Say::Interrupt => {
                let session = Arc::clone(&session);
                thread::Builder::new().spawn(move || session.interrupt())?;
            }
            Say::Input(id, line) => server.answered(id, line),
        }
    }
    session.kill();
    drop(folder);
    // Threads of a session that has no kernel any more have nothing to end.
    std::process::exit(0)
}

/// The way to the kernel.
struct Server {
    to: Mutex<UnixStream>,
    /// Questions that wait for the user, by number.
    asked: Mutex<HashMap<u64, mpsc::Sender<Option<String>>>>,
    asks: AtomicU64,
}

impl Server {
    fn say(&self, hear: &Hear) {
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        // Without the kernel this process ends.
        let _ = wire::write(&mut *to, hear);
    }

    fn sink(self: &Arc<Self>) -> Sink {
        let server = Arc::clone(self);
        Arc::new(move |shown| server.say(&Hear::Show(shown)))
    }

    fn input(self: &Arc<Self>) -> Input {
        let server = Arc::clone(self);
        Box::new(move |prompt, password| server.ask(prompt, password))
    }

    fn ask(&self, prompt: &str, password: bool) -> Option<String> {
        let id = self.asks.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = mpsc::channel();
        self.asked().insert(id, reply);
        self.say(&Hear::Ask {
            id,
            prompt: prompt.to_owned(),
            password,
        });
        answer.recv().ok().flatten()
    }

    fn answered(&self, id: u64, line: Option<String>) {
        if let Some(reply) = self.asked().remove(&id) {
            let _ = reply.send(line);
        }
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Option<String>>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the question on; the answer itself may take its time. A cell is queued at once, since the interrupt that is
    /// read next is meant for it.
    fn answer(
        self: &Arc<Self>,
        question: Question,
        session: &Arc<Session>,
    ) -> Box<dyn FnOnce() -> Answer + Send> {
        let session = Arc::clone(session);
        match question {
            Question::Execute { code, waiting } => {
                let queued = session.queue(code, waiting, self.sink(), self.input());
                Box::new(move || Answer::Outcome(queued.outcome()))
            }
            Question::Complete { code, at } => {
                Box::new(move || Answer::Completion(session.complete(code, at)))
            }
            Question::Inspect { code, at } => {
                Box::new(move || Answer::Inspection(session.inspect(code, at)))
            }
        }
    }
}
