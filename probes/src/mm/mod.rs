//! Address spaces: `mm_struct`, its mappings, and the pages behind them (`include/linux/mm_types.h`, `mm/mmap.c`,
//! `fs/proc/task_mmu.c`).
//!
//! A mapping is read whole or read again, and must lie where the tree says; what keeps changing is
//! [`Error::Torn`]. The picture of one instant needs a paused guest.

mod counter;
pub mod filemap;
mod heap;
pub mod hugetlb;
pub mod meminfo;
mod mm_struct;
pub mod mmzone;
pub mod page;
pub mod slab;
pub mod swap;
mod view;
mod vma;
pub mod vmalloc;
pub mod vmstat;

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
use crate::object::{FixedStr, Mirror};
use crate::sched::{PF_KTHREAD, Task, find_task_by_pid, no_task};
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
    ///
    /// # Errors
    /// `Absent` if there is no such task, it has exited, or it is a kernel thread; `Unmapped` if its `mm_struct` is not
    /// in RAM.
    pub fn mm(&self, pid: i32) -> Result<MmStruct> {
        self.owner(pid)?.mm(&self.kernel()?)
    }

    /// Finds what a task's address space is found by, and no more: that its parent or credentials are damaged does not
    /// hide its memory.
    fn owner(&self, pid: i32) -> Result<Owner> {
        let kernel = self.kernel()?;
        let at = find_task_by_pid(&kernel, pid)?.ok_or_else(|| no_task(pid))?;
        kernel
            .load(at)
            .of(|| format!("the task_struct {at} of {pid}"))
    }

    /// The address space of a task.
    ///
    /// # Errors
    /// As [`mm`](Self::mm).
    pub fn mm_of(&self, task: &Task) -> Result<MmStruct> {
        self.kernel()?.load::<Owner>(task.at)?.mm(&self.kernel()?)
    }

    /// The mappings of a task.
    ///
    /// # Errors
    /// As [`mm`](Self::mm); `Torn` if the mappings keep changing; `Broken` if their tree is damaged.
    pub fn vmas_of(&self, task: &Task) -> Result<Vmas> {
        vma::read(&self.kernel()?, &self.mm_of(task)?)
    }

    /// The address space of a process, to read its memory by.
    ///
    /// # Errors
    /// As [`mm`](Self::mm); `Unmapped` if its `pgd` is not mapped.
    pub fn user_space(&self, pid: i32) -> Result<AddressSpace> {
        user_space_of(&self.kernel()?, &self.mm(pid)?)
    }
}

/// The walk of a process's page tables for an address, level by level.
pub(crate) fn page_walk_of(guest: &Guest, pid: i32, at: GuestVirt) -> Result<PageWalk> {
    guest.user_space(pid)?.walk(at)
}

/// The walk of the kernel's own page tables for an address, level by level.
pub(crate) fn page_walk(kernel: &Kernel, at: GuestVirt) -> Result<PageWalk> {
    kernel.space().walk(at)
}

/// The mappings of the process that `pid` belongs to, ascending: `/proc/PID/maps`, with resident pages.
pub(crate) fn vmas(guest: &Guest, pid: i32) -> Result<Vmas> {
    vma::read(&guest.kernel()?, &guest.mm(pid)?)
}

/// An address space with all its mappings, ready to be drawn.
pub(crate) fn address_map(guest: &Guest, pid: i32) -> Result<AddressMap> {
    let (kernel, owner) = (guest.kernel()?, guest.owner(pid)?);
    let mm = owner.mm(&kernel)?;
    let vmas = vma::read(&kernel, &mm)?;
    Ok(AddressMap {
        pid: owner.tgid,
        comm: owner.comm.to_str().into_owned(),
        mm,
        vmas,
    })
}

/// A task as the owner of an address space.
#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct Owner {
    pid: i32,
    tgid: i32,
    comm: FixedStr<16>,
    flags: u64,
    mm: GuestVirt,
}

impl Owner {
    fn mm(&self, kernel: &Kernel) -> Result<MmStruct> {
        let (pid, comm, mm) = (self.pid, self.comm.to_str(), self.mm);
        if mm.is_null() {
            let what = match self.flags & PF_KTHREAD {
                0 => "a process that has exited",
                _ => "a kernel thread",
            };
            return Err(Error::Absent(format!(
                "task {pid} ({comm}) is {what}: it has no address space"
            )));
        }
        MmStruct::read(kernel, mm).of(|| format!("task {pid} ({comm}), its mm {mm}"))
    }
}

fn user_space_of(kernel: &Kernel, mm: &MmStruct) -> Result<AddressSpace> {
    let root = kernel.virt_to_phys(mm.pgd);
    let root = root.of(|| format!("the pgd {} of the mm_struct {}", mm.pgd, mm.at))?;
    Ok(kernel.space().with_root(root))
}
