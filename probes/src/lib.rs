//! Typed, live access to the memory of a Linux kernel that runs in QEMU.
//!
//! The layers, each knowing only those above it in this list: [`memory`], [`kernel`], [`object`],
//! [`structures`], one module a subsystem, [`view`].
//!
//! The guest is hostile input: every read is checked, every walk is bounded.

// `#[derive(Mirror)]` names this crate, here too.
extern crate self as probes;

pub mod audit;
pub mod bpf;
pub mod cell;
pub mod cgroup;
pub mod debug;
pub mod device;
pub mod drgn;
pub mod dump;
pub mod error;
pub mod exec;
pub mod exercise;
pub mod filemap;
pub mod fs;
pub mod guest;
mod guest_text;
pub mod hugetlb;
pub mod init;
pub mod initcall;
pub mod irq;
pub mod kernel;
mod listing;
pub mod locking;
pub mod meminfo;
pub mod memory;
pub mod mm;
pub mod mmzone;
pub mod module;
pub mod net;
pub mod netfilter;
pub mod object;
pub mod packet_type;
pub mod page;
pub mod prelude;
pub mod printk;
pub mod process;
pub mod rcu;
pub mod readers;
pub mod sched;
pub mod search;
pub mod security;
pub mod skb;
pub mod slab;
pub mod structures;
pub mod swap;
pub mod text;
pub mod time;
pub mod trace;
pub mod traffic;
pub mod unwind;
pub mod view;
pub mod vmalloc;
pub mod vmstat;
pub mod what;
pub mod workqueue;

pub use error::{Error, ErrorKind, Of, Result};
pub use guest::Guest;
pub use guest_text::{bytes_of, text_of};
pub use listing::{Listing, Missing};
