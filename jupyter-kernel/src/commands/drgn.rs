//! drgn: the `%%drgn` cells, and `klab drgn`.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use probes::drgn::{Connection, Failure, Said, Stop, Target, python};
use serde_json::{Map, Value};

use super::cli::{Drgn, DrgnShell};
use super::output::{Context, Output, Stream};

/// Time that Python may take to leave its work before its process is killed.
const GRACE: Duration = Duration::from_secs(3);

/// The connection of this process, open between cells: while it is, drgn keeps its variables.
static CONNECTION: Mutex<Option<Connection>> = Mutex::new(None);

/// `%%drgn`: the body, or the line's own code, by drgn.
pub(crate) fn cell(drgn: &Drgn, body: &str, cx: &mut Context<'_>) -> Result<Output> {
    let code = if drgn.code.is_empty() {
        body.to_owned()
    } else {
        drgn.code.join(" ")
    };
    if code.trim().is_empty() {
        bail!("`%%drgn` has nothing to run: write Python below the line");
    }
    let target = match &drgn.core {
        Some(path) => Target::Core(whole(path)?),
        None => Target::Guest(drgn.guest.clone().unwrap_or_else(|| cx.guest.clone())),
    };
    let mut request = target.request("run");
    request["code"] = Value::String(code);
    let mut held = CONNECTION.lock().unwrap_or_else(PoisonError::into_inner);
    let mut connection = match held.take() {
        Some(connection) => connection,
        None => Connection::open()?,
    };
    let stop = connection.stop()?;
    let (interrupt, ended) = (cx.interrupt.clone(), AtomicBool::new(false));
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| watch(stop, &interrupt, &ended));
        let answer = connection.ask(&request, &mut |said| match said {
            Said::Stdout(text) => (cx.sink)(Stream::Stdout, text.as_bytes()),
            Said::Stderr(text) => (cx.sink)(Stream::Stderr, text.as_bytes()),
            Said::Display(data) => {
                (cx.sink)(Stream::Stdout, format!("{}\n", plain(&data)).as_bytes())
            }
        });
        ended.store(true, Ordering::Release);
        answer
    });
    match answer {
        Ok(value) => {
            *held = Some(connection);
            Ok(output(value))
        }
        Err(Failure::Raised(raised)) => {
            *held = Some(connection);
            Err(raised.into())
        }
        // It did not heed the interrupt.
        Err(Failure::Lost(error)) if cx.interrupt.load(Ordering::Acquire) => {
            Err(vm::Error::Interrupted(format!("drgn's process was ended: {error}")).into())
        }
        Err(Failure::Lost(error)) => Err(error.into()),
    }
}

/// Passes the context's interrupt on; kills a process that does not heed it.
fn watch(mut stop: Stop, interrupt: &AtomicBool, ended: &AtomicBool) {
    let mut asked = None;
    while !ended.load(Ordering::Acquire) {
        match asked {
            None if interrupt.load(Ordering::Acquire) => {
                stop.interrupt();
                asked = Some(Instant::now());
            }
            Some(then) if then.elapsed() > GRACE => {
                stop.kill();
                return;
            }
            _ => {}
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn plain(data: &Map<String, Value>) -> &str {
    data.get("text/plain")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn output(value: Value) -> Output {
    let Value::Object(data) = value else {
        return Output::default();
    };
    Output {
        text: plain(&data).to_owned(),
        html: data
            .get("text/html")
            .and_then(Value::as_str)
            .map(str::to_owned),
        ..Output::default()
    }
}

fn whole(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .with_context(|| format!("there is no dump at {}", path.display()))
}

/// `klab drgn`: drgn's own prompt, a script or an expression, on this terminal.
pub(crate) fn shell(drgn: &DrgnShell, cx: &Context<'_>) -> Result<Output> {
    let mut command = Command::new(python()?);
    command.args(["-m", "klab.cli"]);
    match &drgn.core {
        Some(path) => command.arg("--core").arg(whole(path)?),
        None => command.args(["--guest", drgn.guest.as_deref().unwrap_or(&cx.guest)]),
    };
    if let Some(code) = &drgn.execute {
        command.args(["-e", code]);
    }
    // In place of this process: Ctrl-C is for Python alone, and a program that waits for this process waits for it.
    let error = command.args(&drgn.script).exec();
    Err(error).context("Python does not start: `cargo xtask lab` installs it")
}
