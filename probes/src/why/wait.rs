//! The thing that a task waits for, by its stack.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::waiter::{Kind, Waiter, Words};
use super::{Object, Wait};
use crate::fs::{self, Frozen};
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::locking::{Contender, RwSem, RwState};
use crate::memory::GuestVirt;
use crate::search::what::{Identifier, Thing};
use crate::structures::offset_of;
use crate::unwind::StackTrace;
use crate::{Missing, Of as _, Result, core::locking};

/// Frames of a stack that are looked at for the function by which it waits.
const FRAMES: usize = 10;

/// Functions by which tasks wait, and for what: `kernel/locking`, `kernel/sched/completion.c`, `mm/filemap.c`.
const FUNCTIONS: [(&str, Object); 18] = [
    ("__mutex_lock", Object::Mutex),
    ("mutex_lock", Object::Mutex),
    ("__ww_mutex_lock", Object::Mutex),
    ("rwsem_down_", Object::RwSem),
    ("__down_read", Object::RwSem),
    ("__down_write", Object::RwSem),
    ("down_read", Object::RwSem),
    ("down_write", Object::RwSem),
    ("__down", Object::Semaphore),
    ("down_interruptible", Object::Semaphore),
    ("down_killable", Object::Semaphore),
    ("down_timeout", Object::Semaphore),
    ("__wait_for_common", Object::Completion),
    ("wait_for_completion", Object::Completion),
    ("wait_for_common", Object::Completion),
    ("percpu_rwsem_wait", Object::PercpuRwSem),
    ("folio_wait_bit", Object::Folio),
    ("__folio_lock", Object::Folio),
];

/// The waits of the tasks of one guest.
pub(super) struct Waits<'k> {
    guest: &'k Guest,
    kernel: &'k Kernel,
    stack_size: u64,
    /// `.sched.text`: the functions that only wait for others, which `/proc/PID/wchan` leaves out, too.
    sched_text: Option<Range<GuestVirt>>,
    identifier: OnceCell<Result<Identifier>>,
    /// The child for which a parent waits, by its completion: `vfork_done`.
    children: HashMap<GuestVirt, GuestVirt>,
    /// The file systems whose writers wait, by the bytes of their `super_block`; read when a task waits by such a semaphore.
    frozen: OnceCell<Vec<(Range<GuestVirt>, Frozen)>>,
    /// The owners of the mutexes that were read, and the semaphores.
    mutexes: RefCell<HashMap<GuestVirt, Option<Contender>>>,
    rwsems: RefCell<HashMap<GuestVirt, Rc<RwSem>>>,
    missing: RefCell<Vec<Missing>>,
}

/// The wait of a task, and the function that waits.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) wait: Option<Wait>,
    pub(super) function: Option<String>,
}

impl<'k> Waits<'k> {
    pub(super) fn new(guest: &'k Guest, kernel: &'k Kernel, tasks: &[GuestVirt]) -> Result<Self> {
        let sched_text = || -> Result<Range<GuestVirt>> {
            let start = kernel.symbol("__sched_text_start")?;
            Ok(start..kernel.symbol("__sched_text_end")?)
        };
        let done = offset_of(kernel, "struct task_struct", "vfork_done")?;
        let mut missing = Vec::new();
        let children = tasks.iter().filter_map(|task| {
            let done = kernel.read_u64(task.offset(done));
            let done = done.or_miss(&mut missing, || format!("vfork_done of the task {task}"))?;
            (done != 0).then_some((GuestVirt(done), *task))
        });
        Ok(Self {
            guest,
            kernel,
            stack_size: guest.thread_size()?,
            sched_text: sched_text().ok(),
            identifier: OnceCell::new(),
            children: children.collect(),
            frozen: OnceCell::new(),
            mutexes: RefCell::default(),
            rwsems: RefCell::default(),
            missing: RefCell::new(missing),
        })
    }

    /// Parts that could not be read of what tasks wait for.
    pub(super) fn missing(self) -> Vec<Missing> {
        self.missing.into_inner()
    }

    fn miss(&self, parts: impl IntoIterator<Item = Missing>) {
        let mut missing = self.missing.borrow_mut();
        for part in parts {
            // Many tasks wait for one thing.
            if !missing.contains(&part) {
                missing.push(part);
            }
        }
    }

    /// A value, or that it could not be read.
    fn noted<T>(&self, read: Result<T>, what: impl FnOnce() -> String) -> Option<T> {
        let mut parts = Vec::new();
        let value = read.or_miss(&mut parts, what);
        self.miss(parts);
        value
    }

    /// Tells whether a task waits by one of the kernel's locks, in any state.
    pub(super) fn is_locked_out(&self, trace: &StackTrace) -> bool {
        matches!(
            function_of(trace),
            Some(Object::Mutex | Object::RwSem | Object::Semaphore)
        )
    }

    /// The thing that the task at `task` waits for.
    pub(super) fn find(&self, trace: &StackTrace, task: GuestVirt) -> Found {
        let who = || format!("task {} ({}), what it waits for", trace.pid, trace.comm);
        let in_sched = |ip| {
            let text = self.sched_text.as_ref();
            text.is_some_and(|text| text.contains(&ip))
        };
        let mut frames = trace.frames.iter().filter(|frame| !in_sched(frame.ip));
        let function = frames
            .find(|frame| !frame.function.is_empty() && !frame.function.starts_with("__sched"))
            .map(|frame| frame.function.to_string());
        let wait = self.wait(trace, task);
        Found {
            wait: self.noted(wait, who).flatten(),
            function,
        }
    }

    fn wait(&self, trace: &StackTrace, task: GuestVirt) -> Result<Option<Wait>> {
        let kernel = self.kernel;
        if let Some(lock) = self.pi_blocked_on(task)? {
            let mutex = locking::rt_mutex(kernel, lock)?;
            self.miss(mutex.missing);
            return Ok(Some(self.at(Object::RtMutex, lock, mutex.owner)));
        }
        let Some(first) = trace.frames.first() else {
            return Ok(None);
        };
        let of_task = |member| offset_of(kernel, "struct task_struct", member);
        let stack = GuestVirt(kernel.read_u64(task.offset(of_task("stack")?))?);
        if first.sp.0.wrapping_sub(stack.0) >= self.stack_size {
            return Ok(None);
        }
        let words = Words::read(kernel, first.sp, stack.offset(self.stack_size))?;
        let waiters = |kind| words.waiters(kernel, task, kind, self.stack_size);
        let on = function_of(trace);
        let (lock, waiter) = match on {
            Some(Object::Mutex) => ("struct mutex", "struct mutex_waiter"),
            Some(Object::RwSem) => ("struct rw_semaphore", "struct rwsem_waiter"),
            Some(Object::Semaphore) => ("struct semaphore", "struct semaphore_waiter"),
            Some(Object::Completion) => {
                let kind = Kind::of(kernel, "struct swait_queue", "task", "task_list")?;
                let head = offset_of(kernel, "struct completion", "wait.task_list")?;
                let heads = waiters(kind).into_iter().filter_map(|waiter| waiter.head);
                let at = heads.map(|at| at.back(head)).next();
                return Ok(at.map(|at| self.completion(at)));
            }
            _ => return self.wait_queue(on, waiters(Kind::entry(kernel)?)),
        };
        let list = Kind::of(kernel, waiter, "task", "list")?;
        let hints = ["blocked_on", "blocker"].map(|member| {
            let word = of_task(member).and_then(|offset| kernel.read_u64(task.offset(offset)));
            // The two lowest bits of `blocker` are its type.
            word.map_or(0, |word| word & !3)
        });
        for waiter in waiters(list) {
            if let Some(at) = self.lock(lock, &waiter, hints.iter().chain(&words.words))? {
                return self
                    .held(on.unwrap_or(Object::Mutex), at, trace.pid)
                    .map(Some);
            }
        }
        Ok(None)
    }

    /// `pi_blocked_on->lock`.
    fn pi_blocked_on(&self, task: GuestVirt) -> Result<Option<GuestVirt>> {
        let kernel = self.kernel;
        // A kernel without CONFIG_RT_MUTEXES has none.
        let Ok(offset) = offset_of(kernel, "struct task_struct", "pi_blocked_on") else {
            return Ok(None);
        };
        let waiter = GuestVirt(kernel.read_u64(task.offset(offset))?);
        if waiter.is_null() {
            return Ok(None);
        }
        let lock = waiter.offset(offset_of(kernel, "struct rt_mutex_waiter", "lock")?);
        Ok(Some(GuestVirt(kernel.read_u64(lock)?)))
    }

    /// The lock whose list a waiter is in: around the list's head, or, where the list has none, the one of the candidates
    /// whose `first_waiter` is in the ring.
    fn lock<'w>(
        &self,
        c: &str,
        waiter: &Waiter,
        mut candidates: impl Iterator<Item = &'w u64>,
    ) -> Result<Option<GuestVirt>> {
        let kernel = self.kernel;
        let Ok(first) = offset_of(kernel, c, "first_waiter") else {
            let list = offset_of(kernel, c, "wait_list")?;
            return Ok(waiter.head.map(|head| head.back(list)));
        };
        let list = waiter
            .ring
            .first()
            .map_or(0, |node| node.0.wrapping_sub(waiter.at.0));
        let found = candidates.find(|word| {
            let at = GuestVirt(**word);
            at.0 >> 63 != 0
                && at.0 & 7 == 0
                && kernel
                    .read_u64(at.offset(first))
                    .is_ok_and(|first| waiter.ring.contains(&GuestVirt(first).offset(list)))
        });
        Ok(found.map(|word| GuestVirt(*word)))
    }

    /// A lock with its holder.
    fn held(&self, on: Object, at: GuestVirt, pid: i32) -> Result<Wait> {
        let kernel = self.kernel;
        match on {
            Object::RwSem => {
                let sem = self.rwsem(at)?;
                let me = sem.waiters.iter().find(|waiter| waiter.task.pid == pid);
                let readers = match sem.state {
                    RwState::Readers(readers) => Some(readers),
                    RwState::Free | RwState::Writer => None,
                };
                Ok(Wait {
                    readers,
                    writes: me.and_then(|me| me.writer),
                    ..self.at(on, at, sem.owner.clone())
                })
            }
            Object::Semaphore => {
                // Since 6.16, where the detector of hung tasks is built in.
                let last = offset_of(kernel, "struct semaphore", "last_holder");
                let last = last.ok().map(|last| kernel.read_u64(at.offset(last)));
                let holder = last.transpose()?.filter(|task| *task != 0);
                let holder = holder.map(|task| Contender::read(kernel, GuestVirt(task)));
                let holder = holder.transpose()?;
                Ok(self.at(on, at, holder))
            }
            _ => Ok(self.at(on, at, self.owner(at)?)),
        }
    }

    /// The owner of a mutex, which is read once for all of its waiters.
    fn owner(&self, at: GuestVirt) -> Result<Option<Contender>> {
        if let Some(owner) = self.mutexes.borrow().get(&at) {
            return Ok(owner.clone());
        }
        let mutex = locking::mutex(self.kernel, at)?;
        self.miss(mutex.missing);
        self.mutexes.borrow_mut().insert(at, mutex.owner.clone());
        Ok(mutex.owner)
    }

    /// A semaphore, which is read once for all of its waiters.
    fn rwsem(&self, at: GuestVirt) -> Result<Rc<RwSem>> {
        if let Some(sem) = self.rwsems.borrow().get(&at) {
            return Ok(Rc::clone(sem));
        }
        let sem = Rc::new(locking::rwsem(self.kernel, at)?);
        self.miss(sem.missing.iter().cloned());
        self.rwsems.borrow_mut().insert(at, Rc::clone(&sem));
        Ok(sem)
    }

    fn completion(&self, at: GuestVirt) -> Wait {
        let child = self.children.get(&at);
        let who = || format!("who is to do the completion {at}");
        let child = child.and_then(|task| self.noted(Contender::read(self.kernel, *task), who));
        self.at(Object::Completion, at, child)
    }

    /// The thing behind a `wait_queue_entry`: a folio, a semaphore, else the queue itself.
    fn wait_queue(&self, on: Option<Object>, waiters: Vec<Waiter>) -> Result<Option<Wait>> {
        let kernel = self.kernel;
        for waiter in waiters {
            if on == Some(Object::Folio) {
                let c = "struct wait_page_queue";
                let folio =
                    offset_of(kernel, c, "folio").or_else(|_| offset_of(kernel, c, "page"))?;
                let key = waiter.at.back(offset_of(kernel, c, "wait")?);
                let folio = GuestVirt(kernel.read_u64(key.offset(folio))?);
                return Ok(Some(self.at(Object::Folio, folio, None)));
            }
            let Some(head) = waiter.head else { continue };
            let queue = head.back(offset_of(kernel, "struct wait_queue_head", "head")?);
            return Ok(Some(match on {
                Some(Object::PercpuRwSem) => {
                    let waiters = offset_of(kernel, "struct percpu_rw_semaphore", "waiters")?;
                    self.at(Object::PercpuRwSem, queue.back(waiters), None)
                }
                _ => self.at(Object::WaitQueue, queue, None),
            }));
        }
        Ok(None)
    }

    fn at(&self, on: Object, at: GuestVirt, holder: Option<Contender>) -> Wait {
        Wait {
            on,
            at,
            within: self.within(on, at),
            holder,
            readers: None,
            writes: None,
        }
    }

    /// The file systems whose writers wait.
    fn frozen(&self) -> &[(Range<GuestVirt>, Frozen)] {
        self.frozen.get_or_init(|| {
            let read = || -> Result<_> {
                let size = self.kernel.c_type("struct super_block")?.size()?;
                Ok((size, fs::frozen_filesystems(self.kernel)?))
            };
            let what = || "the file systems that are frozen".to_owned();
            let Some((size, all)) = self.noted(read(), what) else {
                return Vec::new();
            };
            self.miss(all.missing);
            let all = all.items.into_iter();
            all.map(|one| (one.at..one.at.offset(size), one)).collect()
        })
    }

    /// The symbol or object that a thing lies in, in few words.
    fn within(&self, on: Object, at: GuestVirt) -> Option<String> {
        if on == Object::PercpuRwSem
            && let Some((_, fs)) = self.frozen().iter().find(|(bytes, _)| bytes.contains(&at))
        {
            return Some(format!("{} on {}, which is frozen", fs.fs_type, fs.id));
        }
        let identifier = self.identifier.get_or_init(|| Identifier::new(self.guest));
        let what = identifier.as_ref().map_err(Clone::clone);
        let what = what.and_then(|identifier| identifier.what(at));
        let what = self.noted(what, || format!("what the {} {at} lies in", on.name()))?;
        self.miss(what.missing.iter().cloned());
        let mut words = what.things.iter().filter_map(|thing| match thing {
            Thing::Symbol { symbol, .. } => Some(symbol.to_string()),
            Thing::Stack { pid, comm, .. } => Some(format!("the stack of {comm} ({pid})")),
            Thing::Slab {
                object,
                member,
                about,
            } => {
                let c = object.c_type.as_deref().unwrap_or(&object.cache);
                // The path goes on to the thing's own first member.
                let member = member.as_deref().map(|path| up_to(path, on.first()));
                let member = member.map_or_else(String::new, |member| format!(".{member}"));
                let about = about.as_ref().map_or_else(String::new, |a| format!(" {a}"));
                Some(format!("{c}{member}{about}"))
            }
            _ => None,
        });
        words.next()
    }
}

/// A path of members, up to the last of these names.
fn up_to<'p>(path: &'p str, names: &[&str]) -> &'p str {
    let mut parts = path.rmatch_indices('.').map(|(dot, _)| dot);
    let is = |dot: &usize| {
        let rest = path.get(dot + 1..).unwrap_or_default();
        let part = rest.split('.').next().unwrap_or_default();
        names.contains(&part)
    };
    let cut = parts.find(is);
    cut.and_then(|dot| path.get(..dot)).unwrap_or(path)
}

/// The thing that a task waits for, by the innermost function that says so.
fn function_of(trace: &StackTrace) -> Option<Object> {
    let frames = trace.frames.iter().take(FRAMES);
    frames
        .filter_map(|frame| {
            let known = FUNCTIONS.iter();
            let found = known.filter(|(prefix, _)| frame.function.starts_with(prefix));
            found.map(|(_, on)| *on).next()
        })
        .next()
}
