//! Questions of front ends to a language, between cells and while one runs; and of a cell to its user.

use jupyter_protocol::JupyterMessage;
use jupyter_protocol::messaging::{
    CompleteRequest, ExecuteRequest, InputReply, InspectRequest, InterruptRequest,
    IsCompleteReplyStatus, IsCompleteRequest, JupyterMessageContent, KernelInfoRequest, Stdio,
};

use super::client::{Client, cell};
use super::{Kernel, LIMIT};

async fn complete(client: &mut Client, code: &str, cursor_pos: usize) -> serde_json::Value {
    let code = code.to_owned();
    let asked = client.ask(CompleteRequest { code, cursor_pos }).await;
    serde_json::to_value(asked).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn kernel_info_is_the_languages() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    for asked in [
        client.ask(KernelInfoRequest {}).await,
        client.control(KernelInfoRequest {}).await,
    ] {
        let JupyterMessageContent::KernelInfoReply(info) = asked else {
            panic!("no kernel_info_reply");
        };
        assert_eq!(info.implementation, "fake");
        assert_eq!(info.language_info.name, "words");
        assert!(info.protocol_version.starts_with("5."));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn completion_counts_in_code_points() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let found = complete(&mut client, "é 😀x rest", 4).await;
    assert_eq!(found["matches"], serde_json::json!(["😀x!"]));
    assert_eq!(
        (&found["cursor_start"], &found["cursor_end"]),
        (&2.into(), &4.into())
    );
    let kinds = &found["metadata"]["_jupyter_types_experimental"];
    assert_eq!(kinds[0]["type"], "word");
    assert_eq!(kinds[0]["start"], 2);
    let unnamed = complete(&mut client, "ask", 99).await;
    assert!(unnamed["metadata"].as_object().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn inspection_and_completeness_are_the_languages() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let mut inspect = async |code: &str| {
        let request = InspectRequest {
            code: code.to_owned(),
            cursor_pos: 1,
            detail_level: Some(0),
        };
        serde_json::to_value(client.ask(request).await).unwrap()
    };
    let found = inspect("é").await;
    assert_eq!(found["found"], true);
    assert_eq!(found["data"]["text/plain"], "2 bytes before");
    let absent = inspect("").await;
    assert_eq!(
        (&absent["found"], &absent["status"]),
        (&false.into(), &"ok".into())
    );
    for (code, wanted) in [
        ("out", IsCompleteReplyStatus::Complete),
        ("out \\", IsCompleteReplyStatus::Incomplete),
        ("", IsCompleteReplyStatus::Invalid),
    ] {
        let code = code.to_owned();
        let JupyterMessageContent::IsCompleteReply(reply) =
            client.ask(IsCompleteRequest { code }).await
        else {
            panic!("no is_complete_reply");
        };
        assert_eq!(reply.status, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_while_a_cell_runs() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let waits = client.send(cell("out runs\nwait")).await;
    client.output(&waits).await;
    let found = complete(&mut client, "x", 1).await;
    assert_eq!(found["matches"], serde_json::json!(["x!"]));
    client.control(InterruptRequest {}).await;
    client.finish(&waits).await;
}

/// The question that the kernel has sent to this client.
async fn question(client: &mut Client) -> JupyterMessage {
    let question = tokio::time::timeout(LIMIT, client.stdin.read());
    question.await.expect("no question").unwrap()
}

fn answer(value: &str) -> InputReply {
    InputReply {
        value: value.to_owned(),
        ..InputReply::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_asks_the_client_that_sent_it() {
    let kernel = Kernel::start().await;
    let (mut one, mut other) = (kernel.client().await, kernel.client().await);
    let asks = other.send(cell("ask name?")).await;
    let asked = question(&mut other).await;
    assert!(
        matches!(&asked.content, JupyterMessageContent::InputRequest(asked) if asked.prompt == "name?")
    );
    assert_eq!(asked.parent_header.unwrap().msg_id, asks);
    let reply = JupyterMessage::new(answer("ada"), None);
    other.stdin.send(reply).await.unwrap();
    assert_eq!(other.finish(&asks).await.stdout(), "ada");
    assert_eq!(one.run(cell("out on")).await.stdout(), "on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_may_not_ask_is_told_so() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let ran = client
        .run(ExecuteRequest {
            allow_stdin: false,
            ..cell("ask name?")
        })
        .await;
    assert_eq!(ran.stream(Stdio::Stderr), "nobody answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_a_question_and_its_late_answer_is_none_of_the_next() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let first = client.send(cell("ask first?")).await;
    let late = question(&mut client).await;
    client.control(InterruptRequest {}).await;
    let ran = client.finish(&first).await;
    assert_eq!(ran.stream(Stdio::Stderr), "nobody answers");
    let second = client.send(cell("ask second?")).await;
    let asked = question(&mut client).await;
    for (question, value) in [(&late, "late"), (&asked, "right")] {
        let reply = JupyterMessage::new(answer(value), None);
        let reply = reply.with_parent(question).with_zmq_identities(Vec::new());
        client.stdin.send(reply).await.unwrap();
    }
    assert_eq!(client.finish(&second).await.stdout(), "right");
}
