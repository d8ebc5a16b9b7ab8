//! Jupyter's wire protocol, version 5.5, over a [`Language`]: five channels, the queue of cells, the history.
//!
//! It knows no language and starts no process, so its tests run over real sockets in milliseconds.
//!
//! | channel | module |
//! |---|---|
//! | shell | `shell`: requests, answered while a cell runs too; cells queue for `execute`, messages of a comm go to `comm` |
//! | control | `control`: interrupt, shutdown, the debugger's requests, those about a `subshell` |
//! | iopub | `publish` |
//! | stdin | `stdin` |
//! | heartbeat | `serve` below |

mod comm;
mod control;
mod execute;
mod history;
mod language;
mod position;
mod publish;
mod request;
mod shell;
mod stdin;
mod subshell;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jupyter_protocol::{ConnectionInfo, JupyterMessage};
use jupyter_zmq_client as zmq;
use tokio::sync::mpsc;

pub use jupyter_protocol::messaging::{CodeMirrorMode, LanguageInfo};
pub use klab_language::{Bundle, CellError, Completion, Input, Match, Outcome, Shown, Sink, Stop};
pub use language::{Cell, Completeness, Events, Info, Language};

use publish::Publisher;

/// Serves the client that wrote the connection file, until it says to stop. `language` is started with a sink for output
/// that belongs to no cell.
///
/// # Errors
///
/// If the connection file cannot be read, its ports are taken, or the language does not start.
pub fn run(
    connection_file: &Path,
    language: impl FnOnce(Sink) -> Result<Arc<dyn Language>>,
) -> Result<()> {
    let text = std::fs::read_to_string(connection_file).with_context(|| {
        format!(
            "cannot read the connection file {}",
            connection_file.display()
        )
    })?;
    let connection: ConnectionInfo = serde_json::from_str(&text).with_context(|| {
        format!(
            "{} is no connection file of Jupyter's",
            connection_file.display()
        )
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let served = runtime.block_on(serve(&connection, language));
    // The thread that runs the cells may be in the middle of one.
    runtime.shutdown_background();
    served
}

async fn serve(
    connection: &ConnectionInfo,
    language: impl FnOnce(Sink) -> Result<Arc<dyn Language>>,
) -> Result<()> {
    let id = uuid::Uuid::new_v4().to_string();
    let iopub = zmq::create_kernel_iopub_xpub_connection(connection, &id).await?;
    let shell = zmq::create_kernel_shell_connection(connection, &id).await?;
    let control = zmq::create_kernel_control_connection(connection, &id).await?;
    let stdin = zmq::create_kernel_stdin_connection(connection, &id).await?;
    let mut heartbeat = zmq::create_kernel_heartbeat_connection(connection).await?;

    tokio::spawn(async move {
        loop {
            // A client that goes in the middle is an error of its own; the others are served on.
            if heartbeat.single_heartbeat().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    let publisher = Publisher::start(iopub);
    let language = language(publisher.sink(None))?;
    let asker = stdin::Asker::start(stdin);
    let (replies, requests) = split(shell);
    let means = execute::Means {
        language: Arc::clone(&language),
        publisher: publisher.clone(),
        replies,
        asker,
        state: Arc::default(),
    };
    let subshells = Arc::new(subshell::Subshells::start(means.clone()));
    let shell = shell::Shell {
        means,
        subshells: Arc::clone(&subshells),
        comms: Arc::new(comm::Comms::new(Arc::clone(&language))),
    };
    let control = control::serve(control, publisher, Arc::clone(&language), subshells);
    tokio::select! {
        served = shell.serve(requests) => served?,
        served = control => served?,
        () = orphaned() => {}
    }
    // What it ends may have something to say, which no thread of the runtime may wait for.
    let ended = tokio::task::spawn_blocking(move || language.shutdown());
    Ok(ended.await?)
}

/// A way to send on a socket from many places.
type Replies = mpsc::UnboundedSender<JupyterMessage>;

fn split(socket: zmq::KernelShellConnection) -> (Replies, zmq::RouterRecvConnection) {
    let (mut sender, receiver) = socket.split();
    let (replies, mut queue) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(reply) = queue.recv().await {
            // A client that has gone needs no reply.
            let _ = sender.send(reply).await;
        }
    });
    (replies, receiver)
}

/// Returns when the server that started this kernel is gone without having stopped it.
async fn orphaned() {
    let parent = nix::unistd::getppid();
    while std::env::var_os("JPY_PARENT_PID").is_none() || nix::unistd::getppid() == parent {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
