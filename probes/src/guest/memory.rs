//! The memory of a machine.

use std::sync::Arc;

use klab_facts::Memory;
use vm::Machine;

use super::gdbstub::GdbMemory;
use crate::Result;
use crate::memory::{MixedMemory, PhysMemory, ProcessMemory, RamFile};

/// The memory of a machine, by the way that its record says.
///
/// # Errors
/// When it cannot be mapped or opened.
pub fn of_machine(machine: &Machine) -> Result<Arc<dyn PhysMemory>> {
    Ok(match machine.memory() {
        Memory::Files(files) => Arc::new(RamFile::open_all(&files)?),
        Memory::Process { files, process } => {
            let process = ProcessMemory::open(&process)?;
            if files.is_empty() {
                Arc::new(process)
            } else {
                Arc::new(MixedMemory::new(RamFile::open_all(&files)?, process)?)
            }
        }
        Memory::Gdb { ranges, .. } => Arc::new(GdbMemory::new(machine.clone(), &ranges)),
    })
}
