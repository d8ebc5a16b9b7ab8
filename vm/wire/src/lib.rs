//! What the host and the guest's agent say to each other: bounded frames ([`frame`]), the messages in
//! them ([`Request`], [`Reply`]) and the values of `/proc` that they carry ([`proc`]).
//!
//! This crate does no I/O: both ends feed it bytes. The bytes may come from a hostile peer, so no
//! input panics, and none makes a decoder hold more than one frame of [`frame::MAX_FRAME`] bytes.

pub mod frame;
mod message;
pub mod proc;
mod workload;

pub use message::{
    Answer, Ask, CHUNK, Exit, Hello, HelloReply, MAX_FEEDS, MAX_IOCTL, MAX_PAGES, MAX_STDIN,
    ProcPart, ProcQuery, Reply, Request, Run, Stream,
};
pub use workload::{Made, SocketKind, WorkloadInfo, WorkloadKind};

/// The name of port `n` in the guest, under `/sys/class/virtio-ports/*/name`.
pub fn port_name(n: usize) -> String {
    format!("klab.{n}")
}

/// How many ports a guest has, so how many clients it serves at once.
pub const PORTS: usize = 8;
