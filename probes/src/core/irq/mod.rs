//! Interrupts: their descriptors, handlers and counts (`include/linux/irqdesc.h`); the interrupt
//! descriptor table; softirqs.

mod idt;
mod softirq;
mod stat;
mod view;

pub(crate) use softirq::softirqs;

pub(crate) use idt::idt;

use std::ops::Deref;

pub(crate) use idt::gates;
pub use idt::{Gate, Idt};
use serde::Serialize;
pub use softirq::{Softirq, Softirqs};
pub use stat::CpuInterrupt;

use crate::base::parts;
use crate::kernel::{Function, Functions, Kernel};
use crate::memory::GuestVirt;
use crate::object::{Mirror, Object, Plan};
use crate::structures::{
    MapleLayout, XarrayLayout, chain, cpumask_var, lacks, mt_for_each, offset_of, online_cpus,
    settle_all, xa_for_each,
};
use crate::{Error, Listing, Missing, Of as _, Result};

/// Nodes of the tree of descriptors that are read at most.
const BOUND: usize = 1 << 16;
/// Bytes of the longest name.
const NAME: usize = 256;
/// `IRQD_SETAFFINITY_PENDING` of `include/linux/irq.h`: the affinity changes with the next interrupt.
const AFFINITY_PENDING: u32 = 1 << 8;

/// A handler of an interrupt: a `struct irqaction`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IrqAction {
    /// Its name.
    pub name: String,
    /// Function that is called in the interrupt: `irqaction.handler`.
    pub handler: Function,
    /// Function that its thread calls afterwards, if it has a thread: `irqaction.thread_fn`.
    pub thread_fn: Option<Function>,
    /// Pid of that thread.
    pub thread: Option<i32>,
    /// Argument of the handler, which tells those that share the interrupt apart: `irqaction.dev_id`.
    pub dev_id: GuestVirt,
    /// `IRQF_*`
    pub flags: u32,
}

/// An interrupt: a `struct irq_desc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Irq {
    /// Address of its `struct irq_desc`.
    pub at: GuestVirt,
    /// Its number in Linux.
    pub irq: u32,
    /// Its number in the chip.
    pub hwirq: u64,
    /// The chip.
    pub chip: Option<String>,
    /// Flow of the interrupt: `edge`, `fasteoi`.
    pub name: Option<String>,
    /// Function that the entry code calls, and that calls the handlers: `irq_desc.handle_irq`.
    pub flow: Option<Function>,
    /// Count for each CPU that is online.
    pub counts: Vec<u64>,
    /// The CPUs that it may come to, from the next time on.
    pub affinity: Vec<u32>,
    /// CPUs of them that it comes to.
    pub effective: Vec<u32>,
    /// Its handlers.
    pub actions: Vec<IrqAction>,
}

/// The interrupts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Irqs {
    /// The CPUs that are online, in the order of all counts.
    pub cpus: Vec<u32>,
    /// Interrupts with a descriptor, by number.
    pub irqs: Vec<Irq>,
    /// Interrupts of the CPUs themselves: timers, calls from other CPUs, errors.
    pub cpu_interrupts: Vec<CpuInterrupt>,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

lacks!(Irqs);

impl Deref for Irqs {
    type Target = [Irq];

    fn deref(&self) -> &[Irq] {
        &self.irqs
    }
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct irq_desc")]
struct Desc {
    #[mirror(member = "irq_data.irq")]
    irq: u32,
    #[mirror(member = "irq_data.hwirq")]
    hwirq: u64,
    #[mirror(member = "irq_common_data.state_use_accessors")]
    state: u32,
    #[mirror(member = "irq_data.chip")]
    chip: GuestVirt,
    kstat_irqs: GuestVirt,
    handle_irq: GuestVirt,
    action: GuestVirt,
    name: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct irqaction")]
struct Action {
    handler: GuestVirt,
    dev_id: GuestVirt,
    thread_fn: GuestVirt,
    thread: GuestVirt,
    flags: u32,
    name: GuestVirt,
}

/// The interrupts, with counts, affinity and handlers: `/proc/interrupts` and `/proc/irq`.
pub(crate) fn irqs(kernel: &Kernel) -> Result<Irqs> {
    settle_all("the interrupts", || {
        let reader = Reader {
            kernel,
            functions: Functions::new(kernel),
            cpus: online_cpus(kernel)?,
        };
        let nodes = descriptors(kernel)?;
        let mut irqs = Listing::new();
        irqs.missing = nodes.missing;
        for at in nodes.items {
            irqs.take(reader.irq(at), || format!("the irq_desc at {at}"));
        }
        let mut missing = irqs.missing;
        let cpu_interrupts = stat::read(kernel, &reader.cpus);
        Ok(Some(Irqs {
            cpu_interrupts: parts(&mut missing, "the CPUs' own interrupts", cpu_interrupts),
            cpus: reader.cpus,
            irqs: irqs.items,
            missing,
        }))
    })
}

/// Each `irq_desc`: in a maple tree since 6.5, before that in a radix tree.
fn descriptors(kernel: &Kernel) -> Result<Listing<GuestVirt>> {
    if let Some(tree) = kernel.symbols()?.lookup("sparse_irqs") {
        let walk = mt_for_each(kernel, tree, MapleLayout::of(kernel)?).bound(BOUND);
        let walk = walk.map(|entry| Ok(GuestVirt(entry?.entry)));
        return Ok(Listing::walk("sparse_irqs", walk));
    }
    let tree = kernel.symbol("irq_desc_tree")?;
    let walk = xa_for_each(kernel, tree, XarrayLayout::of(kernel)?).bound(BOUND);
    let walk = walk.map(|entry| Ok(GuestVirt(entry?.entry)));
    Ok(Listing::walk("irq_desc_tree", walk))
}

struct Reader<'k> {
    kernel: &'k Kernel,
    functions: Functions<'k>,
    cpus: Vec<u32>,
}

impl Reader<'_> {
    fn irq(&self, at: GuestVirt) -> Result<Irq> {
        let kernel = self.kernel;
        let raw = Plan::<Desc>::new(kernel)?.load(at)?;
        // In a structure since 6.10, before that a counter by itself.
        let count = match offset_of(kernel, "struct irqstat", "cnt") {
            Err(Error::NoType { .. }) => 0,
            count => count?,
        };
        let mut counts = Vec::with_capacity(self.cpus.len());
        for cpu in &self.cpus {
            let stat = kernel.per_cpu(raw.kstat_irqs, *cpu)?;
            counts.push(kernel.read_u32(stat.offset(count))?.into());
        }
        let chip = match raw.chip.is_null() {
            true => None,
            false => {
                let name = Object::at(kernel, "struct irq_chip", raw.chip)?.member("name")?;
                let name = name.pointer().and_then(|name| self.text(name));
                name.of(|| format!("its chip {}", raw.chip))?
            }
        };
        let c = "struct irq_desc";
        // As show_irq_affinity() of kernel/irq/proc.c.
        let affinity = match raw.state & AFFINITY_PENDING {
            0 => "irq_common_data.affinity",
            _ => "pending_mask",
        };
        let next = offset_of(kernel, "struct irqaction", "next")?;
        Ok(Irq {
            at,
            irq: raw.irq,
            hwirq: raw.hwirq,
            chip,
            name: self.text(raw.name)?,
            flow: self.functions.of(raw.handle_irq)?,
            counts,
            affinity: cpumask_var(kernel, at, (c, affinity))?,
            effective: cpumask_var(kernel, at, (c, "irq_common_data.effective_affinity"))?,
            actions: chain(kernel, raw.action, next)
                .map(|at| {
                    let at = at?;
                    self.action(at).of(|| format!("its irqaction {at}"))
                })
                .collect::<Result<_>>()?,
        })
    }

    fn action(&self, at: GuestVirt) -> Result<IrqAction> {
        let raw = Plan::<Action>::new(self.kernel)?.load(at)?;
        let thread = match raw.thread.is_null() {
            true => None,
            false => {
                let task = Object::at(self.kernel, "struct task_struct", raw.thread)?;
                Some(task.member("pid")?.i64()? as i32)
            }
        };
        Ok(IrqAction {
            name: self.text(raw.name)?.unwrap_or_default(),
            handler: self.functions.at(raw.handler)?,
            thread_fn: self.functions.of(raw.thread_fn)?,
            thread,
            dev_id: raw.dev_id,
            flags: raw.flags,
        })
    }

    fn text(&self, at: GuestVirt) -> Result<Option<String>> {
        match at.is_null() {
            true => Ok(None),
            false => self.kernel.read_cstr(at, NAME).map(Some),
        }
    }
}
