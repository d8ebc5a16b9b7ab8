//! Subshells (JEP 91): queues of cells beside the kernel's own, which the header of a request names, made and deleted on the control channel.
//!
//! A cell of one runs while one of another does: a live view goes on, and others are asked meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jupyter_protocol::JupyterMessage;
use jupyter_protocol::messaging::{
    ExecuteReply, JupyterMessageContent, ReplyError, ReplyStatus, UnknownMessage,
};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::execute::{Means, OWN};

/// The queues of a kernel.
pub(crate) struct Subshells {
    pub(crate) means: Means,
    own: UnboundedSender<JupyterMessage>,
    open: Mutex<BTreeMap<String, UnboundedSender<JupyterMessage>>>,
    made: AtomicUsize,
}

impl Subshells {
    /// Starts the kernel's own queue.
    pub(crate) fn start(means: Means) -> Self {
        Self {
            own: means.start(OWN),
            means,
            open: Mutex::default(),
            made: AtomicUsize::new(OWN + 1),
        }
    }

    /// Queues an execute request for a subshell, or for the kernel's own.
    pub(crate) fn queue(&self, request: JupyterMessage, subshell: Option<&str>) {
        let open = self.open();
        let queue = match subshell {
            None => Some(&self.own),
            Some(id) => open.get(id),
        };
        let Some(queue) = queue else {
            let means = self.means.clone();
            tokio::spawn(async move {
                means.publisher.busy(&request).await;
                // A client that has gone needs no reply.
                let _ = means.replies.send(refused().as_child_of(&request));
                means.publisher.idle(&request).await;
                means.still_busy().await;
            });
            return;
        };
        // A queue ends when its sender is gone.
        let _ = queue.send(request);
    }

    /// Answers a request about subshells.
    pub(crate) fn answer(&self, request: &JupyterMessageContent) -> Option<JupyterMessageContent> {
        let JupyterMessageContent::UnknownMessage(UnknownMessage { msg_type, content }) = request
        else {
            return None;
        };
        let name = msg_type.strip_suffix("_request")?;
        let content = match name {
            "create_subshell" => {
                let id = uuid::Uuid::new_v4().to_string();
                let queue = self.made.fetch_add(1, Ordering::Relaxed);
                self.open().insert(id.clone(), self.means.start(queue));
                json!({"status": "ok", "subshell_id": id})
            }
            "delete_subshell" => {
                let id = content["subshell_id"].as_str().unwrap_or_default();
                match self.open().remove(id) {
                    Some(_) => json!({"status": "ok"}),
                    None => {
                        let error = unknown();
                        json!({"status": "error", "ename": error.ename, "evalue": error.evalue, "traceback": []})
                    }
                }
            }
            "list_subshell" => {
                let ids: Vec<Value> = self.open().keys().map(|id| json!(id)).collect();
                json!({"status": "ok", "subshell_id": ids})
            }
            _ => return None,
        };
        let msg_type = format!("{name}_reply");
        Some(UnknownMessage { msg_type, content }.into())
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<String, UnboundedSender<JupyterMessage>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reply to a cell for a subshell that is not there.
fn refused() -> ExecuteReply {
    ExecuteReply {
        status: ReplyStatus::Error,
        error: Some(Box::new(unknown())),
        ..ExecuteReply::default()
    }
}

fn unknown() -> ReplyError {
    ReplyError {
        ename: "SubshellError".to_owned(),
        evalue: "there is no such subshell".to_owned(),
        traceback: Vec::new(),
    }
}
