//! The iopub channel: what all clients see.

use std::sync::{Arc, Mutex, PoisonError};

use jupyter_protocol::JupyterMessage;
use jupyter_protocol::media::Media;
use jupyter_protocol::messaging::{
    DisplayData, IoPubWelcome, JupyterMessageContent, Status, StreamContent, Transient,
    UpdateDisplayData,
};
use jupyter_zmq_client::{KernelIoPubXPubConnection, SubscriptionEvent};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::session::{Shown, Sink};

/// How many messages may wait. A cell that prints faster than clients read is slowed down.
const WAITING: usize = 256;

/// Sends to all clients, from any thread.
#[derive(Clone)]
pub(super) struct Publisher {
    queue: mpsc::Sender<JupyterMessage>,
    /// The request whose cell runs, or ran last: its output may come late.
    cell: Arc<Mutex<Option<JupyterMessage>>>,
}

impl Publisher {
    pub(super) fn start(mut socket: KernelIoPubXPubConnection) -> Self {
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
        Self {
            queue,
            cell: Arc::default(),
        }
    }

    /// Publishes what `request` led to.
    pub(super) async fn publish(
        &self,
        content: impl Into<JupyterMessageContent>,
        request: &JupyterMessage,
    ) {
        let _ = self.queue.send(message(content, Some(request))).await;
    }

    pub(super) async fn busy(&self, request: &JupyterMessage) {
        self.publish(Status::busy(), request).await;
    }

    pub(super) async fn idle(&self, request: &JupyterMessage) {
        self.publish(Status::idle(), request).await;
    }

    /// From now on, what cells show belongs to `request`.
    pub(super) fn begin(&self, request: &JupyterMessage) {
        *self.cell.lock().unwrap_or_else(PoisonError::into_inner) = Some(request.clone());
    }

    /// Takes what the cell shows, in threads outside of the runtime.
    pub(super) fn sink(&self) -> Sink {
        let publisher = self.clone();
        Arc::new(move |shown| {
            let content: JupyterMessageContent = match shown {
                Shown::Stdout(text) => StreamContent::stdout(&text).into(),
                Shown::Stderr(text) => StreamContent::stderr(&text).into(),
                Shown::Display { id, update, data } => display(id, update, data),
            };
            let cell = publisher
                .cell
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let _ = publisher
                .queue
                .blocking_send(message(content, cell.as_ref()));
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

fn display(id: String, update: bool, data: Map<String, Value>) -> JupyterMessageContent {
    let (data, metadata) = (media(data), Map::new());
    let transient = Transient {
        display_id: Some(id),
    };
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
pub(super) fn media(mut data: Map<String, Value>) -> Media {
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
