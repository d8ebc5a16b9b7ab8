//! Messages that no good client sends: the kernel lives on, and its clients with it.

use std::io::Write;
use std::os::unix::net::UnixStream;

use jupyter_protocol::JupyterMessage;
use jupyter_protocol::messaging::KernelInfoRequest;
use jupyter_zmq_client as zmq;
use zeromq::{SocketSend, ZmqMessage};

use super::Kernel;
use super::client::cell;

/// A message of these parts.
fn message(parts: &[&str]) -> ZmqMessage {
    let mut message = ZmqMessage::from(parts[0].to_owned());
    for part in &parts[1..] {
        message.push_back(part.to_string().into());
    }
    message
}

/// A message with this for its signature.
fn signed(signature: &str, [header, parent, metadata, content]: [&str; 4]) -> ZmqMessage {
    message(&["<IDS|MSG>", signature, header, parent, metadata, content])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_is_passed_over() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let good = ["{}", "{}", "{}", "{}"];
    let bad = [
        message(&["no parts"]),
        message(&["<IDS|MSG>"]),
        message(&["<IDS|MSG>", "00", "{}"]),
        signed("", good),
        signed("not hexadecimal", good),
        signed(&"00".repeat(32), good),
    ];
    for message in bad {
        client.shell.socket.send(message.clone()).await.unwrap();
        client.control.socket.send(message.clone()).await.unwrap();
        client.stdin.socket.send(message).await.unwrap();
    }
    client.control(KernelInfoRequest {}).await;
    assert_eq!(client.run(cell("out on")).await.stdout(), "on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_with_another_key_is_not_run() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    let mut thief = kernel.connection.clone();
    thief.key = "guessed".to_owned();
    let mut thief = zmq::create_client_control_connection(&thief, "thief")
        .await
        .unwrap();
    let shutdown = jupyter_protocol::messaging::ShutdownRequest { restart: false };
    let stolen = JupyterMessage::new(shutdown, None);
    thief.send(stolen).await.unwrap();
    assert_eq!(client.run(cell("out on")).await.stdout(), "on");
    client.shell = zmq::Connection::new(client.shell.socket, "guessed", "thief");
    client.send(cell("out stolen")).await;
    client.shell = zmq::Connection::new(client.shell.socket, &kernel.connection.key, "thief");
    assert_eq!(client.run(cell("out still on")).await.stdout(), "still on");
    let ran = kernel.language.ran.lock().unwrap().clone();
    assert_eq!(ran, ["out on", "out still on"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_nonsense_is_passed_over() {
    // Without a key every signature is right.
    let kernel = Kernel::with_key("").await;
    let mut client = kernel.client().await;
    let header = |kind: &str| {
        let mut message = JupyterMessage::new(KernelInfoRequest {}, None);
        message.header.msg_type = kind.to_owned();
        serde_json::to_string(&message.header).unwrap()
    };
    let [execute, unknown] = [header("execute_request"), header("no_such_request")];
    for nonsense in [
        ["", "", "", ""],
        ["{}", "{}", "{}", "{}"],
        [&execute, "{}", "{}", "{"],
        [&execute, "{}", "{}", "[1]"],
        [&execute, "{}", "{}", "{\"code\": 7}"],
        [&execute, "\u{0}", "[]", "{}"],
        [&unknown, "{}", "{}", "{}"],
    ] {
        let message = signed("", nonsense);
        client.shell.socket.send(message.clone()).await.unwrap();
        client.control.socket.send(message).await.unwrap();
    }
    assert_eq!(client.run(cell("out on")).await.stdout(), "on");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_zmq_end_their_connection_alone() {
    let kernel = Kernel::start().await;
    let mut client = kernel.client().await;
    for port in 1..=5 {
        let socket = format!("{}-{port}", kernel.connection.ip);
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0], &[]] {
            let mut stream = UnixStream::connect(&socket).unwrap();
            // The kernel may have hung up already.
            let _ = stream.write_all(bytes);
        }
    }
    assert_eq!(client.run(cell("out on")).await.stdout(), "on");
    let mut late = kernel.client().await;
    late.control(KernelInfoRequest {}).await;
    assert_eq!(late.run(cell("out on")).await.stdout(), "on");
}
