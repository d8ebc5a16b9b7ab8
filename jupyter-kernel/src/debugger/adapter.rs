//! The Debug Adapter Protocol over Jupyter's control channel: JupyterLab's debugger panes on the guest's kernel.
//!
//! The protocol is <https://microsoft.github.io/debug-adapter-protocol>; what Jupyter adds to it (`debugInfo`, `dumpCell`, `inspectVariables`)
//! is in jupyter_client's messaging page.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};
use klab_protocol::Events;
use probes::debug::Stopped;
use probes::guest::Guest;
use serde_json::{Value, json};

use super::breakpoints::Breakpoints;
use super::cell;
use super::kept::{self, News};
use super::source::Sources;
use super::threads::{self, STOPPED};
use super::variables::Variables;

/// The debugger of one kernel. It sees the guest that `find` gives, until it keeps one.
pub(crate) struct Adapter {
    find: fn() -> Result<Guest>,
    state: Mutex<State>,
    events: Arc<Stream>,
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapter").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    breakpoints: Breakpoints,
    /// Texts of cells, by their names.
    cells: BTreeMap<String, String>,
    /// True if the front end shows types beside values.
    typed: bool,
    /// What was shown of the guest since it stopped.
    seen: Seen,
    stops: i64,
}

#[derive(Debug, Default)]
struct Seen {
    sources: Sources,
    variables: Variables,
    /// Thread and position of each frame that the front end knows.
    frames: Vec<(i64, usize)>,
}

/// The events for the front end.
#[derive(Default)]
struct Stream {
    seq: AtomicI64,
    /// Number of stops so far: what was shown at another one is forgotten.
    stops: AtomicI64,
    /// Set while a front end listens.
    to: Mutex<Option<Events>>,
}

impl Stream {
    fn next(&self) -> i64 {
        self.seq.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn send(&self, event: &str, body: Value) {
        let to = self
            .to
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(to) = to {
            to(json!({"seq": self.next(), "type": "event", "event": event, "body": body}));
        }
    }

    fn hear(&self, news: News) {
        self.stops.fetch_add(1, Ordering::Relaxed);
        match news {
            News::Stopped(reason) => self.send(
                "stopped",
                json!({"reason": reason, "threadId": STOPPED, "allThreadsStopped": true}),
            ),
            News::Continued | News::Ended => self.send(
                "continued",
                json!({"threadId": STOPPED, "allThreadsContinued": true}),
            ),
        }
    }

    fn is_open(&self) -> bool {
        self.to
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }
}

impl Adapter {
    /// A debugger that nobody has attached yet.
    pub(crate) fn new(find: fn() -> Result<Guest>) -> Self {
        let events = Arc::<Stream>::default();
        let stream = Arc::clone(&events);
        kept::listen(move |news| stream.hear(news));
        Self {
            find,
            state: Mutex::default(),
            events,
        }
    }

    /// Answers a request.
    pub(crate) fn answer(&self, request: &Value, events: &Events) -> Value {
        let command = request["command"].as_str().unwrap_or_default();
        let done = self.run(command, &request["arguments"], events);
        let mut reply = json!({
            "seq": self.events.next(),
            "type": "response",
            "request_seq": request["seq"],
            "command": command,
            "success": done.is_ok(),
        });
        match done {
            Ok(body) => reply["body"] = body,
            Err(error) => {
                let message = crate::commands::in_a_cell(&format!("{error:#}"));
                reply["message"] = json!(message);
                reply["body"] = json!({"error": {"id": 1, "format": message}});
            }
        }
        // The client sets its breakpoints when it hears this.
        if command == "initialize" {
            self.events.send("initialized", json!({}));
        }
        reply
    }

    fn run(&self, command: &str, arguments: &Value, events: &Events) -> Result<Value> {
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stops = self.events.stops.load(Ordering::Relaxed);
        if state.stops != stops {
            state.stops = stops;
            state.seen = Seen {
                variables: Variables::new(state.typed),
                ..Seen::default()
            };
        }
        match command {
            "initialize" => {
                let mut to = self
                    .events
                    .to
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                *to = Some(Arc::clone(events));
                // It shows a value's type in place of the value (packages/debugger/src/panels/variables/tree.tsx@v4.0.0).
                state.typed = arguments["clientID"] != "jupyterlab";
                Ok(capabilities())
            }
            "attach" | "launch" | "configurationDone" | "setExceptionBreakpoints" => Ok(json!({})),
            "debugInfo" => Ok(self.info(state)),
            "disconnect" | "terminate" => {
                state.breakpoints.clear();
                kept::end()?;
                *self
                    .events
                    .to
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = None;
                Ok(json!({}))
            }
            "dumpCell" => {
                let code = arguments["code"].as_str().unwrap_or_default();
                let name = cell::name_of(code);
                state.cells.insert(name.clone(), code.to_owned());
                Ok(json!({"sourcePath": name}))
            }
            "setBreakpoints" | "setFunctionBreakpoints" => {
                self.breakpoints(command, arguments, state)
            }
            "continue" => {
                kept::release()?;
                Ok(json!({"allThreadsContinued": true}))
            }
            "pause" => {
                kept::stop(&(self.find)()?)?;
                Ok(json!({}))
            }
            "next" | "stepIn" | "stepOut" => {
                let never = Arc::default();
                kept::go(&never, |stopped| match command {
                    "next" => stopped.step_over(),
                    "stepIn" => stopped.step(),
                    _ => stopped.finish(),
                })?;
                Ok(json!({}))
            }
            "source" => {
                let path = arguments["source"]["path"].as_str().unwrap_or_default();
                let content = match state.cells.get(path) {
                    Some(code) => code.clone(),
                    None => state.seen.sources.text(&self.guest()?, path)?,
                };
                Ok(json!({"content": content, "mimeType": "text/x-gas"}))
            }
            // JupyterLab asks for these while nothing is stopped: a cell's variables.
            "inspectVariables" => Ok(json!({"variables": []})),
            "modules" => Ok(json!({"modules": [], "totalModules": 0})),
            _ => kept::with(|stopped| Ok(look(command, arguments, stopped, &mut state.seen)))?,
        }
    }

    /// The guest that is kept, else the notebook's.
    fn guest(&self) -> Result<Guest> {
        match kept::is_kept() {
            true => kept::with(|stopped| Ok(stopped.guest().clone())),
            false => (self.find)(),
        }
    }

    fn info(&self, state: &State) -> Value {
        json!({
            "isStarted": self.events.is_open(),
            "hashMethod": "Murmur2",
            "hashSeed": cell::SEED,
            "tmpFilePrefix": cell::PREFIX,
            "tmpFileSuffix": cell::SUFFIX,
            "breakpoints": state.breakpoints.all(),
            "stoppedThreads": if kept::stands() { vec![STOPPED] } else { Vec::new() },
            "richRendering": false,
            "exceptionPaths": [],
            "copyToGlobals": false,
        })
    }

    fn breakpoints(&self, command: &str, arguments: &Value, state: &mut State) -> Result<Value> {
        let asked = arguments["breakpoints"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let guest = self.guest()?;
        let set = match command {
            "setBreakpoints" => {
                let path = arguments["source"]["path"].as_str().unwrap_or_default();
                let code = state.cells.get(path).map(String::as_str);
                state.breakpoints.set_lines(
                    &guest,
                    (path, code),
                    &asked,
                    &mut state.seen.sources,
                )?
            }
            _ => state.breakpoints.set_functions(&guest, &asked)?,
        };
        Ok(json!({"breakpoints": set}))
    }
}

/// Answers what is asked about a guest that stands.
fn look(command: &str, arguments: &Value, stopped: &mut Stopped, seen: &mut Seen) -> Result<Value> {
    match command {
        "threads" => Ok(json!({"threads": threads::list(stopped)?})),
        "stackTrace" => frames(stopped, arguments, seen),
        "scopes" => scopes(stopped, arguments, seen),
        "variables" => {
            let number = arguments["variablesReference"].as_u64().unwrap_or(0);
            let mut all = seen.variables.unfold(number as usize);
            let start = arguments["start"].as_u64().unwrap_or(0) as usize;
            all.drain(..start.min(all.len()));
            if let Some(count) = arguments["count"].as_u64().filter(|count| *count > 0) {
                all.truncate(count as usize);
            }
            Ok(json!({"variables": all}))
        }
        "evaluate" => {
            let expression = arguments["expression"].as_str().unwrap_or_default();
            let object = stopped.eval(expression)?;
            let mut shown = seen.variables.shown(expression, Ok(object));
            shown["result"] = shown["value"].take();
            Ok(shown)
        }
        "richInspectVariables" => {
            let name = arguments["variableName"].as_str().unwrap_or_default();
            let text = stopped.eval(name)?.to_c()?;
            Ok(json!({"data": {"text/plain": text}, "metadata": {}}))
        }
        _ => bail!("klab's debugger does not know `{command}`"),
    }
}

fn frames(stopped: &Stopped, arguments: &Value, seen: &mut Seen) -> Result<Value> {
    let thread = arguments["threadId"].as_i64().unwrap_or(STOPPED);
    let trace = threads::stack(stopped, thread)?;
    let start = arguments["startFrame"].as_u64().unwrap_or(0) as usize;
    let levels = arguments["levels"].as_u64().filter(|levels| *levels > 0);
    let levels = levels.map_or(usize::MAX, |levels| levels as usize);
    let mut frames = Vec::new();
    for (position, frame) in trace.frames.iter().enumerate().skip(start).take(levels) {
        seen.frames.push((thread, position));
        // A caller goes on behind its call.
        let exact = frame.interrupted || (position == 0 && trace.cpu.is_some());
        let line = seen.sources.find(stopped.guest(), frame.ip);
        let (path, line) = match line {
            Ok((path, line)) if exact || line == 1 => (Some(path), line),
            Ok((path, line)) => (Some(path), line - 1),
            Err(_) => (None, 0),
        };
        let name = match frame.function.is_empty() {
            true => frame.ip.to_string(),
            false => format!("{}+{:#x}", frame.function, frame.offset),
        };
        let source = path.map(|path| json!({"name": frame.function.as_str(), "path": path}));
        frames.push(json!({
            "id": seen.frames.len(),
            "name": name,
            "line": line,
            "column": 1,
            "source": source.unwrap_or_else(|| json!({"name": name, "path": ""})),
            "instructionPointerReference": frame.ip.to_string(),
            "moduleId": frame.module.as_ref().map(|module| module.as_str()),
        }));
    }
    Ok(json!({"stackFrames": frames, "totalFrames": trace.frames.len()}))
}

fn scopes(stopped: &Stopped, arguments: &Value, seen: &mut Seen) -> Result<Value> {
    let id = arguments["frameId"].as_u64().unwrap_or(1) as usize;
    let known = id.checked_sub(1).and_then(|at| seen.frames.get(at));
    let (thread, position) = known.copied().unwrap_or((STOPPED, 0));
    let mut scopes = Vec::new();
    let mut scope = |name: &str, number: usize| {
        scopes.push(json!({"name": name, "variablesReference": number, "expensive": false}));
    };
    if thread == STOPPED {
        // What is not known says why.
        let given = match stopped.args_of_frame(position) {
            Ok(given) => given
                .into_iter()
                .map(|(name, one)| (name, Ok(one)))
                .collect(),
            Err(error) => vec![("arguments".to_owned(), Err(error))],
        };
        scope("Arguments", seen.variables.named(given));
        let task = vec![("current".to_owned(), stopped.eval("current"))];
        scope("Task", seen.variables.named(task));
        if position == 0 {
            scope("Registers", seen.variables.registers(stopped));
        }
    }
    Ok(json!({"scopes": scopes}))
}

fn capabilities() -> Value {
    json!({
        "supportsConfigurationDoneRequest": true,
        "supportsFunctionBreakpoints": true,
        "supportsConditionalBreakpoints": true,
        "supportsEvaluateForHovers": true,
        "supportsTerminateRequest": true,
        "supportsDelayedStackTraceLoading": true,
    })
}
