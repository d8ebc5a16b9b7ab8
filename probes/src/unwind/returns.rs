//! Return addresses that the kernel has replaced: `unwind_recover_ret_addr()` of `arch/x86/include/asm/unwind.h`. A tracer
//! that wants to see a function's end puts the address of a trampoline in the place of the return address, and the address
//! itself where the task keeps such.

use crate::Result;
use crate::kernel::Kernel;
use crate::kernel::btf::Shape;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{llist_for_each, offset_of};

/// Entries of one task that are looked at: `FTRACE_RETFUNC_DEPTH` is 50, a shadow stack has a page.
const BOUND: usize = 1 << 12;
/// Most times that one return address is replaced: by the function graph tracer, and by a probe.
const LAYERS: usize = 4;
/// `FGRAPH_FRAME_OFFSET_MASK` of `kernel/trace/fgraph.c`: how many words back the entry begins.
const OFFSET: u64 = (1 << 10) - 1;

/// The trampolines, and where the tasks keep what was replaced.
pub(super) struct Returns<'k> {
    kernel: &'k Kernel,
    keepers: Vec<(GuestVirt, Keeper)>,
}

enum Keeper {
    Graph(Graph),
    Hooks(Hooks),
}

/// The return addresses that the function graph tracer has replaced: `task_struct.ret_stack`.
struct Graph {
    plan: Plan<GraphTask>,
    /// Offsets in a `struct ftrace_ret_stack`, in bytes.
    size: u64,
    ret: u64,
    retp: u64,
    /// True if the stack is of words: an entry, other words, one that says where the entry begins. Else it is an array.
    words: bool,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct GraphTask {
    ret_stack: GuestVirt,
    curr_ret_stack: i32,
}

/// The return addresses that return probes have replaced: a list of `rethook_node`s, in older kernels `kretprobe_instance`s.
struct Hooks {
    head: u64,
    link: u64,
    ret: u64,
    frame: u64,
}

impl<'k> Returns<'k> {
    pub(super) fn of(kernel: &'k Kernel) -> Result<Self> {
        let symbols = kernel.symbols()?;
        let mut keepers = Vec::new();
        if let Some(at) = symbols.lookup("return_to_handler")
            && let Some(graph) = Graph::of(kernel)?
        {
            keepers.push((at, Keeper::Graph(graph)));
        }
        for (name, c, list, frame) in [
            (
                "arch_rethook_trampoline",
                "struct rethook_node",
                "rethooks",
                "frame",
            ),
            (
                "__kretprobe_trampoline",
                "struct kretprobe_instance",
                "kretprobe_instances",
                "fp",
            ),
            (
                "kretprobe_trampoline",
                "struct kretprobe_instance",
                "kretprobe_instances",
                "fp",
            ),
        ] {
            let hooks = || -> Result<Hooks> {
                Ok(Hooks {
                    head: offset_of(kernel, "struct task_struct", list)?,
                    link: offset_of(kernel, c, "llist")?,
                    ret: offset_of(kernel, c, "ret_addr")?,
                    frame: offset_of(kernel, c, frame)?,
                })
            };
            if let Some(at) = symbols.lookup(name)
                && let Ok(hooks) = hooks()
            {
                keepers.push((at, Keeper::Hooks(hooks)));
            }
        }
        Ok(Self { kernel, keepers })
    }

    /// Tells whether a return address is that of a trampoline.
    pub(super) fn is_trampoline(&self, ip: GuestVirt) -> bool {
        self.keepers.iter().any(|(at, _)| *at == ip)
    }

    /// Finds where the function returns to whose return address `ip` lies at `slot`: `ip` itself, or what a trampoline has
    /// replaced, by what these tasks keep. `None` if none of them has it.
    pub(super) fn recover(
        &self,
        tasks: &[GuestVirt],
        mut ip: GuestVirt,
        slot: GuestVirt,
    ) -> Result<Option<GuestVirt>> {
        for _ in 0..LAYERS {
            let Some((at, keeper)) = self.keepers.iter().find(|(at, _)| *at == ip) else {
                return Ok(Some(ip));
            };
            let mut found = None;
            for task in tasks.iter().filter(|task| !task.is_null()) {
                found = match keeper {
                    Keeper::Graph(graph) => graph.find(self.kernel, *task, *at, slot)?,
                    Keeper::Hooks(hooks) => hooks.find(self.kernel, *task, *at, slot)?,
                };
                if found.is_some() {
                    break;
                }
            }
            match found {
                Some(kept) => ip = kept,
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

impl Graph {
    /// `None` for a kernel whose entries do not say where the return address lay.
    fn of(kernel: &Kernel) -> Result<Option<Self>> {
        let c = "struct ftrace_ret_stack";
        let Ok((btf, id)) = kernel.find_composite(c) else {
            return Ok(None);
        };
        let (Ok(ret), Ok(retp), Ok(plan)) = (
            offset_of(kernel, c, "ret"),
            offset_of(kernel, c, "retp"),
            Plan::new(kernel),
        ) else {
            return Ok(None);
        };
        let (tasks, task) = kernel.find_composite("struct task_struct")?;
        let words = match tasks.member(task, "ret_stack")? {
            Some(field) => match tasks.shape(field.ty)? {
                Shape::Ptr(to) => tasks.size_of(to)? == Some(8),
                _ => false,
            },
            None => false,
        };
        let size = btf.size_of(id)?.unwrap_or(0);
        Ok(Some(Self {
            plan,
            size,
            ret,
            retp,
            words,
        }))
    }

    /// `ftrace_graph_ret_addr()`. The entry of a function that has just returned is still there, though it counts no more.
    fn find(
        &self,
        kernel: &Kernel,
        task: GuestVirt,
        handler: GuestVirt,
        slot: GuestVirt,
    ) -> Result<Option<GuestVirt>> {
        let raw = self.plan.load(task)?;
        let Ok(top) = u64::try_from(raw.curr_ret_stack.saturating_add(1)) else {
            return Ok(None);
        };
        if raw.ret_stack.is_null() || top > BOUND as u64 {
            return Ok(None);
        }
        let entry = |at: GuestVirt| -> Result<Option<GuestVirt>> {
            let ret = GuestVirt(kernel.read_u64(at.offset(self.ret))?);
            // If functions called one another as their last act, only the outermost has it.
            let here = kernel.read_u64(at.offset(self.retp))? == slot.0;
            Ok((here && ret != handler).then_some(ret))
        };
        // The entries that count, then the one that has just returned, which lies behind them.
        let just = if self.words {
            let word = |index: u64| raw.ret_stack.offset(index * 8);
            let mut index = top.saturating_sub(1);
            let just = word(index);
            while index > 0 {
                let back = kernel.read_u64(word(index - 1))? & OFFSET;
                if back == 0 || back > index - 1 {
                    break;
                }
                index -= 1 + back;
                if let Some(ret) = entry(word(index))? {
                    return Ok(Some(ret));
                }
            }
            just
        } else {
            for index in (0..top).rev() {
                if let Some(ret) = entry(raw.ret_stack.offset(index * self.size))? {
                    return Ok(Some(ret));
                }
            }
            raw.ret_stack.offset(top * self.size)
        };
        // The stack ends somewhere: what lies behind it need not be there.
        Ok(entry(just).unwrap_or(None))
    }
}

impl Hooks {
    /// `rethook_find_ret_addr()`, before it `kretprobe_find_ret_addr()`.
    fn find(
        &self,
        kernel: &Kernel,
        task: GuestVirt,
        trampoline: GuestVirt,
        slot: GuestVirt,
    ) -> Result<Option<GuestVirt>> {
        for link in llist_for_each(kernel, task.offset(self.head)).bound(BOUND) {
            let node = link?.back(self.link);
            let ret = GuestVirt(kernel.read_u64(node.offset(self.ret))?);
            // If several probes are at one function, all but the last to be called have the trampoline itself.
            if ret != trampoline && kernel.read_u64(node.offset(self.frame))? == slot.0 {
                return Ok(Some(ret));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::FakeKernel;
    use crate::kernel::btf::TypeId;
    use crate::kernel::btf::build::Builder;

    const SLOT: GuestVirt = GuestVirt(0xffff_c900_0000_1000);

    struct Fake {
        kernel: Kernel,
        task: GuestVirt,
        handler: GuestVirt,
        hook: GuestVirt,
    }

    impl Fake {
        /// Finds the return address for the one at `SLOT`.
        fn found(&self, ip: GuestVirt) -> Option<GuestVirt> {
            let returns = Returns::of(&self.kernel).unwrap();
            assert!(returns.is_trampoline(self.handler) && returns.is_trampoline(self.hook));
            // The first task has nothing.
            let none = self.task.offset(256);
            returns.recover(&[none, self.task], ip, SLOT).unwrap()
        }
    }

    /// A task with these words at its `ret_stack`, so much of which counts, and one return probe.
    fn fake(
        words: bool,
        curr: i32,
        stack: impl FnOnce(GuestVirt, GuestVirt) -> Vec<u64>,
        probed: impl FnOnce(GuestVirt, GuestVirt) -> [u64; 2],
    ) -> Fake {
        let mut b = Builder::new();
        let (int, long, void) = (
            b.int("int", 4, true),
            b.int("unsigned long", 8, false),
            b.pointer(TypeId(0)),
        );
        let entry = [("ret", long, 0), ("func", long, 64), ("retp", void, 128)];
        let entry = b.structure("ftrace_ret_stack", 24, &entry);
        let stacked = b.pointer(if words { long } else { entry });
        let node = b.structure("llist_node", 8, &[("next", void, 0)]);
        let hook = [
            ("llist", node, 0),
            ("ret_addr", long, 64),
            ("frame", long, 128),
        ];
        b.structure("rethook_node", 24, &hook);
        let task = [
            ("ret_stack", stacked, 0),
            ("curr_ret_stack", int, 64),
            ("rethooks", node, 128),
        ];
        b.structure("task_struct", 24, &task);
        let mut fake = FakeKernel::new();
        fake.btf(&b.bytes()).unwrap();
        let handler = fake.symbol("return_to_handler", 'T', &[0; 64]).unwrap();
        let hook = fake
            .symbol("arch_rethook_trampoline", 'T', &[0; 64])
            .unwrap();
        let task = fake.alloc(512).unwrap();
        let (at, node) = (fake.alloc(4096).unwrap(), fake.alloc(64).unwrap());
        let all = stack(handler, hook);
        for (i, word) in all.into_iter().enumerate() {
            fake.write_u64(at.offset(8 * i as u64), word).unwrap();
        }
        fake.write_u64(task, at.0).unwrap();
        fake.write(task.offset(8), &curr.to_le_bytes()).unwrap();
        fake.write(task.offset(256 + 8), &(-1i32).to_le_bytes())
            .unwrap();
        fake.write_u64(task.offset(16), node.0).unwrap();
        for (i, word) in probed(handler, hook).into_iter().enumerate() {
            fake.write_u64(node.offset(8 + 8 * i as u64), word).unwrap();
        }
        let kernel = fake.finish().unwrap();
        Fake {
            kernel,
            task,
            handler,
            hook,
        }
    }

    #[test]
    fn an_address_that_nobody_replaced_is_itself() {
        let fake = fake(false, -1, |_, _| vec![], |_, _| [0, 0]);
        assert_eq!(fake.found(GuestVirt(77)), Some(GuestVirt(77)));
        assert_eq!(fake.found(fake.handler), None);
        assert_eq!(fake.found(fake.hook), None);
    }

    #[test]
    fn the_array_has_it_and_what_returned_just_now_lies_behind() {
        let entries = |_, _| vec![1, 0, SLOT.0 + 8, 2, 0, SLOT.0, 3, 0, SLOT.0 - 8];
        for curr in [2, 1, 0] {
            let fake = fake(false, curr, entries, |_, _| [0, 0]);
            assert_eq!(fake.found(fake.handler), Some(GuestVirt(2)), "{curr}");
        }
        let fake = fake(false, -1, entries, |_, _| [0, 0]);
        assert_eq!(fake.found(fake.handler), None);
    }

    #[test]
    fn the_words_lead_from_entry_to_entry() {
        // Three words an entry, one that says so; the first of two has one more word of data.
        let words = |handler: GuestVirt, _| {
            let outer = [5, 0, SLOT.0, 3 | 1 << 10, 99, 5 | 2 << 10];
            // Called as the last act of the first: it has the trampoline as its return address.
            let inner = [handler.0, 0, SLOT.0, 3 | 1 << 10];
            [outer.as_slice(), inner.as_slice()].concat()
        };
        let fake = fake(true, 10, words, |_, _| [0, 0]);
        assert_eq!(fake.found(fake.handler), Some(GuestVirt(5)));
    }

    #[test]
    fn a_stack_of_nonsense_ends() {
        for word in [0, 1023, u64::MAX] {
            let fake = fake(true, 100, |_, _| vec![word; 512], |_, _| [0, 0]);
            assert_eq!(fake.found(fake.handler), None);
        }
        let fake = fake(false, i32::MAX, |_, _| vec![], |_, _| [0, 0]);
        assert_eq!(fake.found(fake.handler), None);
    }

    #[test]
    fn a_probe_over_the_graph_tracer_is_seen_through() {
        let graph = |_, hook: GuestVirt| vec![hook.0, 0, SLOT.0];
        let fake = fake(false, 0, graph, |_, _| [6, SLOT.0]);
        assert_eq!(fake.found(fake.handler), Some(GuestVirt(6)));
        assert_eq!(fake.found(fake.hook), Some(GuestVirt(6)));
    }

    #[test]
    fn a_ring_of_replacements_ends() {
        let graph = |_, hook: GuestVirt| vec![hook.0, 0, SLOT.0];
        let fake = fake(false, 0, graph, |handler, _| [handler.0, SLOT.0]);
        assert_eq!(fake.found(fake.handler), None);
    }
}
