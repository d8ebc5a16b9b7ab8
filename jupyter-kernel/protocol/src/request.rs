//! Requests as clients send them.
//!
//! The protocol lets a client leave members out, and Jupyter's own do: a search of the history has no `n` where all is
//! wanted. `jupyter-protocol` takes such a request for a broken one, so the missing members are filled in before it looks.

use jupyter_protocol::JupyterMessage;
use jupyter_protocol::messaging::JupyterMessageContent;
use jupyter_zmq_client::{RawMessage, Result, RouterRecvConnection, RuntimeError};
use serde_json::{Value, json};
use zeromq::SocketRecv as _;

/// The next request on a channel, its signature checked, with the subshell that it is for.
pub(crate) async fn read(
    socket: &mut RouterRecvConnection,
) -> Result<(JupyterMessage, Option<String>)> {
    let raw = RawMessage::from_multipart(socket.socket.recv().await?, &socket.mac)?;
    let [header, parent, metadata, content, buffers @ ..] = &raw.jparts[..] else {
        return Err(RuntimeError::InsufficientMessageParts(raw.jparts.len()));
    };
    let header: Value = serde_json::from_slice(header)?;
    // Of JEP 91, which `jupyter-protocol` does not know.
    let subshell = header["subshell_id"].as_str().map(str::to_owned);
    let header: jupyter_protocol::messaging::Header = serde_json::from_value(header)?;
    let mut content: Value = serde_json::from_slice(content)?;
    if header.msg_type == "history_request" {
        complete(&mut content);
    }
    let content = JupyterMessageContent::from_type_and_content(&header.msg_type, content).map_err(
        |source| RuntimeError::ParseError {
            msg_type: header.msg_type.clone(),
            source,
        },
    )?;
    let request = JupyterMessage {
        // A message without a parent has `{}` there, which is no header.
        parent_header: serde_json::from_slice(parent).ok(),
        metadata: serde_json::from_slice(metadata)?,
        content,
        buffers: buffers.to_vec(),
        channel: None,
        zmq_identities: raw.zmq_identities.clone(),
        header,
    };
    Ok((request, subshell))
}

/// Gives a history request the members that its client left out: all entries, each as often as it was run.
fn complete(request: &mut Value) {
    let Some(members) = request.as_object_mut() else {
        return;
    };
    for (name, usual) in [
        ("output", json!(false)),
        ("raw", json!(true)),
        ("unique", json!(false)),
        ("n", json!(i32::MAX)),
        ("pattern", json!("*")),
        ("session", json!(0)),
        ("start", json!(0)),
        ("stop", json!(i32::MAX)),
    ] {
        let member = members.entry(name).or_insert(Value::Null);
        if member.is_null() {
            *member = usual;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jupyter_protocol::messaging::HistoryRequest;

    #[test]
    fn a_search_may_leave_out_how_many_it_wants() {
        let mut request =
            json!({"hist_access_type": "search", "output": false, "raw": false, "pattern": "1*"});
        complete(&mut request);
        let read: HistoryRequest = serde_json::from_value(request).unwrap();
        assert!(
            matches!(read, HistoryRequest::Search { n: i32::MAX, unique: false, ref pattern, .. } if pattern == "1*")
        );
    }

    #[test]
    fn what_a_client_says_is_kept() {
        let mut request = json!({"hist_access_type": "tail", "n": 2, "output": true, "raw": false});
        complete(&mut request);
        let read: HistoryRequest = serde_json::from_value(request).unwrap();
        assert!(matches!(
            read,
            HistoryRequest::Tail {
                n: 2,
                output: true,
                raw: false
            }
        ));
    }
}
