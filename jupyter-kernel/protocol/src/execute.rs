//! Cells, one after the other.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jupyter_protocol::messaging::{
    ErrorOutput, ExecuteInput, ExecuteReply, ExecuteRequest, ExecuteResult, ExpressionResult,
    JupyterMessageContent, ReplyError, ReplyStatus, Transient,
};
use jupyter_protocol::{ExecutionCount, JupyterMessage};
use serde_json::Map;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::history::History;
use crate::publish::{Publisher, media};
use crate::stdin::Asker;
use crate::{Bundle, Cell, CellError, Language, Outcome, Replies, Stop};

/// A handle to the queue of cells.
#[derive(Clone)]
pub(crate) struct Executor {
    queue: UnboundedSender<JupyterMessage>,
    pub(crate) state: Arc<State>,
}

/// State of the cells that others may know.
#[derive(Default)]
pub(crate) struct State {
    running: Mutex<Option<Running>>,
    history: Mutex<History>,
}

/// The cell that runs.
struct Running {
    request: JupyterMessage,
    stop: Stop,
}

struct Cells {
    language: Arc<dyn Language>,
    publisher: Publisher,
    replies: Replies,
    asker: Asker,
    state: Arc<State>,
    count: usize,
}

impl State {
    /// The request of the cell that runs.
    pub(crate) fn running(&self) -> Option<JupyterMessage> {
        let running = self.cell();
        Some(running.as_ref()?.request.clone())
    }

    /// Looks into the history.
    pub(crate) fn history<T>(&self, look: impl FnOnce(&mut History) -> T) -> T {
        look(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says that the cell that runs is to stop.
    pub(crate) fn stop(&self) {
        if let Some(running) = &*self.cell() {
            running.stop.store(true, Ordering::Relaxed);
        }
    }

    fn cell(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executor {
    pub(crate) fn start(
        language: Arc<dyn Language>,
        publisher: Publisher,
        replies: Replies,
        asker: Asker,
    ) -> Self {
        let (queue, requests) = unbounded_channel();
        let state = Arc::<State>::default();
        let cells = Cells {
            language,
            publisher,
            replies,
            asker,
            state: Arc::clone(&state),
            count: 0,
        };
        tokio::spawn(cells.serve(requests));
        Self { queue, state }
    }

    /// Queues an execute request.
    pub(crate) fn queue(&self, request: JupyterMessage) {
        // The queue ends with the kernel only.
        let _ = self.queue.send(request);
    }
}

impl Cells {
    async fn serve(mut self, mut requests: UnboundedReceiver<JupyterMessage>) {
        while let Some(request) = requests.recv().await {
            let JupyterMessageContent::ExecuteRequest(execute) = request.content.clone() else {
                continue;
            };
            self.publisher.busy(&request).await;
            let stop = Stop::default();
            *self.state.cell() = Some(Running {
                request: request.clone(),
                stop: Arc::clone(&stop),
            });
            let failed = self.execute(&execute, &request, &stop).await;
            *self.state.cell() = None;
            self.publisher.idle(&request).await;
            while failed
                && execute.stop_on_error
                && let Ok(request) = requests.try_recv()
            {
                self.abort(&request).await;
            }
        }
    }

    async fn abort(&self, request: &JupyterMessage) {
        self.publisher.busy(request).await;
        let reply = ExecuteReply {
            status: ReplyStatus::Aborted,
            execution_count: ExecutionCount(self.count),
            user_expressions: Some(HashMap::new()),
            ..ExecuteReply::default()
        };
        let _ = self.replies.send(reply.as_child_of(request));
        self.publisher.idle(request).await;
    }

    /// Runs a cell and replies; says whether it failed.
    async fn execute(
        &mut self,
        execute: &ExecuteRequest,
        request: &JupyterMessage,
        stop: &Stop,
    ) -> bool {
        let ExecuteRequest { code, silent, .. } = execute;
        let kept = execute.store_history && !silent;
        self.count += usize::from(kept || self.count == 0);
        let execution_count = ExecutionCount(self.count);
        if !silent {
            self.publisher
                .publish(
                    ExecuteInput {
                        code: code.clone(),
                        execution_count,
                    },
                    request,
                )
                .await;
        }
        let outcome = self.run(code, request, stop).await;
        let mut reply = ExecuteReply {
            execution_count,
            ..ExecuteReply::default()
        };
        let mut output = String::new();
        match outcome {
            Ok(data) => {
                output = data.as_ref().and_then(plain).unwrap_or_default();
                if let Some(data) = data.filter(|_| !silent) {
                    self.publisher
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
                    self.publisher
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
            let count = self.count;
            self.state
                .history(|history| history.push(count, code, &output));
        }
        let failed = reply.status == ReplyStatus::Error;
        let _ = self.replies.send(reply.as_child_of(request));
        failed
    }

    async fn run(&self, code: &str, request: &JupyterMessage, stop: &Stop) -> Outcome {
        let cell = Cell {
            code: code.to_owned(),
            show: self.publisher.sink(Some(request)),
            input: self.asker.input(request, Arc::clone(stop)),
            stop: Arc::clone(stop),
        };
        let language = Arc::clone(&self.language);
        let ran = tokio::task::spawn_blocking(move || language.execute(cell)).await;
        ran.unwrap_or_else(|_| Err(CellError::new("Error", "the kernel panicked in this cell")))
    }

    async fn expression(
        &self,
        expression: &str,
        request: &JupyterMessage,
        stop: &Stop,
    ) -> ExpressionResult {
        match self.run(expression, request, stop).await {
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
