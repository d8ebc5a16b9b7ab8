//! What is known of a machine without asking it: where its RAM is ([`Memory`]) and the registers of its CPUs
//! ([`Registers`]). Who runs machines and who reads their memory both know these, and need not know each other.

mod memory;
mod registers;

pub use memory::{Behind, Memory, ProcessPart, ProcessRam, RamFile, RamRange};
pub use registers::Registers;

/// Marks the errors of a machine: of QEMU, its sockets, its agent. Who reads memory takes them for faults of the source,
/// never for a verdict on what is read.
pub trait MachineError: std::error::Error + Send + Sync + 'static {}
