//! A waiter on a kernel stack, and the list that it is linked in.

use crate::Result;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::offset_of;

/// Waiters of one list that are followed at most.
const BOUND: usize = 1 << 16;

/// A structure by which a task waits, and where in it the task and the list are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    task: u64,
    list: u64,
    /// Offset of the function in a `wait_queue_entry`, in bytes.
    function: Option<u64>,
}

impl Kind {
    /// `struct mutex_waiter` and its like, by the names of their members.
    pub(super) fn of(kernel: &Kernel, c: &str, task: &str, list: &str) -> Result<Self> {
        Ok(Self {
            task: offset_of(kernel, c, task)?,
            list: offset_of(kernel, c, list)?,
            function: None,
        })
    }

    /// `struct wait_queue_entry`.
    pub(super) fn entry(kernel: &Kernel) -> Result<Self> {
        let c = "struct wait_queue_entry";
        Ok(Self {
            function: Some(offset_of(kernel, c, "func")?),
            ..Self::of(kernel, c, "private", "entry")?
        })
    }
}

/// A waiter that was found.
#[derive(Debug)]
pub(super) struct Waiter {
    /// Its address.
    pub(super) at: GuestVirt,
    /// The nodes of the list that it is in, itself the first.
    pub(super) ring: Vec<GuestVirt>,
    /// The head of the list; `None` where the list has none (`first_waiter` of a mutex since 7.1).
    pub(super) head: Option<GuestVirt>,
}

/// Part of a kernel stack: words, the first of which lies at `start`.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) start: GuestVirt,
    pub(super) words: Vec<u64>,
}

impl Words {
    /// The words from one address up to another.
    pub(super) fn read(kernel: &Kernel, start: GuestVirt, end: GuestVirt) -> Result<Self> {
        let mut bytes = vec![0; end.0.saturating_sub(start.0) as usize & !7];
        kernel.read(start, &mut bytes)?;
        let words = bytes.as_chunks::<8>().0.iter();
        Ok(Self {
            start,
            words: words.map(|word| u64::from_le_bytes(*word)).collect(),
        })
    }

    /// The waiters of a kind by which `task` waits, the innermost first.
    pub(super) fn waiters(
        &self,
        kernel: &Kernel,
        task: GuestVirt,
        kind: Kind,
        stack_size: u64,
    ) -> Vec<Waiter> {
        let words = self.words.iter().zip(0u64..);
        let of_task = words.filter(|(word, _)| **word == task.0);
        let starts = of_task.filter_map(|(_, index)| {
            let at = self.start.offset(index * 8).0.checked_sub(kind.task)?;
            (at >= self.start.0).then_some(GuestVirt(at))
        });
        starts
            .filter_map(|at| waiter(kernel, at, kind, stack_size).ok().flatten())
            .collect()
    }
}

/// The waiter at an address; `None` if what is there is not one that is linked both ways.
fn waiter(kernel: &Kernel, at: GuestVirt, kind: Kind, stack_size: u64) -> Result<Option<Waiter>> {
    if let Some(function) = kind.function
        && !is_function(kernel, kernel.read_u64(at.offset(function))?)?
    {
        return Ok(None);
    }
    let first = at.offset(kind.list);
    let (mut ring, mut head, mut node) = (vec![first], None, first);
    loop {
        let next = GuestVirt(kernel.read_u64(node)?);
        if kernel.read_u64(next.offset(8))? != node.0 {
            return Ok(None);
        }
        if next == first {
            break;
        }
        if head.is_none() && !is_waiter(kernel, next, kind, stack_size).unwrap_or(false) {
            head = Some(next);
        }
        ring.push(next);
        node = next;
        if ring.len() > BOUND {
            return Ok(None);
        }
    }
    Ok(Some(Waiter { at, ring, head }))
}

/// Tells whether a node of a list belongs to a waiter: its task's stack holds it, or, of a wait queue's, it has a
/// function to call.
fn is_waiter(kernel: &Kernel, node: GuestVirt, kind: Kind, stack_size: u64) -> Result<bool> {
    let at = node.back(kind.list);
    if let Some(function) = kind.function {
        return is_function(kernel, kernel.read_u64(at.offset(function))?);
    }
    let task = GuestVirt(kernel.read_u64(at.offset(kind.task))?);
    let stack = kernel.read_u64(task.offset(offset_of(kernel, "struct task_struct", "stack")?))?;
    Ok(node.0.wrapping_sub(stack) < stack_size)
}

fn is_function(kernel: &Kernel, word: u64) -> Result<bool> {
    if word >> 63 == 0 {
        return Ok(false);
    }
    let symbol = kernel.symbol_at(GuestVirt(word))?;
    Ok(symbol.is_some_and(|symbol| symbol.offset == 0))
}
