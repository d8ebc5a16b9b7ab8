//! Tasks of a fake kernel: sound ones, broken ones, and ones that change while they are read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::kernel::btf::TypeId;
use crate::kernel::btf::build::Builder;
use crate::kernel::{FakeKernel, Kernel};
use crate::memory::{FakeMemory, GuestPhys, GuestVirt, PhysMemory, PhysRange};
use crate::structures::LIST_POISON1;
use crate::{ErrorKind, Guest, Result};

const TASKS: u64 = 96;
const THREAD_NODE: u64 = 112;
const PREV: u64 = 8;

fn types() -> Vec<u8> {
    let mut b = Builder::new();
    let (int, uint, long) = (
        b.int("int", 4, true),
        b.int("unsigned int", 4, false),
        b.int("u64", 8, false),
    );
    let pointer = b.pointer(TypeId(0));
    let char = b.int("char", 1, true);
    let comm = b.array(char, 16);
    let list = b.structure(
        "list_head",
        16,
        &[("next", pointer, 0), ("prev", pointer, 64)],
    );
    let kuid = b.structure("kuid", 4, &[("val", uint, 0)]);
    b.structure(
        "cred",
        16,
        &[
            ("uid", kuid, 0),
            ("gid", kuid, 32),
            ("euid", kuid, 64),
            ("egid", kuid, 96),
        ],
    );
    b.structure(
        "signal_struct",
        32,
        &[("nr_threads", int, 0), ("thread_head", list, 128)],
    );
    let members = [
        ("__state", uint, 0),
        ("exit_state", int, 4),
        ("flags", uint, 8),
        ("pid", int, 12),
        ("tgid", int, 16),
        ("prio", int, 20),
        ("static_prio", int, 24),
        ("policy", uint, 28),
        ("start_boottime", long, 32),
        ("mm", pointer, 40),
        ("stack", pointer, 48),
        ("real_parent", pointer, 56),
        ("group_leader", pointer, 64),
        ("signal", pointer, 72),
        ("real_cred", pointer, 80),
        ("tasks", list, 96),
        ("thread_node", list, 112),
        ("comm", comm, 128),
    ];
    b.structure(
        "task_struct",
        192,
        &members.map(|(name, ty, at)| (name, ty, at * 8)),
    );
    b.bytes()
}

fn link(fake: &mut FakeKernel, ring: &[GuestVirt]) {
    for (i, at) in ring.iter().enumerate() {
        fake.write_u64(*at, ring[(i + 1) % ring.len()].0).unwrap();
        fake.write_u64(at.offset(PREV), ring[(i + ring.len() - 1) % ring.len()].0)
            .unwrap();
    }
}

/// A kernel with `init_task` and tasks 1 to `n`, and where they lie.
fn kernel(n: u32) -> (FakeKernel, Vec<GuestVirt>) {
    let mut fake = FakeKernel::new();
    fake.btf(&types()).unwrap();
    let mut tasks = vec![fake.symbol("init_task", 'D', &[0; 192]).unwrap()];
    let cred = fake.alloc(16).unwrap();
    fake.write(cred, &[1000u32, 100, 0, 0].map(u32::to_le_bytes).concat())
        .unwrap();
    for pid in 1..=n {
        let (task, signal) = (fake.alloc(192).unwrap(), fake.alloc(32).unwrap());
        let words = [1u32, 0, 0, pid, pid, 120, 115, 0]
            .map(u32::to_le_bytes)
            .concat();
        fake.write(task, &words).unwrap();
        fake.write_u64(task.offset(56), tasks[0].0).unwrap();
        fake.write_u64(task.offset(72), signal.0).unwrap();
        fake.write_u64(task.offset(80), cred.0).unwrap();
        fake.write(task.offset(128), format!("task-{pid}\0").as_bytes())
            .unwrap();
        fake.write(signal, &1u32.to_le_bytes()).unwrap();
        link(&mut fake, &[signal.offset(16), task.offset(THREAD_NODE)]);
        tasks.push(task);
    }
    let ring: Vec<GuestVirt> = tasks.iter().map(|task| task.offset(TASKS)).collect();
    link(&mut fake, &ring);
    (fake, tasks)
}

fn guest(fake: FakeKernel) -> Guest {
    Guest::from_kernel(fake.finish().unwrap())
}

#[test]
fn tasks_are_read_in_the_order_of_the_list() {
    let (fake, at) = kernel(3);
    let tasks = guest(fake).tasks().unwrap();
    assert_eq!(
        tasks
            .iter()
            .map(|task| (task.pid, task.at))
            .collect::<Vec<_>>(),
        [(1, at[1]), (2, at[2]), (3, at[3])]
    );
    let first = &tasks[0];
    assert_eq!(
        (&*first.comm, first.state.letter(), first.nice, first.ppid),
        ("task-1", 'S', -5, Some(0))
    );
    assert_eq!(
        (first.uid, first.gid, first.euid, first.nr_threads),
        (Some(1000), Some(100), Some(0), Some(1))
    );
    assert_eq!(
        (first.mm, first.kthread, first.on_cpu),
        (None, false, false)
    );
}

#[test]
fn a_bad_pointer_hides_no_more_than_what_it_leads_to() {
    const NOWHERE: u64 = 0xdead_0000_0000_0100;
    for (member, offset) in [("real_parent", 56), ("signal", 72), ("real_cred", 80)] {
        let (mut fake, at) = kernel(3);
        fake.write_u64(at[2].offset(offset), NOWHERE).unwrap();
        let guest = guest(fake);
        let tasks = guest.tasks().unwrap();
        assert_eq!((tasks.len(), tasks.missing.len()), (3, 1), "{member}");
        let (task, told) = (&tasks[1], tasks.missing[0].to_string());
        assert!(
            told.contains("task 2 (task-2)") && told.contains(member),
            "{told}"
        );
        let known = [
            task.ppid.is_some(),
            task.nr_threads.is_some(),
            task.uid.is_some(),
        ];
        assert_eq!(known.iter().filter(|known| !**known).count(), 1, "{task:?}");
        // A look-up of the one says the same.
        let one = super::walk::load(&guest.kernel().unwrap(), at[2]).unwrap();
        assert_eq!(
            (one.missing.len(), one.ppid, one.uid),
            (1, task.ppid, task.uid)
        );
    }
}

#[test]
fn no_tasks_are_none() {
    assert!(guest(kernel(0).0).tasks().unwrap().is_empty());
}

#[test]
fn a_list_that_stays_broken_names_the_node() {
    let broken = |spoil: &dyn Fn(&mut FakeKernel, &[GuestVirt])| {
        let (mut fake, at) = kernel(3);
        spoil(&mut fake, &at);
        let tasks = guest(fake).tasks().unwrap();
        let first = tasks.missing.first().expect("it is told");
        assert_eq!(first.kind, ErrorKind::Broken, "{first}");
        let node = at.iter().position(|t| Some(t.offset(TASKS)) == first.at);
        (node, first.error.clone(), tasks.len())
    };
    let (node, why, shown) =
        broken(&|fake, at| fake.write_u64(at[2].offset(TASKS + PREV), at[3].0).unwrap());
    // The first by next, the others by prev.
    assert_eq!((node, shown), (Some(2), 3), "{why}");
    let (node, why, shown) =
        broken(&|fake, at| fake.write_u64(at[2].offset(TASKS), LIST_POISON1).unwrap());
    assert_eq!((node, shown), (Some(2), 3), "{why}");
    let (_, why, shown) = broken(&|fake, at| {
        fake.write_u64(at[3].offset(TASKS), at[2].offset(TASKS).0)
            .unwrap()
    });
    assert!(why.contains("prev") || why.contains("loop"), "{why}");
    assert_eq!(shown, 3);
}

/// Memory in which one word reads differently the first `times` times.
#[derive(Debug)]
struct Flickering {
    memory: FakeMemory,
    word: GuestPhys,
    times: u64,
    seen: AtomicU64,
}

impl PhysMemory for Flickering {
    fn read(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
        self.memory.read(at, buf)?;
        let within = self.word.0.checked_sub(at.0).map(|from| from as usize);
        if let Some(word) = within.and_then(|from| buf.get_mut(from..from + 8)) {
            let seen = self.seen.fetch_add(1, Ordering::Relaxed);
            if seen < self.times {
                word.copy_from_slice(&(0xffff_8880_0000_0000 + 64 * seen).to_le_bytes());
            }
        }
        Ok(())
    }

    fn ranges(&self) -> &[PhysRange] {
        self.memory.ranges()
    }
}

/// Reads the tasks while the `prev` of the second one flickers.
fn flickering(times: u64) -> Result<(usize, Option<ErrorKind>)> {
    let (fake, at) = kernel(3);
    let word = GuestPhys(at[2].offset(TASKS + PREV).0 - fake.phys_to_virt(GuestPhys(0)).0);
    let memory = Flickering {
        memory: fake.memory()?,
        word,
        times,
        seen: AtomicU64::new(0),
    };
    let guest = Guest::from_kernel(Kernel::discover(Arc::new(memory))?);
    let tasks = guest.tasks()?;
    Ok((tasks.len(), tasks.missing.first().map(|part| part.kind)))
}

#[test]
fn a_list_that_changes_is_read_again_and_never_shown_as_fact() {
    assert_eq!(flickering(0), Ok((3, None)));
    assert_eq!(flickering(9), Ok((3, None)));
    let (shown, kind) = flickering(u64::MAX).unwrap();
    assert_eq!(kind, Some(ErrorKind::Torn));
    assert!(shown < 3);
}
