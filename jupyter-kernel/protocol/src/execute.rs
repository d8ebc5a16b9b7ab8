//! Queues of cells; those of one queue run one after the other.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jupyter_protocol::messaging::{
    ErrorOutput, ExecuteInput, ExecuteReply, ExecuteRequest, ExecuteResult, ExpressionResult,
    JupyterMessageContent, ReplyError, ReplyStatus, Status, Transient,
};
use jupyter_protocol::{ExecutionCount, JupyterMessage};
use serde_json::Map;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::history::History;
use crate::publish::{Publisher, media};
use crate::stdin::Asker;
use crate::{Bundle, Cell, CellError, Language, Outcome, Replies, Stop};

/// What cells need to run and to be answered, and what is known of those that do.
#[derive(Clone)]
pub(crate) struct Means {
    pub(crate) language: Arc<dyn Language>,
    pub(crate) publisher: Publisher,
    pub(crate) replies: Replies,
    pub(crate) asker: Asker,
    pub(crate) state: Arc<State>,
}

/// State of the cells that others may know.
#[derive(Default)]
pub(crate) struct State {
    /// The cells that run, by their queue: [`OWN`], and those of the subshells.
    running: Mutex<BTreeMap<usize, Running>>,
    history: Mutex<History>,
    /// Number of the last cell, of whatever queue.
    count: AtomicUsize,
    /// Held while what runs is told, so that an idle cell is not called busy behind its end.
    telling: tokio::sync::Mutex<()>,
}

/// The kernel's own queue.
pub(crate) const OWN: usize = 0;

/// A cell that runs.
struct Running {
    request: JupyterMessage,
    stop: Stop,
}

struct Cells {
    means: Means,
    queue: usize,
}

impl State {
    /// The request of the cell that runs in the kernel's own queue.
    pub(crate) fn running(&self) -> Option<JupyterMessage> {
        Some(self.cells().get(&OWN)?.request.clone())
    }

    /// Looks into the history.
    pub(crate) fn history<T>(&self, look: impl FnOnce(&mut History) -> T) -> T {
        look(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says that the cells that run are to stop.
    pub(crate) fn stop(&self) {
        for running in self.cells().values() {
            running.stop.store(true, Ordering::Relaxed);
        }
    }

    /// The number of a cell that begins: the next one, if it is kept or the first.
    fn next(&self, kept: bool) -> usize {
        let next = |count| (kept || count == 0).then_some(count + 1);
        let before = self
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        before.map_or_else(|last| last, |last| last + 1)
    }

    fn cells(&self) -> MutexGuard<'_, BTreeMap<usize, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Means {
    /// Starts a queue of this number. It ends when its sender is gone and its cells have run.
    pub(crate) fn start(&self, queue: usize) -> UnboundedSender<JupyterMessage> {
        let (sender, requests) = unbounded_channel();
        let means = self.clone();
        tokio::spawn(Cells { means, queue }.serve(requests));
        sender
    }

    /// Says that the cell of the kernel's own queue runs, if one does: front ends take any idle for the kernel's.
    pub(crate) async fn still_busy(&self) {
        let _telling = self.state.telling.lock().await;
        if let Some(cell) = self.state.running() {
            self.publisher.publish(Status::busy(), &cell).await;
        }
    }
}

impl Cells {
    async fn serve(self, mut requests: UnboundedReceiver<JupyterMessage>) {
        while let Some(request) = requests.recv().await {
            let JupyterMessageContent::ExecuteRequest(execute) = request.content.clone() else {
                continue;
            };
            self.means.publisher.busy(&request).await;
            let stop = Stop::default();
            let running = Running {
                request: request.clone(),
                stop: Arc::clone(&stop),
            };
            self.means.state.cells().insert(self.queue, running);
            let failed = self.execute(&execute, &request, &stop).await;
            let telling = self.means.state.telling.lock().await;
            self.means.state.cells().remove(&self.queue);
            self.means.publisher.idle(&request).await;
            drop(telling);
            while failed
                && execute.stop_on_error
                && let Ok(request) = requests.try_recv()
            {
                self.abort(&request).await;
            }
            if self.queue != OWN {
                self.means.still_busy().await;
            }
        }
    }

    async fn abort(&self, request: &JupyterMessage) {
        self.means.publisher.busy(request).await;
        let reply = ExecuteReply {
            status: ReplyStatus::Aborted,
            execution_count: ExecutionCount(self.means.state.count.load(Ordering::Relaxed)),
            user_expressions: Some(HashMap::new()),
            ..ExecuteReply::default()
        };
        let _ = self.means.replies.send(reply.as_child_of(request));
        self.means.publisher.idle(request).await;
    }

    /// Runs a cell and replies; says whether it failed.
    async fn execute(
        &self,
        execute: &ExecuteRequest,
        request: &JupyterMessage,
        stop: &Stop,
    ) -> bool {
        let ExecuteRequest { code, silent, .. } = execute;
        let kept = execute.store_history && !silent;
        let counted = self.means.state.next(kept);
        let execution_count = ExecutionCount(counted);
        if !silent {
            self.means
                .publisher
                .publish(
                    ExecuteInput {
                        code: code.clone(),
                        execution_count,
                    },
                    request,
                )
                .await;
        }
        let outcome = self.run(code, request, stop, *silent).await;
        let mut reply = ExecuteReply {
            execution_count,
            ..ExecuteReply::default()
        };
        let mut output = String::new();
        match outcome {
            Ok(data) => {
                output = data.as_ref().and_then(plain).unwrap_or_default();
                if let Some(data) = data.filter(|_| !silent) {
                    self.means
                        .publisher
                        .publish(result(execution_count, data), request)
                        .await;
                }
                let expressions = execute.user_expressions.iter().flatten();
                let mut results = HashMap::new();
                for (name, expression) in expressions {
                    results.insert(
                        name.clone(),
                        self.expression(expression, request, stop).await,
                    );
                }
                reply.user_expressions = Some(results);
            }
            Err(error) => {
                let CellError {
                    ename,
                    evalue,
                    traceback,
                } = error;
                reply.status = ReplyStatus::Error;
                reply.user_expressions = Some(HashMap::new());
                if !silent {
                    let (ename, evalue, traceback) =
                        (ename.clone(), evalue.clone(), traceback.clone());
                    self.means
                        .publisher
                        .publish(
                            ErrorOutput {
                                ename,
                                evalue,
                                traceback,
                            },
                            request,
                        )
                        .await;
                }
                reply.error = Some(Box::new(ReplyError {
                    ename,
                    evalue,
                    traceback,
                }));
            }
        }
        if kept {
            self.means
                .state
                .history(|history| history.push(counted, code, &output));
        }
        let failed = reply.status == ReplyStatus::Error;
        let _ = self.means.replies.send(reply.as_child_of(request));
        failed
    }

    async fn run(&self, code: &str, request: &JupyterMessage, stop: &Stop, quiet: bool) -> Outcome {
        let cell = Cell {
            code: code.to_owned(),
            show: self.means.publisher.sink(Some(request)),
            input: self.means.asker.input(request, Arc::clone(stop)),
            stop: Arc::clone(stop),
            quiet,
        };
        let language = Arc::clone(&self.means.language);
        let ran = tokio::task::spawn_blocking(move || language.execute(cell)).await;
        ran.unwrap_or_else(|_| Err(CellError::new("Error", "the kernel panicked in this cell")))
    }

    async fn expression(
        &self,
        expression: &str,
        request: &JupyterMessage,
        stop: &Stop,
    ) -> ExpressionResult {
        match self.run(expression, request, stop, true).await {
            Ok(data) => ExpressionResult::Ok {
                data: media(data.unwrap_or_default()),
                metadata: Map::new(),
            },
            Err(CellError {
                ename,
                evalue,
                traceback,
            }) => ExpressionResult::Error {
                ename,
                evalue,
                traceback,
            },
        }
    }
}

/// The protocol wants an object where the type has an option.
fn result(execution_count: ExecutionCount, data: Bundle) -> ExecuteResult {
    ExecuteResult {
        transient: Some(Transient::default()),
        ..ExecuteResult::new(execution_count, media(data))
    }
}

fn plain(data: &Bundle) -> Option<String> {
    Some(data.get("text/plain")?.as_str()?.to_owned())
}
