//! Messages between the host and the guest's agent: bounded frames ([`frame`]), the messages in
//! them ([`Request`], [`Reply`]) and the values of `/proc` that they carry ([`proc`]).
//!
//! This crate does no I/O: both ends feed it bytes. The bytes may come from a hostile peer, so no
//! input panics, and none makes a decoder hold more than one frame of [`frame::MAX_FRAME`] bytes.

pub mod frame;
mod message;
pub mod proc;
mod workload;

use std::time::Duration;

pub use message::{
    Answer, Ask, CHUNK, Exit, Hello, HelloReply, MAX_FEEDS, MAX_IOCTL, MAX_PAGES, MAX_STDIN,
    ProcPart, ProcQuery, Reply, Request, Run, Stream,
};
pub use workload::{Made, SocketKind, WorkloadInfo, WorkloadKind};

/// The name of port `n` in the guest, under `/sys/class/virtio-ports/*/name`.
pub fn port_name(n: usize) -> String {
    format!("klab.{n}")
}

/// The word of the kernel's command line that names the serial line (`ttyS1`) of a guest that has no ports.
pub const LINE: &str = "klab.line=";

/// Bytes that may be under way over a serial line: what its UART (a 16550A) holds. QEMU does not see when that is full while it
/// records, and the rest would be lost.
pub const LINE_ROOM: usize = 16;
/// A serial line that is quiet for so long has ended a frame, whole or not.
pub const LINE_QUIET: Duration = Duration::from_secs(1);

/// Number of ports of a guest, so of clients that it serves at once.
pub const PORTS: usize = 8;
