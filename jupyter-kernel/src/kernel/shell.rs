//! The shell channel: requests about code.
//!
//! All but execution is answered at once, while a cell runs too: what needs evcxr is then empty.

use std::time::Duration;

use anyhow::Result;
use jupyter_protocol::JupyterMessage;
use jupyter_protocol::messaging::{
    CodeMirrorMode, CommInfoReply, CompleteReply, CompleteRequest, InspectReply, InspectRequest,
    JupyterMessageContent, KernelInfoReply, LanguageInfo, ReplyStatus, Status,
};
use jupyter_zmq_client::{RouterRecvConnection, RuntimeError};
use serde_json::{Map, Value, json};

use super::execute::Executor;
use super::publish::{Publisher, media};
use super::{Replies, code, request};
use crate::session::Session;

/// Answers for as long as the socket is there.
pub(super) async fn serve(
    mut socket: RouterRecvConnection,
    replies: Replies,
    publisher: Publisher,
    session: Session,
    executor: Executor,
) -> Result<()> {
    loop {
        let request = match request::read(&mut socket).await {
            Ok(request) => request,
            Err(RuntimeError::ZmqError(error)) => return Err(error.into()),
            // A message that cannot be read has nobody to reply to.
            Err(_) => continue,
        };
        if matches!(request.content, JupyterMessageContent::ExecuteRequest(_)) {
            executor.queue(request);
            continue;
        }
        let (replies, publisher, session, executor) = (
            replies.clone(),
            publisher.clone(),
            session.clone(),
            executor.clone(),
        );
        tokio::spawn(async move {
            publisher.busy(&request).await;
            if let Some(reply) = answer(&request, &session, &executor).await {
                let _ = replies.send(JupyterMessage::new(reply, Some(&request)));
            }
            publisher.idle(&request).await;
            // Front ends take any idle for the kernel's.
            if let Some(cell) = executor.state.running() {
                publisher.publish(Status::busy(), &cell).await;
            }
        });
    }
}

async fn answer(
    request: &JupyterMessage,
    session: &Session,
    executor: &Executor,
) -> Option<JupyterMessageContent> {
    Some(match &request.content {
        JupyterMessageContent::KernelInfoRequest(_) => kernel_info().into(),
        JupyterMessageContent::CompleteRequest(request) => complete(request, session).await.into(),
        JupyterMessageContent::InspectRequest(request) => inspect(request, session).await.into(),
        JupyterMessageContent::IsCompleteRequest(request) => {
            code::is_complete(&request.code).into()
        }
        JupyterMessageContent::HistoryRequest(request) => executor
            .state
            .history(|history| history.reply(request))
            .into(),
        JupyterMessageContent::CommInfoRequest(_) => CommInfoReply::default().into(),
        _ => return None,
    })
}

pub(super) fn kernel_info() -> KernelInfoReply {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    KernelInfoReply {
        status: ReplyStatus::Ok,
        protocol_version: "5.5".to_owned(),
        implementation: "klab".to_owned(),
        implementation_version: version.clone(),
        language_info: LanguageInfo {
            name: "rust".to_owned(),
            version: env!("CARGO_PKG_RUST_VERSION").to_owned(),
            mimetype: Some("text/rust".to_owned()),
            file_extension: Some(".rs".to_owned()),
            pygments_lexer: Some("rust".to_owned()),
            codemirror_mode: Some(CodeMirrorMode::Simple("rust".to_owned())),
            nbconvert_exporter: Some("script".to_owned()),
        },
        banner: format!(
            "klab {version}: Rust cells that look into a live Linux kernel. `%help` lists the commands."
        ),
        help_links: Vec::new(),
        debugger: false,
        error: None,
    }
}

async fn complete(request: &CompleteRequest, session: &Session) -> CompleteReply {
    let text = &request.code;
    let at = code::byte_offset(text, request.cursor_pos);
    if text.trim_start().starts_with("%%drgn") {
        return python(text, at).await;
    }
    let found = session.complete(text.clone(), at).await;
    let start = code::code_points(text, found.start);
    let end = code::code_points(text, found.end);
    let types: Vec<Value> = found
        .matches
        .iter()
        .map(|(text, kind)| json!({"text": text, "type": kind, "start": start, "end": end}))
        .collect();
    CompleteReply {
        matches: found.matches.into_iter().map(|(text, _)| text).collect(),
        cursor_start: start,
        cursor_end: end,
        metadata: Map::from_iter([(
            "_jupyter_types_experimental".to_owned(),
            Value::Array(types),
        )]),
        ..CompleteReply::default()
    }
}

/// What drgn's Python knows, once it runs.
async fn python(text: &str, at: usize) -> CompleteReply {
    let before = text.get(..at).unwrap_or_default().to_owned();
    let asked = tokio::task::spawn_blocking(move || probes::drgn::complete(&before));
    let asked = tokio::time::timeout(Duration::from_secs(2), asked).await;
    let (matches, replaced) = asked
        .ok()
        .and_then(|found| found.ok().flatten())
        .unwrap_or_default();
    let end = code::code_points(text, at);
    CompleteReply {
        matches,
        cursor_start: end.saturating_sub(replaced),
        cursor_end: end,
        ..CompleteReply::default()
    }
}

async fn inspect(request: &InspectRequest, session: &Session) -> InspectReply {
    let text = &request.code;
    let at = code::end_of_name(text, code::byte_offset(text, request.cursor_pos));
    let Some((plain, html)) = session.inspect(text.clone(), at).await else {
        return InspectReply::default();
    };
    let data = Map::from_iter([
        ("text/plain".to_owned(), Value::String(plain)),
        ("text/html".to_owned(), Value::String(html)),
    ]);
    InspectReply {
        found: true,
        data: media(data),
        ..InspectReply::default()
    }
}
