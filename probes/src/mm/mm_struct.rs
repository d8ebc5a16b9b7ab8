//! `struct mm_struct`: one address space.

use serde::Serialize;

use super::Rss;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::{Missing, Result};

/// An address space. Addresses are the process's own; counts are in pages where the kernel counts pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MmStruct {
    /// Address of the `struct mm_struct`.
    pub at: GuestVirt,
    /// Its members.
    #[serde(flatten)]
    pub fields: MmFields,
    /// `rss_stat`.
    pub rss: Rss,
    /// Parts of it that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// The members of `mm_struct` that are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Mirror)]
#[mirror(c = "struct mm_struct")]
pub struct MmFields {
    /// Start of the program's code: `start_code`.
    pub start_code: GuestVirt,
    /// End of the program's code: `end_code`.
    pub end_code: GuestVirt,
    /// Start of its initialised data: `start_data`.
    pub start_data: GuestVirt,
    /// End of its initialised data: `end_data`.
    pub end_data: GuestVirt,
    /// Start of the heap: `start_brk`.
    pub start_brk: GuestVirt,
    /// End of the heap now, the program break: `brk`.
    pub brk: GuestVirt,
    /// Stack pointer that the program started with: `start_stack`.
    pub start_stack: GuestVirt,
    /// The arguments of the program.
    pub arg_start: GuestVirt,
    /// Their end.
    pub arg_end: GuestVirt,
    /// The environment of the program.
    pub env_start: GuestVirt,
    /// Its end.
    pub env_end: GuestVirt,
    /// Address below which `mmap` looks for room: `mmap_base`.
    pub mmap_base: GuestVirt,
    /// `TASK_SIZE`: the end of the addresses that the process may map.
    pub task_size: GuestVirt,
    /// The root of its page tables, in the kernel's addresses.
    pub pgd: GuestVirt,
    /// Number of mappings.
    pub map_count: i32,
    /// Tasks that use it.
    #[mirror(member = "mm_users.counter")]
    pub mm_users: i32,
    /// References to the structure itself; all users count as one.
    #[mirror(member = "mm_count.counter")]
    pub mm_count: i32,
    /// Pages mapped.
    pub total_vm: u64,
    /// Pages locked.
    pub locked_vm: u64,
    /// Pages pinned.
    #[mirror(member = "pinned_vm.counter")]
    pub pinned_vm: u64,
    /// Pages of private writable mappings that are no stack.
    pub data_vm: u64,
    /// Pages of executable mappings.
    pub exec_vm: u64,
    /// Pages of stacks.
    pub stack_vm: u64,
    /// The most resident pages so far, as last noted.
    pub hiwater_rss: u64,
    /// The most pages mapped so far, as last noted.
    pub hiwater_vm: u64,
    /// Bytes of page tables.
    #[mirror(member = "pgtables_bytes.counter")]
    pub pgtables_bytes: u64,
    /// The `file` of the program.
    pub exe_file: GuestVirt,
}

impl MmStruct {
    /// Reads the `mm_struct` at an address.
    ///
    /// # Errors
    /// `Unmapped` if it is not in RAM; `Absent` if BTF lacks a member.
    pub fn read(kernel: &Kernel, at: GuestVirt) -> Result<Self> {
        let mut missing = Vec::new();
        Ok(Self {
            at,
            fields: kernel.load(at)?,
            rss: Rss::read(kernel, at, &mut missing)?,
            missing,
        })
    }
}

impl std::ops::Deref for MmStruct {
    type Target = MmFields;

    fn deref(&self) -> &MmFields {
        &self.fields
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// An address space of 47 bits in which nothing is anywhere.
    pub(crate) fn mm() -> MmStruct {
        let at = GuestVirt(0);
        let fields = MmFields {
            start_code: at,
            end_code: at,
            start_data: at,
            end_data: at,
            start_brk: at,
            brk: at,
            start_stack: at,
            arg_start: at,
            arg_end: at,
            env_start: at,
            env_end: at,
            mmap_base: at,
            task_size: GuestVirt((1 << 47) - 0x1000),
            pgd: at,
            map_count: 0,
            mm_users: 1,
            mm_count: 1,
            total_vm: 0,
            locked_vm: 0,
            pinned_vm: 0,
            data_vm: 0,
            exec_vm: 0,
            stack_vm: 0,
            hiwater_rss: 0,
            hiwater_vm: 0,
            pgtables_bytes: 0,
            exe_file: at,
        };
        MmStruct {
            at,
            fields,
            rss: Rss::default(),
            missing: Vec::new(),
        }
    }
}
