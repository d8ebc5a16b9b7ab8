//! The commands that run something in a guest, by its agent.

use std::io::Stdin;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;
use vm::agent::{Client, Exit, RunSpec};

use super::cli::{Run, Sh};
use super::machine::attach;
use super::output::{Context, Output, Stream};

/// `klab run NAME -- CMD`: streams, or collects both streams for JSON.
pub(crate) fn run(run: &Run, json: bool, cx: &mut Context<'_>) -> Result<Output> {
    let spec = RunSpec {
        argv: run.command.clone(),
        ..RunSpec::default()
    };
    let mut client = attach(Some(&run.name), cx)?.agent()?;
    let stdin = std::io::stdin();
    let input = (!is_null(&stdin)).then(|| stdin.as_fd());
    if !json {
        return stream(&mut client, &spec, input, cx);
    }
    let all = client.output_from(&spec, input)?;
    let value = json!({
        "exit_code": code(&all.status),
        "stdout": probes::text_of(&all.stdout),
        "stderr": probes::text_of(&all.stderr),
    });
    Ok(Output {
        code: code(&all.status),
        ..Output::new("", &value)?
    })
}

/// `%%sh`: the body, or the line's own command, by the guest's shell.
pub(crate) fn sh(sh: &Sh, body: &str, cx: &mut Context<'_>) -> Result<Output> {
    let script = if sh.command.is_empty() {
        body.to_owned()
    } else {
        sh.command.join(" ")
    };
    if script.trim().is_empty() {
        bail!("`%%sh` has nothing to run: write shell commands below the line");
    }
    let argv = ["sh", "-c", &script].map(str::to_owned).to_vec();
    let mut client = attach(sh.guest.as_deref(), cx)?.agent()?;
    let output = stream(
        &mut client,
        &RunSpec {
            argv,
            ..RunSpec::default()
        },
        // A cell has none.
        None,
        cx,
    )?;
    if output.code != 0 {
        bail!("the guest's shell ended with exit code {}", output.code);
    }
    Ok(output)
}

/// Runs `spec`, handing on what it writes as it comes; the context's interrupt kills it.
fn stream(
    client: &mut Client,
    spec: &RunSpec,
    input: Option<BorrowedFd<'_>>,
    cx: &mut Context<'_>,
) -> Result<Output> {
    let (canceller, interrupt) = (client.canceller(), cx.interrupt.clone());
    let (ended, stopped) = (AtomicBool::new(false), AtomicBool::new(false));
    let exit = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                if interrupt.swap(false, Ordering::AcqRel) {
                    stopped.store(true, Ordering::Release);
                    canceller.cancel();
                }
                std::thread::park_timeout(Duration::from_millis(20));
            }
        });
        let exit = client.run_from(spec, input, |stream, bytes| {
            let stream = match stream {
                vm::agent::Stream::Stdout => Stream::Stdout,
                vm::agent::Stream::Stderr => Stream::Stderr,
            };
            (cx.sink)(stream, bytes);
        });
        ended.store(true, Ordering::Release);
        exit
    })?;
    if stopped.load(Ordering::Acquire) && exit == Exit::Signal(9) {
        return Err(vm::Error::Interrupted(format!(
            "`{}` was ended in the guest",
            spec.argv.first().map_or("the command", String::as_str)
        ))
        .into());
    }
    Ok(Output {
        code: code(&exit),
        ..Output::default()
    })
}

/// Tells whether nothing can be read from it: then the command in the guest has no input either.
fn is_null(stdin: &Stdin) -> bool {
    let null = |path: &str| nix::sys::stat::stat(path).map(|stat| stat.st_rdev);
    match (nix::sys::stat::fstat(stdin), null("/dev/null")) {
        (Ok(own), Ok(null)) => own.st_rdev == null,
        // A standard input that is closed.
        (Err(_), _) => true,
        (_, Err(_)) => false,
    }
}

/// The exit code as a shell counts it: 128 and the signal's number where a signal ended it.
fn code(exit: &Exit) -> u8 {
    let code = match exit {
        Exit::Code(code) => *code,
        Exit::Signal(signal) => 128 + (*signal & 0x7f),
        Exit::TimedOut => 124,
    };
    u8::try_from(code & 0xff).unwrap_or(u8::MAX)
}
