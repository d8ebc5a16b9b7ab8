//! A task's kernel stack: its bounds, and how much of it is in use.

use serde::Serialize;

use super::Task;
use crate::guest::Guest;
use crate::memory::GuestVirt;
use crate::structures::offset_of;
use crate::{Error, Result};

/// The kernel stack of one task: it grows down from `end` to `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct KernelStack {
    /// The lowest address, where it would overflow.
    pub start: GuestVirt,
    /// The address after the highest.
    pub end: GuestVirt,
    /// The stack pointer saved when the task last left the CPU (`thread.sp`); `None` while it is on a CPU.
    pub sp: Option<GuestVirt>,
}

impl KernelStack {
    /// `THREAD_SIZE`.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.end.0.wrapping_sub(self.start.0)
    }

    /// Bytes in use, by the saved stack pointer.
    #[must_use]
    pub fn used(&self) -> Option<u64> {
        self.sp.map(|sp| self.end.0.wrapping_sub(sp.0))
    }
}

/// The kernel stack of one task among [`KernelStacks`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StackOf {
    /// The task.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Its stack.
    #[serde(flatten)]
    pub stack: KernelStack,
}

/// The kernel stacks of all processes that sleep, the deepest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelStacks {
    /// `THREAD_SIZE`, in bytes.
    pub size: u64,
    /// One a process.
    pub stacks: Vec<StackOf>,
    /// Processes left out: on a CPU, or gone, when they were read.
    pub left_out: usize,
}

impl Guest {
    /// The kernel stacks of all processes that sleep, ready to be drawn.
    ///
    /// A task on a CPU has its stack pointer in a register, where memory does not tell it: it is counted, not shown.
    ///
    /// # Errors
    /// As [`thread_size`](Self::thread_size) and [`tasks`](Self::tasks).
    pub fn kernel_stacks(&self) -> Result<KernelStacks> {
        let size = self.thread_size()?;
        let tasks = self.tasks()?;
        let mut stacks: Vec<StackOf> = tasks
            .iter()
            .filter_map(|task| {
                let stack = self.kernel_stack(task).ok().filter(|s| s.sp.is_some())?;
                let comm = task.comm.clone();
                Some(StackOf {
                    pid: task.pid,
                    comm,
                    stack,
                })
            })
            .collect();
        stacks.sort_by_key(|of| (std::cmp::Reverse(of.stack.used()), of.pid));
        Ok(KernelStacks {
            size,
            left_out: tasks.len() - stacks.len(),
            stacks,
        })
    }

    /// `THREAD_SIZE`: how large each kernel stack is, in bytes.
    ///
    /// No type or symbol states it. It is the distance of `__start_init_stack` from `__end_init_stack`
    /// (`include/asm-generic/vmlinux.lds.h`, `INIT_TASK_DATA`: `. = __start_init_stack + THREAD_SIZE`), or, in kernels
    /// without those symbols, the size of `init_stack`, a member of `union thread_union`.
    ///
    /// # Errors
    /// `Absent` if neither is there; `Broken` if it is no size that a stack has.
    pub fn thread_size(&self) -> Result<u64> {
        let kernel = self.kernel()?;
        let symbol = |name| kernel.symbols().map(|symbols| symbols.lookup(name));
        let pairs = [
            ("__start_init_stack", "__end_init_stack"),
            ("__start_init_task", "__end_init_task"),
        ];
        for (start, end) in pairs {
            if let (Some(start), Some(end)) = (symbol(start)?, symbol(end)?) {
                return sound(end.0.wrapping_sub(start.0));
            }
        }
        let (btf, id) = kernel.find_composite("union thread_union")?;
        sound(btf.size_of(id)?.unwrap_or(0))
    }

    /// The bounds of a task's kernel stack.
    ///
    /// # Errors
    /// `Absent` if the task has exited; `Broken` if its saved stack pointer lies outside its stack.
    pub fn kernel_stack(&self, task: &Task) -> Result<KernelStack> {
        let kernel = self.kernel()?;
        let start = task.stack;
        if start.is_null() {
            return Err(Error::Absent(format!(
                "task {} has no stack any more: it has exited",
                task.pid
            )));
        }
        let end = start.offset(self.thread_size()?);
        let sp = GuestVirt(kernel.read_u64(task.at.offset(offset_of(
            &kernel,
            "struct task_struct",
            "thread.sp",
        )?))?);
        if task.on_cpu {
            return Ok(KernelStack {
                start,
                end,
                sp: None,
            });
        }
        if sp < start || sp > end {
            let why = format!("its saved stack pointer {sp} is not in {start}..{end}");
            return Err(Error::Broken {
                what: "kernel stack",
                at: task.at,
                why,
            });
        }
        Ok(KernelStack {
            start,
            end,
            sp: Some(sp),
        })
    }
}

/// A size of a stack: whole pages, a power of two of them.
fn sound(size: u64) -> Result<u64> {
    if size.is_power_of_two() && (0x1000..=0x10_0000).contains(&size) {
        return Ok(size);
    }
    Err(Error::Malformed {
        what: "THREAD_SIZE",
        why: format!("it would be {size:#x} bytes"),
    })
}
