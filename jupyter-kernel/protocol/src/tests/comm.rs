//! Comms.

use jupyter_protocol::messaging::{
    CommClose, CommInfoRequest, CommMsg, CommOpen, JupyterMessageContent,
};
use serde_json::{Map, Value, json};

use super::Kernel;
use super::client::{Client, cell};

fn open(id: &str, target: &str) -> CommOpen {
    CommOpen {
        comm_id: id.to_owned().into(),
        target_name: target.to_owned(),
        ..CommOpen::default()
    }
}

fn message(id: &str, data: &Value) -> CommMsg {
    CommMsg {
        comm_id: id.to_owned().into(),
        data: data.as_object().unwrap().clone(),
    }
}

async fn ids(client: &mut Client, target: Option<&str>) -> Vec<String> {
    let request = CommInfoRequest {
        target_name: target.map(str::to_owned),
    };
    let JupyterMessageContent::CommInfoReply(reply) = client.ask(request).await else {
        panic!("no reply");
    };
    let mut ids: Vec<String> = reply.comms.into_keys().map(String::from).collect();
    ids.sort();
    ids
}

/// What is published for a message of a comm, without the kernel's status.
async fn said(
    client: &mut Client,
    content: impl Into<JupyterMessageContent>,
) -> Vec<JupyterMessageContent> {
    use jupyter_protocol::messaging::ExecutionState;
    let id = client.send(content).await;
    let mut said = Vec::new();
    loop {
        match client.published(&id).await {
            JupyterMessageContent::Status(status) => {
                if matches!(status.execution_state, ExecutionState::Idle) {
                    return said;
                }
            }
            content => said.push(content),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_answered_while_a_cell_runs() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    assert!(said(&mut client, open("a", "fakes")).await.is_empty());
    let runs = client.send(cell("out runs\nhold")).await;
    assert_eq!(client.output(&runs).await, "runs");
    let answered = said(&mut client, message("a", &json!({"x": [1]}))).await;
    let [JupyterMessageContent::CommMsg(answer)] = &answered[..] else {
        panic!("{answered:?}");
    };
    assert_eq!(answer.comm_id.0, "a");
    assert_eq!(
        Value::from(answer.data.clone()),
        json!({"heard": {"x": [1]}})
    );
    let shown = said(&mut client, message("a", &json!({"show": "y"}))).await;
    let kinds: Vec<_> = shown
        .iter()
        .map(JupyterMessageContent::message_type)
        .collect();
    assert_eq!(kinds, ["display_data", "comm_msg"]);
    kernel
        .language
        .go
        .store(true, std::sync::atomic::Ordering::Relaxed);
    client.finish(&runs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_are_open_are_listed() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    assert!(ids(&mut client, None).await.is_empty());
    for id in ["a", "b"] {
        said(&mut client, open(id, "fakes")).await;
    }
    assert_eq!(ids(&mut client, None).await, ["a", "b"]);
    assert_eq!(ids(&mut client, Some("fakes")).await, ["a", "b"]);
    assert!(ids(&mut client, Some("others")).await.is_empty());
    let close = CommClose {
        comm_id: "a".to_owned().into(),
        data: Map::new(),
    };
    assert!(said(&mut client, close).await.is_empty());
    assert_eq!(ids(&mut client, None).await, ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_nobody_answers_is_closed() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    said(&mut client, open("d", "fakes")).await;
    for content in [
        JupyterMessageContent::from(open("c", "jupyter.widget")),
        message("never", &json!({})).into(),
        message("d", &json!({"panic": true})).into(),
    ] {
        let answered = said(&mut client, content).await;
        assert!(
            matches!(&answered[..], [JupyterMessageContent::CommClose(_)]),
            "{answered:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_first_message_follows_at_once() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    for number in 0..200 {
        let id = format!("c{number}");
        client.send(open(&id, "fakes")).await;
        let sent = client.send(message(&id, &json!({"n": number}))).await;
        let answer = loop {
            match client.published(&sent).await {
                JupyterMessageContent::Status(_) => {}
                answer => break answer,
            }
        };
        assert!(
            matches!(answer, JupyterMessageContent::CommMsg(_)),
            "{answer:?}"
        );
    }
}
