//! Typed, live access to the memory of a Linux kernel that runs in QEMU.
//!
//! The layers, each knowing only those before it in this list: [`view`], [`memory`], [`kernel`], [`object`],
//! [`structures`], [`guest`], one module a subsystem.
//!
//! The guest is hostile input: every read is checked, every walk is bounded.

// `#[derive(Mirror)]` names this crate, here too.
extern crate self as probes;

#[cfg(test)]
mod arrows;
pub mod change;
mod core;
pub mod debug;
pub mod drgn;
mod drivers;
pub mod fs;
pub mod ftrace;
pub mod guest;
mod kmod;
pub mod mm;
pub mod net;
pub mod prelude;
pub mod process;
pub mod readers;
pub mod sched;
pub mod search;
pub mod security;
pub mod skb;
pub mod traffic;
pub mod unwind;
pub mod why;

pub use guest::Guest;
use klab_memory::base;
pub use klab_memory::{
    Error, ErrorKind, HasPid, Listing, Missing, Named, Of, Result, Span, bytes_of, cell, displays,
    error, faces, kernel, lists, memory, object, structures, text_of, view,
};

// Public paths do not name the rooms, which follow the kernel's source tree.
pub use crate::core::{
    audit, bpf, init, initcall, irq, locking, module, printk, rcu, time, trace, workqueue,
};
pub use cell::exercise;
pub use drivers::device;
pub use guest::dump;
pub use mm::{filemap, hugetlb, meminfo, mmzone, page, slab, swap, vmalloc, vmstat};
pub use net::{netfilter, packet_type};
pub use process::exec;
pub use sched::cgroup;
pub use search::what;
pub use unwind::text;
