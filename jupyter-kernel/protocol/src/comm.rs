//! Comms: what a front end and the language say to each other beside the cells.
//!
//! A front end opens one to the language's target, and each message of it has one answer, also while a cell runs. A comm to another
//! target is closed at once, as the protocol wants it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jupyter_protocol::JupyterMessage;
use jupyter_protocol::messaging::{
    CommClose, CommInfo, CommInfoReply, CommInfoRequest, CommMsg, JupyterMessageContent,
};
use serde_json::Map;

use crate::{Language, Sink};

/// The comms that are open.
pub(crate) struct Comms {
    language: Arc<dyn Language>,
    /// Target of all.
    target: &'static str,
    open: Mutex<BTreeSet<String>>,
}

/// A message of a comm.
pub(crate) enum Heard {
    /// None, or one without an answer.
    Nothing,
    /// Of a comm that is not open, or to another target.
    Nobodys(String),
    /// One for the language.
    Message(CommMsg),
}

impl Comms {
    pub(crate) fn new(language: Arc<dyn Language>) -> Self {
        Self {
            target: language.info().comm,
            language,
            open: Mutex::default(),
        }
    }

    /// Lists the comms that are open, as the request wants them.
    pub(crate) fn open(&self, request: &CommInfoRequest) -> CommInfoReply {
        let asked = request.target_name.as_deref();
        let ids = self.ids().clone();
        let ids = ids
            .into_iter()
            .filter(|_| asked.is_none_or(|asked| asked == self.target));
        let about = || CommInfo {
            target_name: self.target.to_owned(),
        };
        CommInfoReply {
            comms: ids.map(|id| (id.into(), about())).collect(),
            ..CommInfoReply::default()
        }
    }

    /// Takes a message of a comm, in the order in which they come: the first one follows the opening at once.
    pub(crate) fn take(&self, message: &JupyterMessage) -> Heard {
        match &message.content {
            JupyterMessageContent::CommOpen(open) if open.target_name == self.target => {
                self.ids().insert(open.comm_id.0.clone());
                Heard::Nothing
            }
            JupyterMessageContent::CommOpen(open) => Heard::Nobodys(open.comm_id.0.clone()),
            JupyterMessageContent::CommMsg(said) => match self.ids().contains(&said.comm_id.0) {
                true => Heard::Message(said.clone()),
                false => Heard::Nobodys(said.comm_id.0.clone()),
            },
            JupyterMessageContent::CommClose(closed) => {
                self.ids().remove(&closed.comm_id.0);
                Heard::Nothing
            }
            _ => Heard::Nothing,
        }
    }

    /// What is to be said of it to all clients; what is shown for it goes to `show`.
    pub(crate) async fn answer(&self, heard: Heard, show: Sink) -> Option<JupyterMessageContent> {
        let said = match heard {
            Heard::Nothing => return None,
            Heard::Nobodys(id) => return Some(close(&id)),
            Heard::Message(said) => said,
        };
        let (language, data) = (Arc::clone(&self.language), said.data);
        let answer = tokio::task::spawn_blocking(move || language.comm(&data, &show)).await;
        Some(match answer {
            Ok(data) => {
                let comm_id = said.comm_id;
                CommMsg { comm_id, data }.into()
            }
            // It panicked.
            Err(_) => close(&said.comm_id.0),
        })
    }

    fn ids(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn close(id: &str) -> JupyterMessageContent {
    CommClose {
        comm_id: id.to_owned().into(),
        data: Map::new(),
    }
    .into()
}
