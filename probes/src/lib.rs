//! Typed, live access to the memory of a Linux kernel that runs in QEMU.
//!
//! The layers, each knowing only those above it in this list: [`memory`], [`kernel`], [`object`],
//! [`structures`], one module a subsystem, [`view`].
//!
//! The guest is hostile input: every read is checked, every walk is bounded.

// `#[derive(Mirror)]` names this crate, here too.
extern crate self as probes;

pub mod cell;
pub mod cgroup;
pub mod drgn;
pub mod error;
pub mod exec;
pub mod exercise;
pub mod fs;
pub mod guest;
pub mod kernel;
pub mod locking;
pub mod memory;
pub mod mm;
pub mod module;
pub mod net;
pub mod netfilter;
pub mod object;
pub mod packet_type;
pub mod prelude;
pub mod printk;
pub mod process;
pub mod sched;
pub mod skb;
pub mod structures;
pub mod text;
pub mod traffic;
pub mod unwind;
pub mod view;

pub use error::{Error, Result};
pub use guest::Guest;
