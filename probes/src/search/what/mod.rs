//! Meaning of an address: from its region of the address space down to the object that it is a part of.
//!
//! ```no_run
//! # use probes::Guest;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! let task = guest.task(1)?;
//! println!("{}", guest.what(task.at.offset(8))?.brief());
//! # Ok(())
//! # }
//! ```

mod about;
mod identify;
mod known;
mod number;
mod region;
mod view;

pub use identify::Identifier;
pub use region::Region;
pub(crate) use region::regions;

use serde::Serialize;

use crate::guest::Guest;
use crate::kernel::SymbolAt;
use crate::memory::{GuestPhys, GuestVirt};
use crate::mm::page::Page;
use crate::mm::slab::SlabObject;
use crate::mm::vmalloc::VmallocArea;
use crate::{Missing, Result};

/// Something that an address lies in. Each is a part of the one before it, or another name for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Thing {
    /// No address but a number that stands in place of one: an error (`ERR_PTR`), or what the kernel poisons pointers and
    /// freed memory with.
    Number(String),
    /// A symbol of the kernel's or a module's.
    Symbol {
        /// The symbol.
        #[serde(flatten)]
        symbol: SymbolAt,
        /// The member, of a variable whose type is known.
        member: Option<String>,
    },
    /// A module's memory, where no symbol is.
    Module(String),
    /// Another address of the kernel's for the same memory; what follows lies at that.
    Alias(GuestVirt),
    /// A per-CPU variable, or what was allocated as one.
    PerCpu {
        /// Number of the CPU.
        cpu: u32,
        /// The variable; `None` for what was allocated while the kernel runs.
        symbol: Option<SymbolAt>,
        /// The member, of a variable whose type is known.
        member: Option<String>,
        /// Offset in the CPU's area, in bytes.
        offset: u64,
    },
    /// The kernel stack of a task.
    Stack {
        /// The task; 0 for the idle task of a CPU.
        pid: i32,
        /// Its name.
        comm: String,
        /// The lowest address of the stack.
        start: GuestVirt,
        /// The address after the highest.
        end: GuestVirt,
    },
    /// An area of the vmalloc space.
    Vmalloc(VmallocArea),
    /// The `struct page` of this page frame, and the member of it.
    StructPage {
        /// The frame.
        pfn: u64,
        /// The member.
        member: Option<String>,
    },
    /// A page frame.
    Page(Box<Page>),
    /// An object of a slab.
    Slab {
        /// The object.
        #[serde(flatten)]
        object: SlabObject,
        /// The member, where the cache's type is known.
        member: Option<String>,
        /// Identity of the object: `1 (init)` of a `task_struct`, a path of a `file`.
        about: Option<String>,
    },
    /// A mapping of a process.
    Vma {
        /// The process.
        pid: i32,
        /// Its name.
        comm: String,
        /// Its first address.
        start: GuestVirt,
        /// The address after its last.
        end: GuestVirt,
        /// Its rights: `r-xp`.
        perms: String,
        /// The file's path, or a name in brackets, or nothing.
        name: String,
        /// Offset in the file, in bytes.
        offset: Option<u64>,
    },
    /// A page that was swapped out.
    Swapped {
        /// The swap area's path.
        path: String,
        /// Number of the slot in it.
        slot: u64,
    },
}

/// Meaning of an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct What {
    /// The address.
    pub at: GuestVirt,
    /// The process whose address it is; `None` for the kernel's.
    pub pid: Option<i32>,
    /// The part of the address space that it is in.
    pub region: Region,
    /// The physical address behind it; `None` where nothing is mapped.
    pub phys: Option<GuestPhys>,
    /// Its mapping, or the end of the walk through the page tables.
    pub mapped: String,
    /// The things that it lies in, from the whole to the part.
    pub things: Vec<Thing>,
    /// Parts that could not be read, and may have told more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// Finds what is at an address of a process.
pub(crate) fn what_of(guest: &Guest, pid: i32, at: GuestVirt) -> Result<What> {
    Identifier::new(guest)?.what_of(pid, at)
}

/// Finds what is at an address of the kernel.
pub(crate) fn what(guest: &Guest, at: GuestVirt) -> Result<What> {
    Identifier::new(guest)?.what(at)
}
