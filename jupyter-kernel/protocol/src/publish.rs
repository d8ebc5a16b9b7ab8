//! The iopub channel: the messages for all clients.

use std::sync::Arc;

use jupyter_protocol::JupyterMessage;
use jupyter_protocol::media::Media;
use jupyter_protocol::messaging::{
    DisplayData, IoPubWelcome, JupyterMessageContent, Status, StreamContent, Transient,
    UnknownMessage, UpdateDisplayData,
};
use jupyter_zmq_client::{KernelIoPubXPubConnection, SubscriptionEvent};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::{Bundle, Events, Shown, Sink};

/// Number of messages that may wait. A cell that prints faster than clients read is slowed down.
const WAITING: usize = 256;

/// Sends to all clients, from any thread.
#[derive(Clone)]
pub(crate) struct Publisher {
    queue: mpsc::Sender<JupyterMessage>,
}

impl Publisher {
    pub(crate) fn start(mut socket: KernelIoPubXPubConnection) -> Self {
        let (queue, mut waiting) = mpsc::channel::<JupyterMessage>(WAITING);
        tokio::spawn(async move {
            loop {
                // Subscriptions take effect only by being received.
                tokio::select! {
                    event = socket.recv_subscription() => if let Ok(SubscriptionEvent::Subscribe(subscription)) = event {
                        let _ = socket.send(IoPubWelcome { subscription }.into()).await;
                    },
                    message = waiting.recv() => match message {
                        // A client that has gone misses it.
                        Some(message) => drop(socket.send(message).await),
                        None => return,
                    },
                }
            }
        });
        Self { queue }
    }

    /// Publishes a message that `request` led to.
    pub(crate) async fn publish(
        &self,
        content: impl Into<JupyterMessageContent>,
        request: &JupyterMessage,
    ) {
        let _ = self.queue.send(message(content, Some(request))).await;
    }

    pub(crate) async fn busy(&self, request: &JupyterMessage) {
        self.publish(Status::busy(), request).await;
    }

    pub(crate) async fn idle(&self, request: &JupyterMessage) {
        self.publish(Status::idle(), request).await;
    }

    /// Takes the output of the cell of `request`, in threads outside of the runtime.
    pub(crate) fn sink(&self, request: Option<&JupyterMessage>) -> Sink {
        let (queue, request) = (self.queue.clone(), request.cloned());
        Arc::new(move |shown| {
            let content: JupyterMessageContent = match shown {
                Shown::Stdout(text) => StreamContent::stdout(&text).into(),
                Shown::Stderr(text) => StreamContent::stderr(&text).into(),
                Shown::Display { id, update, data } => display(id, update, data),
            };
            // Without the runtime the kernel is at its end.
            let _ = queue.blocking_send(message(content, request.as_ref()));
        })
    }
}

impl Publisher {
    /// Takes the events of the debugger, in threads outside of the runtime.
    pub(crate) fn events(&self) -> Events {
        let queue = self.queue.clone();
        Arc::new(move |content| {
            let event = UnknownMessage {
                msg_type: "debug_event".to_owned(),
                content,
            };
            // Without the runtime the kernel is at its end.
            let _ = queue.blocking_send(message(event, None));
        })
    }
}

fn message(
    content: impl Into<JupyterMessageContent>,
    request: Option<&JupyterMessage>,
) -> JupyterMessage {
    // The identities are the way back to one client; this goes to all.
    JupyterMessage::new(content, request).with_zmq_identities(Vec::new())
}

fn display(display_id: Option<String>, update: bool, data: Bundle) -> JupyterMessageContent {
    let (data, metadata) = (media(data), Map::new());
    let transient = Transient { display_id };
    if update {
        UpdateDisplayData {
            data,
            metadata,
            transient,
        }
        .into()
    } else {
        DisplayData {
            data,
            metadata,
            transient: Some(transient),
        }
        .into()
    }
}

/// A value by mime type, as the wire has it.
pub(crate) fn media(mut data: Bundle) -> Media {
    for (mime, value) in &mut data {
        if mime.ends_with("json")
            && let Value::String(text) = value
            && let Ok(json) = serde_json::from_str(text)
        {
            *value = json;
        }
    }
    serde_json::from_value(Value::Object(data)).unwrap_or_default()
}
