//! Interrupts of the CPUs themselves, which have no descriptor: `irq_cpustat_t` (`arch/x86/include/asm/hardirq.h`).

use serde::Serialize;

use super::NAME;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{bitmap, offset_of, per_cpu_ptr};
use crate::{Error, Listing, Result};

/// The members of `irq_cpustat_t`, and how `arch_show_interrupts()` calls them, in kernels where each has its own.
const MEMBERS: &[(&str, &str, &str)] = &[
    ("__nmi_count", "NMI", "Non-maskable interrupts"),
    ("apic_timer_irqs", "LOC", "Local timer interrupts"),
    ("irq_spurious_count", "SPU", "Spurious interrupts"),
    ("apic_perf_irqs", "PMI", "Performance monitoring interrupts"),
    ("apic_irq_work_irqs", "IWI", "IRQ work interrupts"),
    ("icr_read_retry_count", "RTR", "APIC ICR read retries"),
    ("irq_resched_count", "RES", "Rescheduling interrupts"),
    ("irq_call_count", "CAL", "Function call interrupts"),
    ("irq_tlb_count", "TLB", "TLB shootdowns"),
    ("irq_thermal_count", "TRM", "Thermal event interrupts"),
    ("irq_threshold_count", "THR", "Threshold APIC interrupts"),
    (
        "irq_deferred_error_count",
        "DFR",
        "Deferred Error APIC interrupts",
    ),
    (
        "kvm_posted_intr_ipis",
        "PIN",
        "Posted-interrupt notification event",
    ),
    (
        "kvm_posted_intr_nested_ipis",
        "NPI",
        "Nested posted-interrupt event",
    ),
    (
        "kvm_posted_intr_wakeup_ipis",
        "PIW",
        "Posted-interrupt wakeup event",
    ),
];
/// Counters in per-CPU variables of their own (`arch/x86/kernel/cpu/mce/core.c`).
const VARIABLES: &[(&str, &str, &str)] = &[
    ("mce_exception_count", "MCE", "Machine check exceptions"),
    ("mce_poll_count", "MCP", "Machine check polls"),
];
/// More kinds than any kernel counts.
const KINDS: usize = 256;

/// An interrupt of the CPU itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CpuInterrupt {
    /// Its three letters: `LOC`.
    pub name: String,
    /// Description, as in `/proc/interrupts`.
    pub about: String,
    /// Count for each CPU.
    pub counts: Vec<u64>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct irq_stat_info")]
struct Info {
    symbol: GuestVirt,
    text: GuestVirt,
}

/// Interrupts as in `/proc/interrupts`.
pub(super) fn read(kernel: &Kernel, cpus: &[u32]) -> Result<Listing<CpuInterrupt>> {
    match kernel.symbols()?.lookup("irq_stat_info") {
        Some(table) => by_table(kernel, cpus, table),
        None => by_member(kernel, cpus),
    }
}

/// Kernels that count them in one array and have a table of their names.
fn by_table(kernel: &Kernel, cpus: &[u32], table: GuestVirt) -> Result<Listing<CpuInterrupt>> {
    let count = kernel.constant("IRQ_COUNT_MAX")?;
    let Some(count) = usize::try_from(count).ok().filter(|count| *count <= KINDS) else {
        let why = format!("it has {count} kinds");
        return Err(Error::Malformed {
            what: "irq_stat_info",
            why,
        });
    };
    let counts = offset_of(kernel, "irq_cpustat_t", "counts")?;
    let plan = Plan::<Info>::new(kernel)?;
    let shown = bitmap(kernel, kernel.symbol("irq_stat_count_show")?, count)?;
    let read = |kind: usize| {
        let info = plan.load(table.offset(kind as u64 * plan.size()))?;
        Ok(CpuInterrupt {
            name: kernel.read_cstr(info.symbol, NAME)?,
            about: kernel.read_cstr(info.text, NAME)?.trim().to_owned(),
            counts: counted(kernel, cpus, "irq_stat", counts + 4 * kind as u64)?,
        })
    };
    let mut all = Listing::new();
    for kind in shown {
        all.take(read(kind), || format!("irq_stat_info[{kind}]"));
    }
    Ok(all)
}

fn by_member(kernel: &Kernel, cpus: &[u32]) -> Result<Listing<CpuInterrupt>> {
    let mut all = Listing::new();
    let symbols = kernel.symbols()?;
    // Which of them a kernel has depends on its configuration.
    let members = MEMBERS.iter().filter_map(|(member, name, about)| {
        let offset = offset_of(kernel, "irq_cpustat_t", member).ok()?;
        Some(("irq_stat", offset, name, about))
    });
    let variables = VARIABLES.iter().filter_map(|(variable, name, about)| {
        symbols.lookup(variable)?;
        Some((*variable, 0, name, about))
    });
    for (symbol, offset, name, about) in members.chain(variables) {
        let own = counted(kernel, cpus, symbol, offset).map(|counts| CpuInterrupt {
            name: (*name).to_owned(),
            about: (*about).to_owned(),
            counts,
        });
        all.take(own, || *name);
    }
    Ok(all)
}

fn counted(kernel: &Kernel, cpus: &[u32], symbol: &str, offset: u64) -> Result<Vec<u64>> {
    cpus.iter()
        .map(|cpu| {
            let at = per_cpu_ptr(kernel, symbol, *cpu)?.offset(offset);
            Ok(kernel.read_u32(at)?.into())
        })
        .collect()
}
