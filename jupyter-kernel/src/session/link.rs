//! One process of `klab-cells`, and the socket to it.

use std::collections::HashMap;
use std::io::BufReader;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use klab_language::wire::{self, Answer, Hear, Question, Say};
use klab_language::{CellError, Sink, Stage};

use super::program;

/// Time that the process may take, when the socket is closed, to end the cells and to remove its folder.
const LEAVE: Duration = Duration::from_secs(4);

/// A process, and the questions that wait for it.
pub(super) struct Link {
    to: Mutex<UnixStream>,
    child: Mutex<Child>,
    /// Questions that wait, by their numbers; `None` once the process is gone.
    asking: Mutex<Option<HashMap<u64, mpsc::Sender<Answer>>>>,
    questions: AtomicU64,
    /// Destination of what it shows.
    pub(super) stage: Stage,
}

impl Link {
    /// Starts the process. Its messages before the first cell go to `background`.
    pub(super) fn start(background: Sink) -> Result<Arc<Self>> {
        let mut command = program::command()?;
        // A cell that starts a guest is linked to a copy of the sources, from which nothing is built.
        if let Ok(agent) = vm::initramfs::agent_binary(&mut vm::Silent) {
            command.env("KLAB_AGENT", agent);
        }
        // An installed klab has it beside this program.
        if let Ok(python) = probes::drgn::python() {
            command.env("KLAB_PYTHON", python);
        }
        let (own, its) = UnixStream::pair()?;
        let child = command
            .arg("serve")
            // Rust cells and `%%drgn` cells share one drgn.
            .env("KLAB_DRGN", probes::drgn::socket()?)
            .stdin(Stdio::from(OwnedFd::from(its)))
            .spawn()
            .with_context(|| format!("{} does not start", command.get_program().display()))?;
        // The child's end of the socket is open here until then: its end would not be noticed.
        drop(command);
        let link = Arc::new(Self {
            to: Mutex::new(own.try_clone()?),
            child: Mutex::new(child),
            asking: Mutex::new(Some(HashMap::new())),
            questions: AtomicU64::new(0),
            stage: Stage::new(background),
        });
        let listening = Arc::clone(&link);
        thread::Builder::new()
            .name("from the cells".to_owned())
            .spawn(move || listening.listen(own))?;
        Ok(link)
    }

    /// Asks; the answer comes, or the channel closes.
    pub(super) fn ask(&self, question: Question) -> mpsc::Receiver<Answer> {
        let id = self.questions.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = mpsc::channel();
        if let Some(asking) = &mut *self.asking() {
            asking.insert(id, reply);
        }
        self.say(&Say::Question(id, question));
        answer
    }

    /// Stops the cell that runs.
    pub(super) fn interrupt(&self) {
        self.say(&Say::Interrupt);
    }

    /// Tells whether the process is there: the system is asked, since the socket tells of its end a moment later.
    pub(super) fn lives(&self) -> bool {
        if self.asking().is_none() {
            return false;
        }
        let mut child = lock(&self.child);
        matches!(child.try_wait(), Ok(None)) && !is_ending(child.id())
    }

    /// The error of a cell that the process left without an answer.
    pub(super) fn died(&self) -> CellError {
        let how = self
            .leave()
            .map_or_else(|| "no status".to_owned(), |status| status.to_string());
        CellError::new(
            "ProcessDied",
            format!(
                "the program of the Rust cells ended ({how}); variables, `use`, functions and types are lost, and the next cell \
                 starts it anew"
            ),
        )
    }

    /// Closes the socket, which ends the process, and waits for that.
    pub(super) fn hang_up(&self) {
        let _ = lock(&self.to).shutdown(Shutdown::Both);
        self.leave();
    }

    fn say(&self, say: &Say) {
        // The other half of the socket says whether the process is gone.
        let _ = wire::write(&mut *lock(&self.to), say);
    }

    fn asking(&self) -> MutexGuard<'_, Option<HashMap<u64, mpsc::Sender<Answer>>>> {
        lock(&self.asking)
    }

    fn listen(self: &Arc<Self>, from: UnixStream) {
        let mut from = BufReader::new(from);
        while let Ok(Some(hear)) = wire::read(&mut from) {
            match hear {
                Hear::Show(shown) => self.stage.show(shown),
                Hear::Ask {
                    id,
                    prompt,
                    password,
                } => {
                    let link = Arc::clone(self);
                    // The cell's output goes on meanwhile.
                    thread::spawn(move || {
                        let line = link.stage.ask(&prompt, password);
                        link.say(&Say::Input(id, line));
                    });
                }
                Hear::Answer(id, answer) => {
                    let reply = self.asking().as_mut().and_then(|all| all.remove(&id));
                    if let Some(reply) = reply {
                        let _ = reply.send(answer);
                    }
                }
            }
        }
        // A question that waits is answered at once; the next cell must not find the process.
        *self.asking() = None;
        self.hang_up();
    }

    /// Waits for the end of the process, and kills it if that does not come.
    fn leave(&self) -> Option<ExitStatus> {
        let mut child = lock(&self.child);
        let begun = Instant::now();
        while begun.elapsed() < LEAVE {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        child.wait().ok()
    }
}

/// Tells whether a process of several threads has lost its first one, and waits for the others' end: until then it has
/// not ended for its parent, and its socket is open.
fn is_ending(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // `PID (NAME) STATE ..`, where the name may hold anything.
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_none_or(|state| state.starts_with(['Z', 'X']))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
