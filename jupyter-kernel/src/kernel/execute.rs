//! Cells, one after the other.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use jupyter_protocol::messaging::{
    ErrorOutput, ExecuteInput, ExecuteReply, ExecuteRequest, ExecuteResult, ExpressionResult,
    JupyterMessageContent, ReplyError, ReplyStatus, Transient,
};
use jupyter_protocol::{ExecutionCount, JupyterMessage};
use serde_json::{Map, Value};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Replies;
use super::history::History;
use super::line::{self, Parts, Stop};
use super::publish::{Publisher, media};
use super::stdin::Asker;
use crate::session::{CellError, Outcome, Session, Sink};

/// A handle to the queue of cells.
#[derive(Clone)]
pub(super) struct Executor {
    queue: UnboundedSender<JupyterMessage>,
    pub(super) state: Arc<State>,
}

/// What others may know of the cells.
#[derive(Default)]
pub(super) struct State {
    /// The request of the cell that runs.
    running: Mutex<Option<JupyterMessage>>,
    history: Mutex<History>,
    stop: Stop,
}

struct Cells {
    session: Session,
    publisher: Publisher,
    sink: Sink,
    replies: Replies,
    asker: Asker,
    state: Arc<State>,
    count: usize,
}

impl State {
    /// The request of the cell that runs.
    pub(super) fn running(&self) -> Option<JupyterMessage> {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Looks into the history.
    pub(super) fn history<T>(&self, look: impl FnOnce(&mut History) -> T) -> T {
        look(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stops the command that runs, if any.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn run(&self, request: Option<&JupyterMessage>) {
        self.stop.store(false, Ordering::Relaxed);
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = request.cloned();
    }
}

impl Executor {
    pub(super) fn start(
        session: Session,
        publisher: Publisher,
        replies: Replies,
        asker: Asker,
    ) -> Self {
        let (queue, requests) = unbounded_channel();
        let state = Arc::<State>::default();
        let sink = publisher.sink();
        let cells = Cells {
            session,
            publisher,
            sink,
            replies,
            asker,
            state: Arc::clone(&state),
            count: 0,
        };
        tokio::spawn(cells.serve(requests));
        Self { queue, state }
    }

    /// Queues an execute request.
    pub(super) fn queue(&self, request: JupyterMessage) {
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
            self.state.run(Some(&request));
            let failed = self.execute(&execute, &request).await;
            self.state.run(None);
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
    async fn execute(&mut self, execute: &ExecuteRequest, request: &JupyterMessage) -> bool {
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
        self.publisher.begin(request);
        let outcome = self.run(code, request).await;
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
                    results.insert(name.clone(), self.expression(expression, request).await);
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

    async fn run(&self, code: &str, request: &JupyterMessage) -> Outcome {
        let parts = Parts::of(code);
        let mut value = None;
        for (line, body) in parts.commands {
            if let Some(data) = value.take() {
                self.publisher.publish(display(data), request).await;
            }
            let (stop, sink) = (Arc::clone(&self.state.stop), Arc::clone(&self.sink));
            let ran =
                tokio::task::spawn_blocking(move || line::run(&line, &body, &stop, &sink)).await;
            let data = ran.map_err(|_| CellError::new("Error", "the command panicked"))??;
            value = Some(data).filter(|data| !data.is_empty());
        }
        let Some(rust) = parts.rust else {
            return Ok(value);
        };
        if let Some(data) = value {
            self.publisher.publish(display(data), request).await;
        }
        let input = self
            .asker
            .input(request, Arc::clone(&self.session.interrupter));
        self.session.execute(rust, input).await
    }

    async fn expression(&self, expression: &str, request: &JupyterMessage) -> ExpressionResult {
        match self.run(expression, request).await {
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
fn result(execution_count: ExecutionCount, data: Map<String, Value>) -> ExecuteResult {
    ExecuteResult {
        transient: Some(Transient::default()),
        ..ExecuteResult::new(execution_count, media(data))
    }
}

fn display(data: Map<String, Value>) -> jupyter_protocol::messaging::DisplayData {
    jupyter_protocol::messaging::DisplayData::new(media(data))
}

fn plain(data: &Map<String, Value>) -> Option<String> {
    Some(data.get("text/plain")?.as_str()?.to_owned())
}
