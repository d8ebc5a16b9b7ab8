//! A client, as JupyterLab is one.

use jupyter_protocol::messaging::{
    ExecuteReply, ExecuteRequest, ExecutionState, IoPubWelcome, JupyterMessageContent, Stdio,
};
use jupyter_protocol::{ConnectionInfo, JupyterMessage};
use jupyter_zmq_client as zmq;
use tokio::time::timeout;

use super::LIMIT;

/// The sockets of one client.
pub(super) struct Client {
    pub(super) shell: zmq::ClientShellConnection,
    pub(super) iopub: zmq::ClientIoPubConnection,
    pub(super) stdin: zmq::ClientStdinConnection,
    pub(super) control: zmq::ClientControlConnection,
}

/// Result of a cell.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) reply: ExecuteReply,
    /// Messages published for it, without its status.
    pub(super) published: Vec<JupyterMessageContent>,
}

/// A cell that is kept in the history, and may ask.
pub(super) fn cell(code: &str) -> ExecuteRequest {
    ExecuteRequest {
        code: code.to_owned(),
        silent: false,
        store_history: true,
        user_expressions: None,
        allow_stdin: true,
        stop_on_error: true,
    }
}

impl Client {
    pub(super) async fn connect(to: &ConnectionInfo) -> Self {
        let session = uuid::Uuid::new_v4().to_string();
        let identity = zmq::peer_identity_for_session(&session).unwrap();
        let mut iopub = zmq::create_client_iopub_connection(to, "", &session)
            .await
            .unwrap();
        // Until the kernel knows of the subscription, it sends nothing.
        let welcome = timeout(LIMIT, iopub.read()).await.unwrap().unwrap();
        assert!(matches!(
            welcome.content,
            JupyterMessageContent::IoPubWelcome(IoPubWelcome { .. })
        ));
        let shell =
            zmq::create_client_shell_connection_with_identity(to, &session, identity.clone());
        let stdin = zmq::create_client_stdin_connection_with_identity(to, &session, identity);
        Self {
            iopub,
            shell: shell.await.unwrap(),
            stdin: stdin.await.unwrap(),
            control: zmq::create_client_control_connection(to, &session)
                .await
                .unwrap(),
        }
    }

    /// Sends a request on the shell channel; returns its id.
    pub(super) async fn send(&mut self, request: impl Into<JupyterMessageContent>) -> String {
        let request = JupyterMessage::new(request, None);
        let id = request.header.msg_id.clone();
        self.shell.send(request).await.unwrap();
        id
    }

    /// Sends a request and waits for its reply.
    pub(super) async fn ask(
        &mut self,
        request: impl Into<JupyterMessageContent>,
    ) -> JupyterMessageContent {
        let id = self.send(request).await;
        self.reply(&id).await
    }

    /// Waits for the reply to a request on the shell channel.
    pub(super) async fn reply(&mut self, id: &str) -> JupyterMessageContent {
        let reply = timeout(LIMIT, self.shell.read()).await.unwrap().unwrap();
        assert_eq!(reply.parent_header.unwrap().msg_id, id);
        reply.content
    }

    /// Sends a request on the control channel and waits for its reply.
    pub(super) async fn control(
        &mut self,
        request: impl Into<JupyterMessageContent>,
    ) -> JupyterMessageContent {
        let request = JupyterMessage::new(request, None);
        self.control.send(request).await.unwrap();
        let reply = timeout(LIMIT, self.control.read()).await.unwrap();
        reply.unwrap().content
    }

    /// The next message that is published for a request.
    pub(super) async fn published(&mut self, id: &str) -> JupyterMessageContent {
        loop {
            let message = timeout(LIMIT, self.iopub.read()).await.unwrap().unwrap();
            if message
                .parent_header
                .is_some_and(|parent| parent.msg_id == id)
            {
                return message.content;
            }
        }
    }

    /// The next text that the cell of a request writes.
    pub(super) async fn output(&mut self, id: &str) -> String {
        loop {
            if let JupyterMessageContent::StreamContent(part) = self.published(id).await {
                return part.text;
            }
        }
    }

    /// Runs a cell to its end.
    pub(super) async fn run(&mut self, request: ExecuteRequest) -> Ran {
        let id = self.send(request).await;
        self.finish(&id).await
    }

    /// Waits for the end of a cell.
    pub(super) async fn finish(&mut self, id: &str) -> Ran {
        let mut published = Vec::new();
        loop {
            match self.published(id).await {
                JupyterMessageContent::Status(status) => {
                    if matches!(status.execution_state, ExecutionState::Idle) {
                        break;
                    }
                }
                content => published.push(content),
            }
        }
        let JupyterMessageContent::ExecuteReply(reply) = self.reply(id).await else {
            panic!("no reply to a cell");
        };
        Ran { reply, published }
    }
}

impl Ran {
    /// The kinds of what was published, in order.
    pub(super) fn kinds(&self) -> Vec<&str> {
        self.published
            .iter()
            .map(JupyterMessageContent::message_type)
            .collect()
    }

    /// The text of one stream.
    pub(super) fn stream(&self, wanted: Stdio) -> String {
        let parts = self.published.iter().filter_map(|content| match content {
            JupyterMessageContent::StreamContent(part)
                if std::mem::discriminant(&part.name) == std::mem::discriminant(&wanted) =>
            {
                Some(part.text.as_str())
            }
            _ => None,
        });
        parts.collect()
    }

    pub(super) fn stdout(&self) -> String {
        self.stream(Stdio::Stdout)
    }

    pub(super) fn ename(&self) -> Option<&str> {
        Some(&self.reply.error.as_ref()?.ename)
    }
}
