//! One machine: a kernel, its initramfs, QEMU with its sockets and RAM file, its ready state.
//!
//! Nothing here knows a kernel structure: it moves bytes and processes.

mod accel;
mod address;
mod adopt;
pub mod agent;
mod debugger;
mod error;
mod folder;
mod gdb;
mod halt;
mod holder;
pub mod initramfs;
pub mod kernels;
mod launch;
mod lease;
mod machine;
mod mappings;
mod nic;
pub mod paths;
mod process;
mod progress;
mod qcow2;
mod qemu;
mod qmp;
mod ram;
mod registers;
mod rsp;
mod snapshot;
mod sparse;
mod status;
mod temporary;
pub mod toolchain;
mod unix;
mod userfile;
mod written;

pub use debugger::{Debugger, Stop};
pub use error::{Error, Result};
pub use gdb::Gdb;
pub use halt::{Halt, Pauser, Why};
pub use kernels::{Kernel, KernelChoice};
pub use klab_facts::{Behind, Memory, ProcessPart, ProcessRam, RamFile, RamRange, Registers};
pub use launch::Owner;
pub use lease::Hold;
pub use machine::{Machine, Options, Position, Recording, Replay, Snapshot, Start};
pub use nic::{Cable, GUEST_MAC, MAX_FRAME};
pub use progress::{Progress, Silent};
pub use qemu::Accel;
pub use status::{State, Status};
pub use userfile::UserFile;
pub use written::Part;
