//! The control channel: requests that must be answered while a cell runs.

use std::sync::Arc;

use anyhow::Result;
use jupyter_protocol::JupyterMessage;
use jupyter_protocol::messaging::{
    InterruptReply, JupyterMessageContent, ReplyStatus, ShutdownReply,
};
use jupyter_zmq_client::{KernelControlConnection, RuntimeError};

use crate::Language;
use crate::execute::Executor;
use crate::publish::Publisher;
use crate::shell::kernel_info;

/// Answers until a shutdown is asked for.
pub(crate) async fn serve(
    mut socket: KernelControlConnection,
    publisher: Publisher,
    language: Arc<dyn Language>,
    executor: Executor,
) -> Result<()> {
    loop {
        let request = match socket.read().await {
            Ok(request) => request,
            Err(RuntimeError::ZmqError(error)) => return Err(error.into()),
            // A message that cannot be read has nobody to reply to.
            Err(_) => continue,
        };
        publisher.busy(&request).await;
        match &request.content {
            JupyterMessageContent::KernelInfoRequest(_) => {
                send(&mut socket, kernel_info(&*language).as_child_of(&request)).await;
            }
            JupyterMessageContent::InterruptRequest(_) => {
                send(&mut socket, InterruptReply::new().as_child_of(&request)).await;
                executor.state.stop();
                let language = Arc::clone(&language);
                tokio::task::spawn_blocking(move || language.interrupt());
            }
            JupyterMessageContent::ShutdownRequest(shutdown) => {
                let reply = ShutdownReply {
                    restart: shutdown.restart,
                    status: ReplyStatus::Ok,
                    error: None,
                };
                publisher.publish(reply.clone(), &request).await;
                publisher.idle(&request).await;
                send(&mut socket, reply.as_child_of(&request)).await;
                // The sockets send in the background.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                return Ok(());
            }
            _ => {}
        }
        publisher.idle(&request).await;
    }
}

async fn send(socket: &mut KernelControlConnection, reply: JupyterMessage) {
    // A client that has gone needs no reply.
    let _ = socket.send(reply).await;
}
