//! The control channel: requests that must be answered while a cell runs.

use std::sync::Arc;

use anyhow::Result;
use jupyter_protocol::JupyterMessage;
use jupyter_protocol::messaging::{
    DebugReply, InterruptReply, JupyterMessageContent, ReplyStatus, ShutdownReply,
};
use jupyter_zmq_client::{KernelControlConnection, RuntimeError};
use tokio::sync::mpsc;

use crate::publish::Publisher;
use crate::shell::kernel_info;
use crate::subshell::Subshells;
use crate::{Language, Replies, request, split};

/// Answers until a shutdown is asked for.
pub(crate) async fn serve(
    socket: KernelControlConnection,
    publisher: Publisher,
    language: Arc<dyn Language>,
    subshells: Arc<Subshells>,
) -> Result<()> {
    let (replies, mut socket) = split(socket);
    let debugger = debugger(&language, &publisher, &replies);
    loop {
        let request = match request::read(&mut socket).await {
            Ok((request, _)) => request,
            Err(RuntimeError::ZmqError(error)) => return Err(error.into()),
            // A message that cannot be read has nobody to reply to.
            Err(_) => continue,
        };
        publisher.busy(&request).await;
        let reply: JupyterMessageContent = match &request.content {
            JupyterMessageContent::KernelInfoRequest(_) => kernel_info(&*language),
            JupyterMessageContent::InterruptRequest(_) => {
                subshells.means.state.stop();
                let language = Arc::clone(&language);
                tokio::task::spawn_blocking(move || language.interrupt());
                InterruptReply::new().into()
            }
            JupyterMessageContent::ShutdownRequest(shutdown) => {
                let reply = ShutdownReply {
                    restart: shutdown.restart,
                    status: ReplyStatus::Ok,
                    error: None,
                };
                publisher.publish(reply.clone(), &request).await;
                publisher.idle(&request).await;
                let _ = replies.send(reply.as_child_of(&request));
                // The sockets send in the background.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                return Ok(());
            }
            JupyterMessageContent::DebugRequest(_) => {
                // Without its thread the kernel is at its end.
                let _ = debugger.send(request);
                continue;
            }
            other => match subshells.answer(other) {
                Some(reply) => reply,
                None => {
                    publisher.idle(&request).await;
                    continue;
                }
            },
        };
        // A client that has gone needs no reply.
        let _ = replies.send(JupyterMessage::new(reply, Some(&request)));
        publisher.idle(&request).await;
    }
}

/// Starts to answer the debugger's requests, one after the other: one may have to wait for the guest, and an interrupt must not wait
/// behind it.
fn debugger(
    language: &Arc<dyn Language>,
    publisher: &Publisher,
    replies: &Replies,
) -> mpsc::UnboundedSender<JupyterMessage> {
    let (requests, mut queue) = mpsc::unbounded_channel::<JupyterMessage>();
    let (language, publisher) = (Arc::clone(language), publisher.clone());
    let replies = replies.clone();
    tokio::spawn(async move {
        while let Some(request) = queue.recv().await {
            if let Some(content) = answer(&language, &publisher, &request).await {
                let reply: JupyterMessageContent = DebugReply { content }.into();
                let _ = replies.send(JupyterMessage::new(reply, Some(&request)));
            }
            publisher.idle(&request).await;
        }
    });
    requests
}

/// The language's answer; `None` where it has no debugger, or has panicked.
async fn answer(
    language: &Arc<dyn Language>,
    publisher: &Publisher,
    request: &JupyterMessage,
) -> Option<serde_json::Value> {
    let JupyterMessageContent::DebugRequest(debug) = &request.content else {
        return None;
    };
    let (language, events) = (Arc::clone(language), publisher.events());
    let asked = debug.content.clone();
    let answered = tokio::task::spawn_blocking(move || language.debug(&asked, &events));
    answered.await.ok().flatten()
}
