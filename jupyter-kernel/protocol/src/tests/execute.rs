//! Cells: what they publish, how they fail, how they queue.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use jupyter_protocol::messaging::{
    ExecuteRequest, ExpressionResult, HistoryEntry, HistoryRequest, JupyterMessageContent,
    KernelInfoRequest, ReplyStatus, Stdio,
};
use serde_json::json;

use super::Kernel;
use super::client::cell;

fn json(content: &JupyterMessageContent) -> serde_json::Value {
    serde_json::to_value(content).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_publishes_input_streams_displays_and_its_value_in_order() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let ran = client
        .run(cell("out one\nerr two\nshow three\nagain four\nvalue 5"))
        .await;
    assert_eq!(
        ran.kinds(),
        [
            "execute_input",
            "stream",
            "stream",
            "display_data",
            "update_display_data",
            "execute_result"
        ]
    );
    assert_eq!(
        (ran.stdout().as_str(), ran.stream(Stdio::Stderr).as_str()),
        ("one", "two")
    );
    let shown = json(&ran.published[4]);
    assert_eq!(shown["transient"]["display_id"], "four");
    let result = json(&ran.published[5]);
    assert_eq!(result["data"]["text/plain"], "5");
    assert_eq!(result["execution_count"], 1);
    assert!(matches!(ran.reply.status, ReplyStatus::Ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_published_and_replied_and_ends_what_waits() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let failed = client.send(cell("hold\nfail no\nout never")).await;
    let waits = client.send(cell("out never")).await;
    // Behind it on the same socket: the cell that waits is there.
    client.ask(KernelInfoRequest {}).await;
    kernel.language.go.store(true, Ordering::Relaxed);
    let ran = client.finish(&failed).await;
    assert_eq!(ran.kinds(), ["execute_input", "error"]);
    let error = json(&ran.published[1]);
    assert_eq!(
        (&error["ename"], &error["evalue"]),
        (&json!("Failed"), &json!("no"))
    );
    assert_eq!(ran.ename(), Some("Failed"));
    let ended = client.finish(&waits).await;
    assert!(matches!(ended.reply.status, ReplyStatus::Aborted));
    assert!(ended.kinds().is_empty());
    assert_eq!(client.run(cell("out on")).await.stdout(), "on");
    let ran = kernel.language.ran.lock().unwrap().clone();
    assert_eq!(ran, ["hold\nfail no\nout never", "out on"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_goes_on_where_the_failed_cell_says_so() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let failed = client
        .send(ExecuteRequest {
            stop_on_error: false,
            ..cell("fail no")
        })
        .await;
    let waits = client.send(cell("out on")).await;
    assert_eq!(client.finish(&failed).await.ename(), Some("Failed"));
    assert_eq!(client.finish(&waits).await.stdout(), "on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_language_is_an_error_of_its_cell() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    assert_eq!(client.run(cell("panic")).await.ename(), Some("Error"));
    assert_eq!(client.run(cell("out on")).await.stdout(), "on");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_cells_show_no_input_no_value_no_error_and_do_not_count() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let silent = |code| ExecuteRequest {
        silent: true,
        ..cell(code)
    };
    assert_eq!(client.run(cell("value 1")).await.reply.execution_count.0, 1);
    assert!(client.run(silent("value 2")).await.kinds().is_empty());
    let failed = client.run(silent("fail no")).await;
    assert!(failed.kinds().is_empty());
    assert_eq!(failed.ename(), Some("Failed"));
    assert_eq!(failed.reply.execution_count.0, 1);
    let unkept = ExecuteRequest {
        store_history: false,
        ..cell("value 3")
    };
    let unkept = client.run(unkept).await;
    assert_eq!(unkept.kinds(), ["execute_input", "execute_result"]);
    assert_eq!(unkept.reply.execution_count.0, 1);
    assert_eq!(client.run(cell("value 4")).await.reply.execution_count.0, 2);
    let asked = client
        .ask(HistoryRequest::Tail {
            n: 9,
            output: true,
            raw: true,
        })
        .await;
    let JupyterMessageContent::HistoryReply(reply) = asked else {
        panic!("no history");
    };
    let kept: Vec<_> = reply
        .history
        .into_iter()
        .map(|entry| match entry {
            HistoryEntry::InputOutput(_, count, (input, output)) => (count, input, output),
            HistoryEntry::Input(..) => panic!("no output"),
        })
        .collect();
    assert_eq!(
        kept,
        [
            (1, "value 1".to_owned(), "1".to_owned()),
            (2, "value 4".to_owned(), "4".to_owned())
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn user_expressions_are_run_after_the_cell() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let expressions = [("good", "value 7"), ("bad", "fail no")]
        .map(|(name, code)| (name.to_owned(), code.to_owned()));
    let ran = client
        .run(ExecuteRequest {
            user_expressions: Some(HashMap::from(expressions)),
            ..cell("out x")
        })
        .await;
    let results = ran.reply.user_expressions.unwrap();
    assert!(matches!(results["good"], ExpressionResult::Ok { .. }));
    assert!(matches!(&results["bad"], ExpressionResult::Error { ename, .. } if ename == "Failed"));
    assert!(matches!(ran.reply.status, ReplyStatus::Ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_see_all_cells_and_each_its_own_replies() {
    let kernel = Kernel::start().await;
    let (mut one, mut other) = (kernel.client().await, kernel.client().await);
    let first = one.send(cell("out one")).await;
    let second = other.send(cell("out other")).await;
    assert_eq!(one.finish(&first).await.stdout(), "one");
    assert_eq!(other.finish(&second).await.stdout(), "other");
    // Both saw both cells: this one still has to read the other's.
    assert_eq!(one.output(&second).await, "other");
    drop(one);
    let info = other.ask(KernelInfoRequest {}).await;
    assert!(matches!(info, JupyterMessageContent::KernelInfoReply(_)));
    assert_eq!(other.run(cell("out on")).await.stdout(), "on");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_no_cell_is_published_without_a_parent() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let language = std::sync::Arc::clone(&kernel.language);
    std::thread::spawn(move || language.say("starting"));
    let message = client.iopub.read().await.unwrap();
    assert!(message.parent_header.is_none());
    assert_eq!(message.content.message_type(), "stream");
}
