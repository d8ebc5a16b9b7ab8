//! The stack that an address lies in: `get_stack_info()` of `arch/x86/kernel/dumpstack_64.c`.

use serde::{Serialize, Serializer};

use super::tasks::Thread;
use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::{array, offset_of, per_cpu_ptr};

/// Start and length of the CPUs' entry areas: `Documentation/arch/x86/x86_64/mm.rst`.
const ENTRY_AREA: (u64, u64) = (0xffff_fe00_0000_0000, 1 << 39);
/// Bytes below a task stack's highest address in which its first frame lies: the registers of user space, and what
/// `copy_thread()` puts below them.
const FIRST: u64 = 512;

/// A kind of kernel stack, named as the kernel names it in call traces (`stack_type_name()`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StackKind {
    /// A task's own.
    Task,
    /// A CPU's, for interrupts and soft interrupts.
    Irq,
    /// A CPU's, for NMIs.
    Nmi,
    /// A CPU's, for double faults.
    DoubleFault,
    /// A CPU's, for debug exceptions.
    Debug,
    /// A CPU's, for machine checks.
    MachineCheck,
    /// A CPU's, for the exceptions of encrypted guests.
    Vc,
    /// The second of these.
    Vc2,
    /// A CPU's, which it comes to from user space.
    Entry,
    /// None that is known.
    Unknown,
}

impl StackKind {
    /// `TASK`, `IRQ`, `NMI`, ..
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Task => "TASK",
            Self::Irq => "IRQ",
            Self::Nmi => "NMI",
            Self::DoubleFault => "#DF",
            Self::Debug => "#DB",
            Self::MachineCheck => "#MC",
            Self::Vc => "#VC",
            Self::Vc2 => "#VC2",
            Self::Entry => "ENTRY",
            Self::Unknown => "UNKNOWN",
        }
    }
}

impl Serialize for StackKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Owner of the stack that an address lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) kind: StackKind,
    /// The task, of a task's stack.
    pub(super) task: Option<GuestVirt>,
    /// True if that is a kernel thread, which has no user space.
    pub(super) kthread: bool,
    /// True if it is where a stack's first frame lies.
    pub(super) first: bool,
}

/// The stacks of tasks and CPUs.
#[derive(Debug)]
pub(super) struct Stacks {
    /// `THREAD_SIZE`, in bytes.
    pub(super) size: u64,
    /// Lowest address, task, and whether that is a kernel thread, by address.
    tasks: Vec<(GuestVirt, GuestVirt, bool)>,
    /// Lowest address, the one after the highest, and the kind.
    of_cpus: Vec<(GuestVirt, GuestVirt, StackKind)>,
}

impl Stacks {
    /// The stacks of these CPUs. What cannot be found of them is [`StackKind::Unknown`].
    pub(super) fn new(kernel: &Kernel, size: u64, cpus: &[u32]) -> Self {
        let found = cpus.iter().map(|cpu| of_cpu(kernel, *cpu));
        Self {
            size,
            tasks: Vec::new(),
            of_cpus: found.flatten().collect(),
        }
    }

    /// Adds the stacks of tasks.
    pub(super) fn add<'t>(&mut self, threads: impl Iterator<Item = &'t Thread>) {
        let stack = |thread: &Thread| Some((thread.stack()?, thread.at, thread.kthread()));
        self.insert(threads.filter_map(stack));
    }

    fn insert(&mut self, tasks: impl Iterator<Item = (GuestVirt, GuestVirt, bool)>) {
        self.tasks.extend(tasks);
        self.tasks.sort_unstable();
        self.tasks.dedup();
    }

    /// Tells whether a stack pointer points into the stack that begins at `start`.
    pub(super) fn holds(&self, start: GuestVirt, sp: GuestVirt) -> bool {
        // An empty stack's pointer is the address after its highest.
        start < sp && sp.0 - start.0 <= self.size
    }

    /// The stack that a stack pointer points into.
    pub(super) fn place(&self, sp: GuestVirt) -> Place {
        let after = self.tasks.partition_point(|(start, ..)| *start < sp);
        let nearest = after.checked_sub(1).and_then(|index| self.tasks.get(index));
        if let Some((start, task, kthread)) = nearest
            && self.holds(*start, sp)
        {
            return Place {
                kind: StackKind::Task,
                task: Some(*task),
                kthread: *kthread,
                first: start.0 + self.size - sp.0 <= FIRST,
            };
        }
        let known = self
            .of_cpus
            .iter()
            .find(|(start, end, _)| *start < sp && sp <= *end);
        let kind = match known {
            Some((.., kind)) => *kind,
            None if sp.0.wrapping_sub(ENTRY_AREA.0) < ENTRY_AREA.1 => StackKind::Entry,
            None => StackKind::Unknown,
        };
        Place {
            kind,
            task: None,
            kthread: false,
            first: false,
        }
    }
}

/// The stacks that a CPU has beside those of tasks.
fn of_cpu(kernel: &Kernel, cpu: u32) -> Vec<(GuestVirt, GuestVirt, StackKind)> {
    let mut stacks = Vec::new();
    stacks.extend(irq(kernel, cpu));
    stacks.extend(exceptions(kernel, cpu).into_iter().flatten());
    stacks
}

/// `hardirq_stack_ptr`: the address of its highest word, older kernels say that after it.
fn irq(kernel: &Kernel, cpu: u32) -> Result<(GuestVirt, GuestVirt, StackKind)> {
    let at = match per_cpu_ptr(kernel, "hardirq_stack_ptr", cpu) {
        Ok(at) => at,
        Err(_) => per_cpu_ptr(kernel, "pcpu_hot", cpu)?.offset(offset_of(
            kernel,
            "struct pcpu_hot",
            "hardirq_stack_ptr",
        )?),
    };
    let (btf, id) = kernel.find_composite("struct irq_stack")?;
    let size = btf.size_of(id)?.unwrap_or(0);
    let end = GuestVirt(kernel.read_u64(at)?.next_multiple_of(0x1000));
    Ok((end.back(size), end, StackKind::Irq))
}

/// `cea_exception_stacks`
fn exceptions(kernel: &Kernel, cpu: u32) -> Result<Vec<(GuestVirt, GuestVirt, StackKind)>> {
    let c = "struct cea_exception_stacks";
    let at = per_cpu_ptr(kernel, "cea_exception_stacks", cpu)?;
    let base = GuestVirt(kernel.read_u64(at)?);
    let mut stacks = Vec::new();
    for (member, kind) in [
        ("DF_stack", StackKind::DoubleFault),
        ("NMI_stack", StackKind::Nmi),
        ("DB_stack", StackKind::Debug),
        ("MCE_stack", StackKind::MachineCheck),
        ("VC_stack", StackKind::Vc),
        ("VC2_stack", StackKind::Vc2),
    ] {
        if let Ok((offset, count, _)) = array(kernel, c, member) {
            let start = base.offset(offset);
            stacks.push((start, start.offset(count as u64), kind));
        }
    }
    Ok(stacks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_pointer_is_in_one_stack_with_its_end_and_without_its_start() {
        let mut stacks = Stacks {
            size: 0x4000,
            tasks: Vec::new(),
            of_cpus: vec![(GuestVirt(0x9000), GuestVirt(0xd000), StackKind::Irq)],
        };
        let tasks = [(0x20_0000, 2), (0x10_0000, 1)];
        let tasks = tasks.map(|(s, t)| (GuestVirt(s), GuestVirt(t), false));
        stacks.insert(tasks.into_iter());
        let place = |sp| stacks.place(GuestVirt(sp));
        assert_eq!(place(0x10_0000).task, None);
        assert_eq!(place(0x10_0008).task, Some(GuestVirt(1)));
        assert!(!place(0x10_0008).first);
        assert_eq!(place(0x10_4000).task, Some(GuestVirt(1)));
        assert!(place(0x10_4000 - 168).first);
        assert_eq!(place(0x20_2000).task, Some(GuestVirt(2)));
        assert_eq!(place(0x10_4008).kind, StackKind::Unknown);
        assert_eq!(place(0xd000).kind, StackKind::Irq);
        assert_eq!(place(0xffff_fe00_0000_2000).kind, StackKind::Entry);
        assert_eq!(place(u64::MAX).kind, StackKind::Unknown);
    }
}
