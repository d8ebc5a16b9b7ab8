//! The stdin channel: a cell asks its user for a line.

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use jupyter_protocol::JupyterMessage;
use jupyter_protocol::messaging::{InputRequest, JupyterMessageContent};
use jupyter_zmq_client::{KernelStdinConnection, RuntimeError};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::{Input, Stop};

/// Interval at which a cell that waits for its user looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(20);

type Question = (JupyterMessage, mpsc::Sender<String>);

/// Asks the client.
#[derive(Clone)]
pub(crate) struct Asker(UnboundedSender<Question>);

impl Asker {
    pub(crate) fn start(mut socket: KernelStdinConnection) -> Self {
        let (questions, mut waiting) = unbounded_channel::<Question>();
        tokio::spawn(async move {
            // The questions that are open, at most one of a cell: its id, and the cell that waits.
            let mut open: Vec<(String, mpsc::Sender<String>)> = Vec::new();
            loop {
                tokio::select! {
                    // A question whose cell was stopped stays open: nobody may ever answer it.
                    question = waiting.recv() => {
                        let Some((question, answer)) = question else {
                            return;
                        };
                        let id = question.header.msg_id.clone();
                        if socket.send(question).await.is_ok() {
                            open.push((id, answer));
                        }
                    }
                    reply = socket.read() => match reply {
                        Ok(reply) => {
                            // Jupyter's own client names no question: it answers the last one.
                            let of = |(id, _): &(String, _)| reply.parent_header.as_ref().is_none_or(|parent| parent.msg_id == *id);
                            if let JupyterMessageContent::InputReply(line) = &reply.content
                                && let Some(at) = open.iter().rposition(of)
                            {
                                let (_, answer) = open.remove(at);
                                // A cell that was stopped waits no more.
                                let _ = answer.send(line.value.clone());
                            }
                        }
                        Err(RuntimeError::ZmqError(_)) => tokio::time::sleep(LOOK).await,
                        Err(_) => {}
                    },
                }
            }
        });
        Self(questions)
    }

    /// Input for the cell of `request`, until it is to stop.
    pub(crate) fn input(&self, request: &JupyterMessage, stop: Stop) -> Input {
        let (questions, request) = (self.0.clone(), request.clone());
        let allowed =
            matches!(&request.content, JupyterMessageContent::ExecuteRequest(e) if e.allow_stdin);
        Box::new(move |prompt, password| {
            let (answer, answered) = mpsc::channel();
            let question = InputRequest {
                prompt: prompt.to_owned(),
                password,
            }
            .as_child_of(&request);
            if !allowed || questions.send((question, answer)).is_err() {
                return None;
            }
            loop {
                match answered.recv_timeout(LOOK) {
                    Ok(line) => return Some(line),
                    Err(mpsc::RecvTimeoutError::Timeout) if !stop.load(Ordering::Relaxed) => {}
                    Err(_) => return None,
                }
            }
        })
    }
}
