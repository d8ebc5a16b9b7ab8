//! Address spaces: `mm_struct`, its mappings, and the pages behind them (`include/linux/mm_types.h`, `mm/mmap.c`,
//! `fs/proc/task_mmu.c`).
//!
//! A mapping is read whole or read again, and must lie where the tree says; what keeps changing is
//! [`Error::Torn`](crate::Error::Torn). The picture of one instant needs a paused guest.

mod counter;
mod heap;
mod mm_struct;
mod vma;

pub use counter::{Rss, RssCounter};
pub use heap::Heap;
pub use mm_struct::{MmFields, MmStruct};
pub use vma::{Vma, VmaKind, Vmas};

#[cfg(test)]
pub(crate) mod testing {
    pub(crate) use super::mm_struct::testing::mm;
    pub(crate) use super::vma::testing::vma;
}

use serde::Serialize;

use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::{AddressSpace, GuestVirt, PageWalk};
use crate::sched::Task;
use crate::{Error, Of as _, Result};

/// An address space with its owner and mappings: what [`Guest::address_map`] reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AddressMap {
    /// Its process.
    pub pid: i32,
    /// Its process's name.
    pub comm: String,
    /// The `mm_struct`.
    pub mm: MmStruct,
    /// All mappings, ascending.
    pub vmas: Vmas,
}

impl Guest {
    /// The address space of the process that `pid` belongs to. A kernel thread has none.
    pub fn mm(&self, pid: i32) -> Result<MmStruct> {
        self.mm_of(&self.task(pid)?)
    }

    /// The address space of a task.
    pub fn mm_of(&self, task: &Task) -> Result<MmStruct> {
        let at = mm_at(task)?;
        MmStruct::read(&self.kernel()?, at)
            .of(|| format!("task {} ({}), its mm {at}", task.pid, task.comm))
    }

    /// The mappings of the process that `pid` belongs to, ascending: `/proc/PID/maps`, with resident pages.
    pub fn vmas(&self, pid: i32) -> Result<Vmas> {
        self.vmas_of(&self.task(pid)?)
    }

    /// The mappings of a task.
    pub fn vmas_of(&self, task: &Task) -> Result<Vmas> {
        vma::read(&self.kernel()?, &self.mm_of(task)?)
    }

    /// An address space with all its mappings, ready to be drawn.
    pub fn address_map(&self, pid: i32) -> Result<AddressMap> {
        let task = self.task(pid)?;
        let mm = self.mm_of(&task)?;
        let vmas = vma::read(&self.kernel()?, &mm)?;
        Ok(AddressMap {
            pid: task.tgid,
            comm: task.comm,
            mm,
            vmas,
        })
    }

    /// The address space of a process, to read its memory by.
    pub fn user_space(&self, pid: i32) -> Result<AddressSpace> {
        user_space_of(&self.kernel()?, &self.mm(pid)?)
    }

    /// The walk of the kernel's own page tables for an address, level by level.
    pub fn page_walk(&self, at: GuestVirt) -> Result<PageWalk> {
        self.kernel()?.space().walk(at)
    }

    /// The walk of a process's page tables for an address, level by level.
    pub fn page_walk_of(&self, pid: i32, at: GuestVirt) -> Result<PageWalk> {
        self.user_space(pid)?.walk(at)
    }
}

fn mm_at(task: &Task) -> Result<GuestVirt> {
    task.mm.ok_or_else(|| {
        let what = if task.kthread {
            "a kernel thread"
        } else {
            "a process that has exited"
        };
        Error::Absent(format!(
            "task {} ({}) is {what}: it has no address space",
            task.pid, task.comm
        ))
    })
}

fn user_space_of(kernel: &Kernel, mm: &MmStruct) -> Result<AddressSpace> {
    Ok(kernel.space().with_root(kernel.virt_to_phys(mm.pgd)?))
}
