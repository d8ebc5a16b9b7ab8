//! The stdin channel: a cell asks its user for a line.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use jupyter_protocol::JupyterMessage;
use jupyter_protocol::messaging::{InputRequest, JupyterMessageContent};
use jupyter_zmq_client::KernelStdinConnection;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::session::{Input, Interrupter};

type Question = (JupyterMessage, mpsc::Sender<String>);

/// Asks the client.
#[derive(Clone)]
pub(super) struct Asker(UnboundedSender<Question>);

impl Asker {
    pub(super) fn start(mut socket: KernelStdinConnection) -> Self {
        let (questions, mut waiting) = unbounded_channel::<Question>();
        tokio::spawn(async move {
            while let Some((question, answer)) = waiting.recv().await {
                if socket.send(question).await.is_err() {
                    continue;
                }
                while let Ok(reply) = socket.read().await {
                    if let JupyterMessageContent::InputReply(reply) = reply.content {
                        // A cell that was interrupted waits no more.
                        let _ = answer.send(reply.value);
                        break;
                    }
                }
            }
        });
        Self(questions)
    }

    /// How the cell of `request` asks. Without a client that can answer, every answer is empty.
    pub(super) fn input(&self, request: &JupyterMessage, interrupter: Arc<Interrupter>) -> Input {
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
                return String::new();
            }
            loop {
                match answered.recv_timeout(Duration::from_millis(50)) {
                    Ok(line) => return line,
                    Err(mpsc::RecvTimeoutError::Timeout) if !interrupter.requested() => {}
                    Err(_) => return String::new(),
                }
            }
        })
    }
}
