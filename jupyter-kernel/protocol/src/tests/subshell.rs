//! Subshells.

use std::sync::atomic::Ordering;

use jupyter_protocol::JupyterMessage;
use jupyter_protocol::messaging::{
    InterruptRequest, JupyterMessageContent, KernelInfoRequest, ReplyStatus, UnknownMessage,
};
use serde_json::{Value, json};
use zeromq::{SocketSend as _, ZmqMessage};

use super::Kernel;
use super::client::{Client, cell};

/// Asks about subshells on the control channel.
async fn ask(client: &mut Client, what: &str, content: Value) -> Value {
    let msg_type = format!("{what}_request");
    let reply = client.control(UnknownMessage { msg_type, content }).await;
    let JupyterMessageContent::UnknownMessage(reply) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(reply.msg_type, format!("{what}_reply"));
    reply.content
}

/// Sends a cell to a subshell; returns its id. `jupyter-protocol` has no header with the subshell's name.
async fn send(client: &mut Client, subshell: &str, code: &str) -> String {
    let message = JupyterMessage::new(cell(code), None);
    let id = message.header.msg_id.clone();
    let mut header = json!(message.header);
    header["subshell_id"] = json!(subshell);
    let content = serde_json::to_value(cell(code)).unwrap();
    // Without a key there is no signature.
    let mut message = ZmqMessage::from("<IDS|MSG>");
    for part in ["", &header.to_string(), "{}", "{}", &content.to_string()] {
        message.push_back(part.as_bytes().to_vec().into());
    }
    client.shell.socket.send(message).await.unwrap();
    id
}

async fn made(client: &mut Client) -> String {
    let reply = ask(client, "create_subshell", json!({})).await;
    assert_eq!(reply["status"], "ok");
    reply["subshell_id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_of_one_runs_beside_the_kernels_own() {
    let kernel = Kernel::with_key("").await;
    let mut client = kernel.client().await;
    let JupyterMessageContent::KernelInfoReply(_) = client.ask(KernelInfoRequest {}).await else {
        panic!("no reply");
    };
    let subshell = made(&mut client).await;
    let own = client.send(cell("out runs\nhold\nout goes on")).await;
    assert_eq!(client.output(&own).await, "runs");
    // Two of it, in order, each with its own number.
    for (code, count) in [("out a", 2), ("out b", 3)] {
        let id = send(&mut client, &subshell, code).await;
        let ran = client.finish(&id).await;
        assert_eq!(ran.stdout(), code.trim_start_matches("out "));
        assert_eq!(ran.reply.execution_count.0, count);
    }
    kernel.language.go.store(true, Ordering::Relaxed);
    let ran = client.finish(&own).await;
    assert_eq!(ran.reply.execution_count.0, 1);
    assert!(matches!(ran.reply.status, ReplyStatus::Ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_stops_the_cells_of_all() {
    let kernel = Kernel::with_key("").await;
    let mut client = kernel.client().await;
    let subshell = made(&mut client).await;
    let own = client.send(cell("out own\nwait")).await;
    assert_eq!(client.output(&own).await, "own");
    let other = send(&mut client, &subshell, "out other\nwait").await;
    assert_eq!(client.output(&other).await, "other");
    client.control(InterruptRequest {}).await;
    for _ in 0..2 {
        let reply = client.shell.read().await.unwrap();
        let JupyterMessageContent::ExecuteReply(reply) = reply.content else {
            panic!("{reply:?}");
        };
        assert_eq!(reply.error.unwrap().ename, "Interrupted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_not_there_is_told() {
    let kernel = Kernel::with_key("").await;
    let mut client = kernel.client().await;
    let subshell = made(&mut client).await;
    let listed = ask(&mut client, "list_subshell", json!({})).await;
    assert_eq!(listed["subshell_id"], json!([subshell]));
    let named = json!({"subshell_id": subshell});
    let deleted = ask(&mut client, "delete_subshell", named.clone()).await;
    assert_eq!(deleted["status"], "ok");
    let again = ask(&mut client, "delete_subshell", named).await;
    assert_eq!(
        (&again["status"], &again["ename"]),
        (&json!("error"), &json!("SubshellError"))
    );
    let listed = ask(&mut client, "list_subshell", json!({})).await;
    assert_eq!(listed["subshell_id"], json!([]));
    let id = send(&mut client, &subshell, "out never").await;
    // It has an end, as any cell.
    let ran = client.finish(&id).await;
    assert_eq!(ran.ename(), Some("SubshellError"));
    assert!(kernel.language.ran.lock().unwrap().is_empty());
}
