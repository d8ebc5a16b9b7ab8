//! Interrupt and shutdown.

use std::sync::atomic::Ordering;

use jupyter_protocol::messaging::{
    InterruptRequest, JupyterMessageContent, KernelInfoRequest, ReplyStatus, ShutdownRequest,
};

use super::Kernel;
use super::client::cell;

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_stops_the_cell_that_runs_and_what_waits() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let runs = client.send(cell("out runs\nwait")).await;
    let waits = client.send(cell("out never")).await;
    // Behind it on the same socket: the cell that waits is there.
    client.ask(KernelInfoRequest {}).await;
    assert_eq!(client.output(&runs).await, "runs");
    let reply = client.control(InterruptRequest {}).await;
    assert!(matches!(reply, JupyterMessageContent::InterruptReply(_)));
    assert_eq!(client.finish(&runs).await.ename(), Some("Interrupted"));
    let ended = client.finish(&waits).await;
    assert!(matches!(ended.reply.status, ReplyStatus::Aborted));
    // The language is told last, on a thread of its own.
    while kernel.language.interrupts.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_between_cells_stops_none() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    client.control(InterruptRequest {}).await;
    let runs = client.send(cell("out runs\nwait")).await;
    assert_eq!(client.output(&runs).await, "runs");
    client.control(InterruptRequest {}).await;
    assert_eq!(client.finish(&runs).await.ename(), Some("Interrupted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_is_answered_and_ends_the_kernel_and_its_language() {
    for restart in [false, true] {
        let kernel = Kernel::start().await;
        let mut client = kernel.client().await;
        let reply = client.control(ShutdownRequest { restart }).await;
        assert!(
            matches!(reply, JupyterMessageContent::ShutdownReply(reply) if reply.restart == restart)
        );
        // All other clients learn of it.
        while client.iopub.read().await.unwrap().content.message_type() != "shutdown_reply" {}
        let language = kernel.ended().await;
        assert_eq!(language.shutdowns.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_does_not_wait_for_the_cell_that_runs() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let runs = client.send(cell("out runs\nask end?")).await;
    assert_eq!(client.output(&runs).await, "runs");
    client.control(ShutdownRequest { restart: false }).await;
    kernel.ended().await;
}
