//! The debugger's requests and events.

use jupyter_protocol::messaging::{DebugRequest, JupyterMessageContent, KernelInfoRequest};
use serde_json::json;

use super::Kernel;
use super::client::cell;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_while_a_cell_runs_and_its_event_is_everybodys() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let JupyterMessageContent::KernelInfoReply(info) = client.ask(KernelInfoRequest {}).await
    else {
        panic!("no reply");
    };
    assert!(info.debugger);
    let runs = client.send(cell("out runs\nhold")).await;
    assert_eq!(client.output(&runs).await, "runs");
    let content = json!({"seq": 7, "type": "request", "command": "threads"});
    let reply = client.control(DebugRequest { content }).await;
    let JupyterMessageContent::DebugReply(reply) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(reply.content["request_seq"], 7);
    let event = loop {
        let message = client.iopub.read().await.unwrap();
        if message.header.msg_type == "debug_event" {
            assert!(message.parent_header.is_none());
            break message;
        }
    };
    let JupyterMessageContent::UnknownMessage(event) = event.content else {
        panic!("{event:?}");
    };
    assert_eq!(event.content["body"]["reason"], "threads");
    kernel
        .language
        .go
        .store(true, std::sync::atomic::Ordering::Relaxed);
    client.finish(&runs).await;
}
