//! Objects of values that a register had, or that were named by a caller: what a stopped CPU gives.

use std::sync::Arc;

use super::ctype::{CType, Form, ULONG};
use super::cursor::Object;
use crate::Result;
use crate::kernel::Kernel;
use crate::kernel::btf::{Btf, TypeId};
use crate::memory::GuestVirt;

impl Object {
    /// The value of a type in a general register, of which the bits above the type's size say nothing. A structure that is passed in
    /// a register has no address: it is its bytes as an `unsigned long`.
    ///
    /// # Errors
    /// When the kernel's BTF cannot be read.
    pub fn of_register(kernel: &Kernel, btf: &Arc<Btf>, ty: TypeId, word: u64) -> Result<Self> {
        let ty = CType::of(btf, ty);
        Ok(match ty.form()? {
            Form::Int(int) => {
                let unused = 64 - 8 * u32::from(int.size.clamp(1, 8));
                Self::value(kernel, ty, int.wrap(word & (u64::MAX >> unused)))
            }
            Form::Pointer(_) => Self::value(kernel, ty, word),
            _ => Self::value(kernel, CType::built_in(btf, &ULONG), word),
        })
    }

    /// The word of a general register as an `unsigned long`: of which nothing more is known.
    ///
    /// # Errors
    /// When the kernel's BTF cannot be read.
    pub fn of_register_word(kernel: &Kernel, word: u64) -> Result<Self> {
        Ok(Self::value(
            kernel,
            CType::built_in(kernel.btf()?, &ULONG),
            word,
        ))
    }

    /// The object in memory at `at`, of a type of a BTF.
    pub fn of_type(kernel: &Kernel, btf: &Arc<Btf>, ty: TypeId, at: GuestVirt) -> Self {
        Self::in_memory(kernel, CType::of(btf, ty), at)
    }

    /// A pointer to what lies at `at`, of a C type.
    ///
    /// # Errors
    /// `Absent` where the kernel has no such type; `Invalid` for what is no type.
    pub fn pointer_to(kernel: &Kernel, c_type: &str, at: GuestVirt) -> Result<Self> {
        Ok(Self::value(kernel, kernel.c_type(c_type)?.pointer(), at.0))
    }
}
