//! Everything that can go wrong when a guest is read, one sentence each.

use crate::memory::{GuestPhys, GuestVirt};

/// A result of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with the address, the length and where was looked.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A physical range that no RAM of the guest holds.
    #[error("{len} bytes at physical {at} are not in the guest's RAM")]
    NotRam {
        /// First byte asked for.
        at: GuestPhys,
        /// Bytes asked for.
        len: usize,
    },
    /// A virtual address without a translation.
    #[error("{at} is not mapped: the {level} entry is {entry:#x}")]
    NotMapped {
        /// The address asked for.
        at: GuestVirt,
        /// The page-table level at which the walk ended, as the kernel names it (`pgd`, `p4d`, `pud`, `pmd`, `pte`).
        level: &'static str,
        /// The entry found there.
        entry: u64,
    },
    /// An address whose upper bits are not copies of its highest translated bit.
    #[error("{at} is not an address: its upper bits must repeat bit {}", .bits - 1)]
    NotCanonical {
        /// The address asked for.
        at: GuestVirt,
        /// Bits that the page tables translate: 48 or 57.
        bits: u32,
    },
    /// The memory is no kernel that this library can read.
    #[error("no kernel found: {0}")]
    NoKernel(String),
    /// Something of the guest's own tables is malformed.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// The table: `BTF`, `kallsyms`, `VMCOREINFO`, ..
        what: &'static str,
        /// What is wrong with it, where.
        why: String,
    },
    /// A symbol that the kernel does not have.
    #[error("{release} has no symbol `{name}`{hint}")]
    NoSymbol {
        /// The name asked for.
        name: String,
        /// The kernel's release.
        release: String,
        /// Empty, or `; did you mean ...?`.
        hint: String,
    },
    /// A type that the kernel does not have.
    #[error("{release} has no type `{name}`{hint}")]
    NoType {
        /// The name asked for, in C.
        name: String,
        /// The kernel's release.
        release: String,
        /// Empty, or `; did you mean ...?`.
        hint: String,
    },
    /// A member that a structure does not have in this kernel.
    #[error("{ty} has no member `{member}` in {release}{hint}")]
    NoMember {
        /// The structure, in C.
        ty: String,
        /// The member asked for.
        member: String,
        /// The kernel's release.
        release: String,
        /// Empty, or `; did you mean ...?`.
        hint: String,
    },
    /// A walk that met its bound.
    #[error(
        "{what} at {at} has more than {bound} entries: a loop, or memory that changes under the walk"
    )]
    TooLong {
        /// The walk: `list`, `maple tree`, ..
        what: &'static str,
        /// Where it began.
        at: GuestVirt,
        /// The bound.
        bound: usize,
    },
    /// A structure whose invariant does not hold.
    #[error("{what} is broken at {at}: {why}")]
    Broken {
        /// The structure: `list`, `rbtree`, ..
        what: &'static str,
        /// The node that is wrong.
        at: GuestVirt,
        /// What is wrong with it.
        why: String,
    },
    /// The memory changed while it was read, each time it was tried.
    #[error(
        "{what} changed while it was read ({tries} tries): use guest.paused(|guest| ..) for a still guest"
    )]
    Torn {
        /// What was read.
        what: String,
        /// How often.
        tries: u32,
    },
    /// A C expression that does not parse or does not fit its types.
    #[error("{message}\n  {source_text}\n  {caret:>width$}", caret = '^', width = .column + 1)]
    Expression {
        /// What is wrong.
        message: String,
        /// The expression.
        source_text: String,
        /// Where, in characters from 0.
        column: usize,
    },
    /// Something that is not there, said in one sentence with its cure.
    #[error("{0}")]
    Other(String),
    /// The machine: QEMU, its sockets, its agent.
    #[error("{0}")]
    Machine(String),
}

impl From<vm::agent::Error> for Error {
    fn from(error: vm::agent::Error) -> Self {
        Self::Machine(error.to_string())
    }
}

impl From<vm::Error> for Error {
    fn from(error: vm::Error) -> Self {
        Self::Machine(error.to_string())
    }
}
