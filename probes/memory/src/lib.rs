//! Typed access to the memory of a Linux kernel, without debug information and without a file of the kernel: physical
//! memory of a live guest or of a dump ([`memory`]), the kernel found in it with its symbols and BTF types ([`kernel`]),
//! objects with members and C expressions ([`object`]), and the kernel's containers ([`structures`]).
//!
//! It knows no machine: nothing here starts, pauses or asks a QEMU. `examples/` has what a program of its own looks like.
//!
//! The memory is hostile input: every read is checked, every walk is bounded.

// `#[derive(Mirror)]` names the crate `probes`, here too.
extern crate self as probes;

pub mod base;
pub mod cell;
pub mod kernel;
pub mod memory;
pub mod object;
pub mod structures;
pub mod view;

pub use base::{
    Error, ErrorKind, HasPid, Listing, Missing, Named, Of, Result, Span, bytes_of, error, text_of,
};
