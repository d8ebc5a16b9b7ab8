//! The thread that owns evcxr's context: it compiles and runs one cell at a time.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use evcxr::{CommandContext, EvalCallbacks, EvalContext};
use klab_language::{Bundle, CellError, Completion, Input, Match, Outcome, Shown, Sink, Stage};
use serde_json::{Map, Value};

use super::code;
use super::front::Front;
use super::interrupt::Interrupter;
use super::report;
use crate::prepare;

/// Time that a client waits for completions: the first time, evcxr may still be starting.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time without a cell after which rust-analyzer reads the libraries, which takes seconds.
const IDLE: Duration = Duration::from_millis(500);

enum Job {
    Execute {
        code: String,
        waiting: Option<String>,
        wait: Arc<Wait>,
    },
    Complete {
        code: String,
        at: usize,
        reply: mpsc::Sender<Completion>,
    },
    Inspect {
        code: String,
        at: usize,
        reply: mpsc::Sender<Option<Bundle>>,
    },
}

/// A cell that waits for its turn, while evcxr starts: an interrupt ends the wait, and evcxr goes on.
struct Wait {
    over: AtomicBool,
    reply: mpsc::Sender<Outcome>,
}

impl Wait {
    /// Ends it; false if it is over.
    fn end(&self) -> bool {
        !self.over.swap(true, Ordering::SeqCst)
    }
}

/// A cell that was queued.
pub(crate) struct Queued {
    outcome: mpsc::Receiver<Outcome>,
    waiting: Arc<AtomicUsize>,
}

impl Queued {
    /// Its outcome; waits for its end.
    pub(crate) fn outcome(self) -> Outcome {
        let outcome = self.outcome.recv().unwrap_or_else(|_| Err(gone()));
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        outcome
    }
}

/// A handle to the thread.
pub(crate) struct Session {
    jobs: mpsc::Sender<Job>,
    stage: Stage,
    /// Number of cells that run or wait.
    waiting: Arc<AtomicUsize>,
    /// The one that came last.
    last: Mutex<Option<Arc<Wait>>>,
    interrupter: Arc<Interrupter>,
}

impl Session {
    /// Starts the thread, which gets evcxr ready at once. Its messages before the first cell go to `background`.
    pub(crate) fn start(background: Sink) -> Result<Self> {
        hush();
        let (jobs, receiver) = mpsc::channel();
        let interrupter = Arc::<Interrupter>::default();
        let waiting = Arc::<AtomicUsize>::default();
        let stage = Stage::new(background);
        let front = Front::new(stage.clone(), Arc::clone(&interrupter))?;
        let mut worker = Worker {
            stage: stage.clone(),
            front,
            interrupter: Arc::clone(&interrupter),
            cells: None,
            cell: 0,
        };
        std::thread::Builder::new()
            .name("cells".to_owned())
            .spawn(move || {
                // A start that fails is tried again, and reported, by the first cell.
                let _ = worker.ready();
                worker.serve(&receiver);
            })?;
        Ok(Self {
            jobs,
            stage,
            waiting,
            last: Mutex::default(),
            interrupter,
        })
    }

    /// Stops the cell that runs, or waits to.
    pub(crate) fn interrupt(&self) {
        let last = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match last {
            Some(wait) if wait.end() => {
                let _ = wait.reply.send(Err(not_run()));
            }
            _ => self.interrupter.interrupt(),
        }
    }

    /// Kills the process of the cells and its compilers.
    pub(crate) fn kill(&self) {
        self.interrupter.kill();
    }

    /// Queues a cell. `waiting` is the cell for a session without tokio, if it awaits something.
    pub(crate) fn queue(
        &self,
        code: String,
        waiting: Option<String>,
        show: Sink,
        input: Input,
    ) -> Queued {
        self.stage.set(show, input);
        let (reply, outcome) = mpsc::channel();
        let over = AtomicBool::new(false);
        let wait = Arc::new(Wait { over, reply });
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&wait));
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.send(Job::Execute {
            code,
            waiting,
            wait,
        });
        Queued {
            outcome,
            waiting: Arc::clone(&self.waiting),
        }
    }

    /// Completions at byte `at`; none while a cell runs.
    pub(crate) fn complete(&self, code: String, at: usize) -> Completion {
        let (reply, found) = mpsc::channel();
        if self.busy() {
            drop(reply);
        } else {
            self.send(Job::Complete { code, at, reply });
        }
        found.recv_timeout(PATIENCE).unwrap_or(Completion {
            matches: Vec::new(),
            replaced: at..at,
        })
    }

    /// Description of the name at byte `at`, as text and as HTML; none while a cell runs.
    pub(crate) fn inspect(&self, code: String, at: usize) -> Option<Bundle> {
        let (reply, found) = mpsc::channel();
        if self.busy() {
            drop(reply);
        } else {
            self.send(Job::Inspect { code, at, reply });
        }
        found.recv_timeout(PATIENCE).ok().flatten()
    }

    fn busy(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    fn send(&self, job: Job) {
        // Without the thread, the reply's channel closes.
        let _ = self.jobs.send(job);
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// rust-analyzer adds the names of a function's parameters, which nobody wants as arguments.
fn name(mut code: String) -> String {
    if let Some(parameters) = code.find('(') {
        code.truncate(parameters);
    }
    code
}

thread_local! {
    /// True while a panic of this thread is not to be printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// rust-analyzer may panic on a text that is half written; the cells go on without its answer.
fn unbroken<T>(ask: impl FnOnce() -> Option<T>) -> Option<T> {
    QUIET.set(true);
    let answer = catch_unwind(AssertUnwindSafe(ask));
    QUIET.set(false);
    answer.ok().flatten()
}

/// Keeps the panics that [`unbroken`] catches out of the terminal.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                hook(info);
            }
        }));
    });
}

/// Tells whether the user has named tokio, by which evcxr then runs what a cell awaits.
fn has_tokio(context: &mut CommandContext, code: &str) -> bool {
    let named = |text: &str| {
        text.lines()
            .any(|line| line.trim_start_matches(":dep ").starts_with("tokio"))
    };
    let known = context.execute(":show_deps").ok();
    named(code) || known.is_some_and(|deps| deps.get("text/plain").is_some_and(named))
}

fn not_run() -> CellError {
    CellError::new("Interrupted", "the cell was stopped before it ran")
}

fn gone() -> CellError {
    CellError::new(
        "Error",
        "the kernel's thread for cells is gone: restart the kernel",
    )
}

struct Worker {
    stage: Stage,
    front: Front,
    interrupter: Arc<Interrupter>,
    cells: Option<Cells>,
    cell: u64,
}

struct Cells {
    context: CommandContext,
    /// Nothing was imported yet.
    new: bool,
    /// The process is new, and the prelude has not run in it.
    bare: bool,
    /// rust-analyzer has not been shown the libraries yet.
    blind: bool,
}

impl Cells {
    /// Has rust-analyzer read the libraries at its next question, if it has not.
    fn show_libraries(&mut self) -> Result<()> {
        if self.blind {
            let told = prepare::show_libraries()?;
            self.blind = false;
            self.context
                .execute(&told)
                .map_err(|error| anyhow!("the libraries are not read: {error}"))?;
        }
        Ok(())
    }
}

impl Worker {
    fn serve(&mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            let job = match self.is_blind() {
                true => jobs.recv_timeout(IDLE),
                false => jobs.recv().map_err(RecvTimeoutError::from),
            };
            match job {
                Ok(job) => self.work(job),
                Err(RecvTimeoutError::Timeout) => self.see(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn is_blind(&self) -> bool {
        self.cells.as_ref().is_some_and(|cells| cells.blind)
    }

    /// Asks rust-analyzer something, so that it reads the libraries now.
    fn see(&mut self) {
        let _ = unbroken(|| self.complete("guest.", 6).ok());
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Execute {
                code,
                waiting,
                wait,
            } => {
                let outcome = self.execute(code, waiting, &wait);
                let _ = wait.reply.send(outcome);
                if self.cells.as_ref().is_some_and(|cells| cells.bare) {
                    // The next cell tries again, and reports.
                    let _ = self.ready();
                }
            }
            Job::Complete { code, at, reply } => {
                // Without an answer the channel closes.
                if let Some(found) = unbroken(|| self.complete(&code, at).ok()) {
                    let _ = reply.send(found);
                }
            }
            Job::Inspect { code, at, reply } => {
                let _ = reply.send(unbroken(|| self.inspect(&code, at)));
            }
        }
    }

    /// Sees to it that evcxr runs and that the prelude is in place.
    fn ready(&mut self) -> Result<&mut Cells> {
        let cells = match self.cells.take() {
            Some(cells) => cells,
            None => self.start()?,
        };
        let cells = self.cells.insert(cells);
        if cells.bare {
            self.front.begin();
            // One cell, one compiler: what was imported is kept when the process is restarted.
            let mut code = prepare::prelude().to_owned();
            if cells.new {
                code.insert_str(0, &prepare::imports()?);
            }
            let prelude = cells.context.execute(&code);
            let died = matches!(prelude, Err(evcxr::Error::SubprocessTerminated(_)));
            let said = self.front.end(died);
            if !said.stderr.is_empty() {
                self.stage.show(Shown::Stderr(said.stderr));
            }
            prelude.map_err(|error| anyhow!("the library of the cells does not load: {error}"))?;
            (cells.new, cells.bare) = (false, false);
        }
        Ok(cells)
    }

    fn start(&self) -> Result<Cells> {
        let say = |text: &str| self.stage.show(Shown::Stderr(text.to_owned()));
        prepare::session(&say).context("the library of the cells is not ready")?;
        let mut child = prepare::cell_process()?;
        child.env("KLAB_CELL", self.front.folder());
        let (context, outputs) = EvalContext::with_subprocess_command(child)
            .map_err(|error| anyhow!("evcxr does not start: {error}"))?;
        let context = CommandContext::with_eval_context(context);
        self.interrupter.watch(context.process_handle());
        // Text that the process writes before the prelude has redirected it.
        let sinks = [
            (outputs.stdout, Shown::Stdout as fn(String) -> Shown),
            (outputs.stderr, Shown::Stderr),
        ];
        for (lines, shown) in sinks {
            let stage = self.stage.clone();
            std::thread::spawn(move || {
                lines.iter().for_each(|line| stage.show(shown(line + "\n")));
            });
        }
        prepare::lock()?;
        Ok(Cells {
            context,
            new: true,
            bare: true,
            blind: true,
        })
    }

    fn execute(&mut self, mut code: String, waiting: Option<String>, wait: &Wait) -> Outcome {
        self.cell += 1;
        let cell = self.cell;
        if let Err(error) = self.ready() {
            self.cells = None;
            return Err(CellError::new("Error", format!("{error:#}")));
        }
        if self.is_blind() && code::wants_types(&code) {
            // An interrupt ends the wait for it, while nothing runs yet.
            self.see();
        }
        let Some(cells) = &mut self.cells else {
            return Err(gone());
        };
        self.front.begin();
        self.interrupter.begin(cell);
        if !wait.end() {
            self.interrupter.end();
            return Err(not_run());
        }
        if let Some(waiting) = waiting
            && !has_tokio(&mut cells.context, &code)
        {
            code = waiting;
        }
        let code = code.as_str();
        let mut callbacks = EvalCallbacks {
            input_reader: &|request| {
                let line = self.stage.ask(&request.prompt, request.is_password);
                self.front.answered();
                line.unwrap_or_default()
            },
        };
        let run = catch_unwind(AssertUnwindSafe(|| {
            cells.context.execute_with_callbacks(code, &mut callbacks)
        }));
        self.interrupter.end();
        let Ok(run) = run else {
            return Err(CellError::new(
                "Error",
                "rust-analyzer, which tells the types of variables, panicked at this cell; nothing of it ran, and variables are \
                 kept: give each `let` its type, or put the cell into braces",
            ));
        };
        let run = match run {
            Err(evcxr::Error::CompilationErrors(errors)) if !report::have_a_place(&errors) => {
                let checked = cells.context.check(code).unwrap_or_default();
                let better = report::have_a_place(&checked);
                Err(evcxr::Error::CompilationErrors(if better {
                    checked
                } else {
                    errors
                }))
            }
            run => run,
        };
        cells.bare = matches!(run, Err(evcxr::Error::SubprocessTerminated(_)));
        let mut said = self.front.end(cells.bare);
        let error = match &run {
            _ if self.interrupter.killed() => Some(report::killed(said.kept)),
            Ok(_) if said.kept => Some(report::died(said.status.clone(), &said)),
            Err(_) if self.interrupter.requested() => Some(not_run()),
            Err(error) => Some(report::of_evcxr(error, code, &said)),
            Ok(_) => {
                let source = cells.context.last_source().unwrap_or_default();
                let error = report::of_said(&said, code, &source);
                // Whatever the cell made of a wait that was stopped.
                match error {
                    Some(_) if self.interrupter.requested() => Some(report::stopped()),
                    error => error,
                }
            }
        };
        let is_error = said.question_mark && said.error.is_none();
        if !is_error && !cells.bare && !said.kept && !said.stderr.is_empty() {
            self.stage
                .show(Shown::Stderr(std::mem::take(&mut said.stderr)));
        }
        match (error, run) {
            (Some(error), _) => Err(error),
            (None, Err(_)) => Err(gone()),
            (None, Ok(outputs)) => {
                let commands = outputs.content_by_mime_type.into_iter();
                let mut data: Map<_, _> = commands
                    .map(|(mime, data)| (mime, Value::String(data)))
                    .collect();
                data.extend(said.result.unwrap_or_default());
                Ok(Some(data).filter(|data| !data.is_empty()))
            }
        }
    }

    fn complete(&mut self, code: &str, at: usize) -> Result<Completion> {
        let cells = self.ready()?;
        cells.show_libraries()?;
        let found = cells.context.completions(code, at)?;
        let matches = found
            .completions
            .into_iter()
            .map(|item| Match {
                text: name(item.code),
                kind: Some(item.kind.to_owned()),
            })
            .collect();
        Ok(Completion {
            matches,
            replaced: found.start_offset..found.end_offset,
        })
    }

    fn inspect(&mut self, code: &str, at: usize) -> Option<Bundle> {
        let cells = self.ready().ok()?;
        cells.show_libraries().ok()?;
        let (text, html) = cells.context.hover_at(code, at).ok()?;
        let forms = [("text/plain", text), ("text/html", html)];
        (forms[0].1 != "No documentation found")
            .then(|| forms.map(|(mime, form)| (mime.to_owned(), Value::String(form))))
            .map(Map::from_iter)
    }
}
