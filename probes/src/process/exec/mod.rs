//! Programs as they lie in a process's memory: what the kernel told the program when it started it, the ELF files that are
//! mapped, the vDSO (`fs/binfmt_elf.c`, `arch/x86/entry/vdso`).
//!
//! ```no_run
//! # use probes::Guest;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! for entry in &guest.auxv(1)?.entries {
//!     println!("{} {:#x}", entry.name, entry.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! All of it is read from the process's own pages. A page that is not in RAM leaves a gap, which is said.

mod auxv;
mod dynamic;
mod elf;
mod view;

pub(crate) use elf::vdso;

pub(crate) use elf::elf_images;

pub(crate) use auxv::auxv;

pub use auxv::{AuxEntry, Auxv};
pub use dynamic::{Dynamic, ElfFunction, ElfSymbol};
pub use elf::{CodeMapping, ElfImage, ElfImages, ElfSection, ElfSegment, Vdso};
