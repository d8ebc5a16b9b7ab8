//! The shell channel: requests about code.
//!
//! All but execution is answered at once, while a cell runs too.

use std::sync::Arc;

use anyhow::Result;
use jupyter_protocol::JupyterMessage;
use jupyter_protocol::messaging::{
    CompleteReply, CompleteRequest, InspectReply, InspectRequest, IsCompleteReply,
    JupyterMessageContent, KernelInfoReply, ReplyStatus, UnknownMessage,
};
use jupyter_zmq_client::{RouterRecvConnection, RuntimeError};
use serde_json::{Map, Value, json};

use crate::comm::Comms;
use crate::execute::Means;
use crate::position::{byte_offset, code_points};
use crate::publish::media;
use crate::subshell::Subshells;
use crate::{Completeness, Completion, Language, request};

/// The version of the protocol.
const PROTOCOL: &str = "5.5";
/// What says that [`crate::subshell`] is here.
const SUBSHELLS: &str = "kernel subshells";

/// Answers on the channel.
#[derive(Clone)]
pub(crate) struct Shell {
    pub(crate) means: Means,
    pub(crate) subshells: Arc<Subshells>,
    pub(crate) comms: Arc<Comms>,
}

impl Shell {
    /// Answers for as long as the socket is there.
    pub(crate) async fn serve(self, mut socket: RouterRecvConnection) -> Result<()> {
        loop {
            let (request, subshell) = match request::read(&mut socket).await {
                Ok(read) => read,
                Err(RuntimeError::ZmqError(error)) => return Err(error.into()),
                // A message that cannot be read has nobody to reply to.
                Err(_) => continue,
            };
            if matches!(request.content, JupyterMessageContent::ExecuteRequest(_)) {
                self.subshells.queue(request, subshell.as_deref());
                continue;
            }
            let shell = self.clone();
            let heard = self.comms.take(&request);
            tokio::spawn(async move {
                let Means {
                    publisher, replies, ..
                } = &shell.means;
                publisher.busy(&request).await;
                if let Some(reply) = shell.answer(&request).await {
                    let _ = replies.send(JupyterMessage::new(reply, Some(&request)));
                }
                let show = publisher.sink(Some(&request));
                if let Some(said) = shell.comms.answer(heard, show).await {
                    publisher.publish(said, &request).await;
                }
                publisher.idle(&request).await;
                shell.means.still_busy().await;
            });
        }
    }

    async fn answer(&self, request: &JupyterMessage) -> Option<JupyterMessageContent> {
        Some(match &request.content {
            JupyterMessageContent::KernelInfoRequest(_) => kernel_info(&*self.means.language),
            JupyterMessageContent::CompleteRequest(request) => self.complete(request).await.into(),
            JupyterMessageContent::InspectRequest(request) => self.inspect(request).await.into(),
            JupyterMessageContent::IsCompleteRequest(request) => {
                match self.means.language.is_complete(&request.code) {
                    Completeness::Complete => IsCompleteReply::complete(),
                    Completeness::Incomplete(indent) => IsCompleteReply::incomplete(indent),
                    Completeness::Invalid => IsCompleteReply::invalid(),
                }
                .into()
            }
            JupyterMessageContent::HistoryRequest(request) => self
                .means
                .state
                .history(|history| history.reply(request))
                .into(),
            JupyterMessageContent::CommInfoRequest(request) => self.comms.open(request).into(),
            _ => return None,
        })
    }

    async fn complete(&self, request: &CompleteRequest) -> CompleteReply {
        let at = byte_offset(&request.code, request.cursor_pos);
        let found = self.ask(&request.code, move |language, code| {
            language.complete(code, at)
        });
        let found = found.await.unwrap_or(Completion {
            replaced: at..at,
            ..Completion::default()
        });
        let [start, end] = [found.replaced.start, found.replaced.end]
            .map(|offset| code_points(&request.code, offset));
        let types: Vec<Value> = found
            .matches
            .iter()
            .filter_map(|found| {
                Some(json!({"text": found.text, "type": found.kind.as_deref()?, "start": start, "end": end}))
            })
            .collect();
        let mut metadata = Map::new();
        // If it is there, front ends show its list and nothing else.
        if !types.is_empty() {
            metadata.insert(
                "_jupyter_types_experimental".to_owned(),
                Value::Array(types),
            );
        }
        CompleteReply {
            matches: found.matches.into_iter().map(|found| found.text).collect(),
            cursor_start: start,
            cursor_end: end,
            metadata,
            ..CompleteReply::default()
        }
    }

    async fn inspect(&self, request: &InspectRequest) -> InspectReply {
        let at = byte_offset(&request.code, request.cursor_pos);
        let found = self.ask(&request.code, move |language, code| {
            language.inspect(code, at)
        });
        let Some(data) = found.await.flatten() else {
            return InspectReply::default();
        };
        InspectReply {
            found: true,
            data: media(data),
            ..InspectReply::default()
        }
    }

    /// Asks the language on a thread of its own; `None` where it panicked.
    async fn ask<T: Send + 'static>(
        &self,
        code: &str,
        ask: impl FnOnce(&dyn Language, &str) -> T + Send + 'static,
    ) -> Option<T> {
        let (language, code) = (Arc::clone(&self.means.language), code.to_owned());
        tokio::task::spawn_blocking(move || ask(&*language, &code))
            .await
            .ok()
    }
}

pub(crate) fn kernel_info(language: &dyn Language) -> JupyterMessageContent {
    let info = language.info();
    let debugger = info.debugger;
    let reply = KernelInfoReply {
        status: ReplyStatus::Ok,
        protocol_version: PROTOCOL.to_owned(),
        implementation: info.implementation.to_owned(),
        implementation_version: info.implementation_version.to_owned(),
        language_info: info.language,
        banner: info.banner,
        help_links: Vec::new(),
        debugger,
        error: None,
    };
    // JEP 92, which the type does not know.
    let features = [(SUBSHELLS, true), ("debugger", debugger)];
    let features = features.into_iter().filter(|(_, has)| *has);
    let mut content = json!(reply);
    content["supported_features"] = features.map(|(name, _)| name).collect();
    let msg_type = "kernel_info_reply".to_owned();
    UnknownMessage { msg_type, content }.into()
}
