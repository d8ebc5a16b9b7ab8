//! Tells whether a kernel in memory is the one that the CPUs run: a crashed kernel lies there whole while another dumps it.

use klab_facts::Registers;

use super::Kernel;
use crate::memory::{Entry, GuestPhys, GuestVirt, PAGE_SIZE};

/// Bits 12..51 of CR3 and of an entry: the physical address of a table.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Offset of a table's last entry, which maps the kernel's image: each process's table has a copy of it
/// (`pgd_ctor`, `arch/x86/mm/pgtable.c`).
const LAST: u64 = 511 * 8;
/// `PANIC_CPU_INVALID`.
const NO_CPU: u32 = u32::MAX;

impl Kernel {
    /// Tells whether a CPU with these registers runs this kernel, or a program under it: the upper half of its page
    /// tables is this kernel's. Registers of another kernel's CPUs say nothing of this one's tasks. Where the registers
    /// come without CR3 (a dump's notes), an address in the kernel's half that they name must be one of this kernel's.
    #[must_use]
    pub fn owns(&self, registers: &Registers) -> bool {
        let Some(root) = self.space().root() else {
            return true;
        };
        let Some(cr3) = registers.cr3 else {
            let mapped = || match self.space().translate(GuestVirt(registers.rip)) {
                Ok(_) => true,
                Err(fault) => fault.kind().is_of_the_source(),
            };
            return registers.rip >> 63 == 0 || mapped();
        };
        let table = |table: GuestPhys| {
            let entry = self.space().memory().read_u64(table.offset(LAST));
            entry
                .map(Entry)
                .map(|entry| (entry.present(), entry.0 & ADDRESS))
        };
        let ours = match table(root) {
            Ok((true, ours)) => ours,
            // Nothing follows from what cannot be read.
            _ => return true,
        };
        // With page-table isolation a program runs on the second of a pair of tables, the kernel on the first.
        let cr3 = cr3 & ADDRESS;
        [cr3, cr3 & !PAGE_SIZE]
            .into_iter()
            .any(|at| match table(GuestPhys(at)) {
                Ok((present, entry)) => present && entry == ours,
                Err(fault) => fault.kind().is_of_the_source(),
            })
    }

    /// Tells whether it has handed the machine over, or was about to: it panicked (`panic_cpu`) or started another
    /// kernel (`kexec_in_progress`).
    pub fn gave_over(&self) -> bool {
        let at = |name| self.symbols().ok()?.lookup(name);
        let panicked = at("panic_cpu").and_then(|at| self.read_u32(at).ok());
        let kexec = at("kexec_in_progress").and_then(|at| self.read_u8(at).ok());
        panicked.is_some_and(|cpu| cpu != NO_CPU) || kexec.is_some_and(|yes| yes != 0)
    }

    /// `7.3.4 (VMCOREINFO at physical 0x..)`.
    pub fn place(&self) -> String {
        match self.vmcoreinfo() {
            Ok(info) => format!("{} (VMCOREINFO {})", self.release(), info.place()),
            Err(_) => self.release().to_owned(),
        }
    }
}

/// The kernel to show of those in one memory, and a sentence about the others.
#[derive(Debug)]
pub struct Choice {
    /// The kernel.
    pub kernel: Kernel,
    /// The sentence.
    pub note: Option<String>,
}

/// The kernel that the CPUs run, if that is not `first`: `all` looks for the others. Without registers the one that has
/// not handed the machine over.
///
/// # Errors
/// That of `all`.
pub fn choose(
    first: Kernel,
    registers: Option<&[Registers]>,
    all: impl FnOnce() -> crate::Result<Vec<Kernel>>,
) -> crate::Result<Choice> {
    let run = |kernel: &Kernel| {
        let all = registers.unwrap_or_default().iter();
        all.filter(|registers| kernel.owns(registers)).count()
    };
    let suspect = match registers {
        Some(registers) => !registers.is_empty() && run(&first) == 0,
        None => first.gave_over(),
    };
    if !suspect {
        return Ok(Choice {
            kernel: first,
            note: None,
        });
    }
    let mut all = all()?;
    if !all.iter().any(|kernel| kernel.is_same(&first)) {
        all.insert(0, first.clone());
    }
    let runs = |kernel: &Kernel| match registers {
        Some(_) => run(kernel) > 0,
        None => !kernel.gave_over(),
    };
    let chosen = all.iter().find(|kernel| runs(kernel)).cloned();
    let known = registers.is_some();
    let Some(kernel) = chosen else {
        // One that panicked and stands there is no news.
        let note = (known && !first.gave_over()).then(|| {
            format!(
                "no CPU runs {}: it is what an earlier boot left, or something else runs for the moment",
                first.place()
            )
        });
        return Ok(Choice {
            kernel: first,
            note,
        });
    };
    let note = (all.len() > 1).then(|| {
        let places: Vec<String> = all.iter().map(Kernel::place).collect();
        format!(
            "{} kernels are in this memory: {}; {} {}, which is shown: `--kernel-at ADDRESS` of another's VMCOREINFO shows that",
            all.len(),
            places.join(", "),
            if known { "the CPUs run" } else { "the one that has not crashed is" },
            kernel.release(),
        )
    });
    Ok(Choice { kernel, note })
}
