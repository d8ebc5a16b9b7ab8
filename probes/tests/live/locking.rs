//! Locks and wait queues that are held and waited for: `/proc/PID/stack` says which task does which.

use std::collections::BTreeMap;

use probes::locking::{Contender, RwState};
use probes::memory::GuestVirt;
use vm::agent::WorkloadKind;

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_held_by_whom_proc_says);

/// A reader of the log that sleeps and holds its file's mutex, one that waits for that mutex; a file system whose server
/// never answers, with a directory that is locked for writing, and one that is locked for reading; and a parent that waits
/// until its child has executed a program of that file system.
const HOLDERS: &str = r"
    modprobe fuse 2>/dev/null
    for d in w r; do
        mkdir -p /tmp/$d
        setsid sh -c 'exec 3<>/dev/fuse; mount -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 none /tmp/$0; exec sleep 8000' $d \
            </dev/null >/dev/null 2>&1 &
        for i in $(seq 100); do grep -q /tmp/$d /proc/mounts && break; sleep 0.1; done
        grep -q /tmp/$d /proc/mounts || exit 1
    done
    in_stack() { for i in $(seq 100); do grep -q $2 /proc/$1/stack && echo $3 $1 && return; sleep 0.1; done; exit 1; }
    quiet() { setsid $@ </dev/null >/dev/null 2>&1 & }
    exec 5</dev/kmsg
    setsid cat <&5 >/dev/null 2>&1 & in_stack $! devkmsg_read reader
    sleep 1; setsid cat <&5 >/dev/null 2>&1 & in_stack $! devkmsg_read second
    quiet mkdir /tmp/w/a; in_stack $! fuse_lookup writer
    quiet mkdir /tmp/w/b; in_stack $! mkdir wants_to_write
    quiet cat /tmp/w/c; in_stack $! openat wants_to_read
    quiet cat /tmp/r/a; in_stack $! fuse_lookup first_reader
    quiet cat /tmp/r/b; in_stack $! fuse_lookup last_reader
    quiet mkdir /tmp/r/c; in_stack $! mkdir wants_to_write_r
    quiet busybox time /tmp/r/d; in_stack $! vfork parent
";

/// Starts them; their PIDs.
pub(crate) fn holders(ground: &mut Ground) -> BTreeMap<String, i32> {
    let said = ground.sh(HOLDERS);
    let each = said.lines().filter_map(|line| line.split_once(' '));
    each.map(|(what, pid)| (what.to_owned(), pid.parse().unwrap()))
        .collect()
}

pub(crate) fn are_held_by_whom_proc_says(kernel: &str) {
    let mut ground = Ground::bare(kernel, vm::Options::default().memory);
    let who = holders(&mut ground);
    // There a semaphore keeps neither its readers' names nor the wish of a task that queues up.
    let rt = ground.sh("uname -v").contains("PREEMPT_RT");
    let lock = ground.agent.workload(WorkloadKind::Contended).unwrap();
    let guest = &ground.guest;
    let mut ledger = Ledger::new(format!("locks on {kernel}"));
    let at = |expression: String| guest.eval(&expression).unwrap().pointer().unwrap();
    let pids = |tasks: &[&Contender]| tasks.iter().map(|task| task.pid).collect::<Vec<_>>();
    let owner = |task: &Option<Contender>| task.as_ref().map_or(0, |task| task.pid);

    let queue = guest.wait_queue(guest.symbol("log_wait").unwrap()).unwrap();
    // A kernel may have threads that write the log to the consoles.
    let printer = |task: &Option<Contender>| {
        task.as_ref()
            .is_some_and(|task| task.comm.starts_with("pr/"))
    };
    let waits = queue
        .waiters
        .iter()
        .filter(|entry| !printer(&entry.task))
        .map(|entry| owner(&entry.task))
        .collect::<Vec<_>>();
    ledger.same("log_wait", "wait queue", &waits, &vec![who["reader"]]);
    ledger.same(
        "log_wait",
        "wait queue",
        &&*queue.waiters[0].function,
        &"autoremove_wake_function",
    );

    let file = guest.files(who["reader"]).unwrap()[0].at;
    let mutex = at(format!(
        "&((struct devkmsg_user *)((struct file *){file})->private_data)->lock"
    ));
    let mutex = guest.mutex(mutex).unwrap();
    ledger.same(
        "devkmsg_user",
        "mutex",
        &owner(&mutex.owner),
        &who["reader"],
    );
    let waiters: Vec<&Contender> = mutex.waiters.iter().collect();
    ledger.same(
        "devkmsg_user",
        "mutex",
        &pids(&waiters),
        &vec![who["second"]],
    );
    let free = guest.mutex(guest.symbol("cgroup_mutex").unwrap()).unwrap();
    ledger.same(
        "cgroup_mutex",
        "mutex",
        &(owner(&free.owner), free.waiters.len()),
        &(0, 0),
    );

    let directory = |path: &str| {
        let mounts = guest.mounts(1).unwrap();
        let sb = mounts.iter().find(|mount| mount.path == path).unwrap().sb;
        let inode = at(format!("((struct super_block *){sb})->s_root->d_inode"));
        at(format!("&((struct inode *){inode})->i_rwsem"))
    };
    let sem = guest.rwsem(directory("/tmp/w")).unwrap();
    ledger.same("/tmp/w", "rw_semaphore", &sem.state, &RwState::Writer);
    ledger.same("/tmp/w", "rw_semaphore", &owner(&sem.owner), &who["writer"]);
    let waiters: Vec<(i32, Option<bool>)> = sem
        .waiters
        .iter()
        .map(|one| (one.task.pid, one.writer))
        .collect();
    let wants = [("wants_to_write", true), ("wants_to_read", false)]
        .map(|(name, writes)| (who[name], (!rt).then_some(writes)))
        .to_vec();
    ledger.same("/tmp/w", "rw_semaphore", &waiters, &wants);
    let sem = guest.rwsem(directory("/tmp/r")).unwrap();
    ledger.same("/tmp/r", "rw_semaphore", &sem.state, &RwState::Readers(2));
    ledger.same(
        "/tmp/r",
        "rw_semaphore",
        &owner(&sem.owner),
        &if rt { 0 } else { who["last_reader"] },
    );
    let first = sem.waiters.first().map(|one| (one.task.pid, one.writer));
    ledger.same(
        "/tmp/r",
        "rw_semaphore",
        &first,
        &Some((who["wants_to_write_r"], Some(true))),
    );
    let free = guest
        .rwsem(
            guest
                .symbol("shrinker_rwsem")
                .or_else(|_| guest.symbol("uts_sem"))
                .unwrap(),
        )
        .unwrap();
    ledger.same("uts_sem", "rw_semaphore", &free.state, &RwState::Free);

    let tasks = guest.tasks().unwrap();
    let child = tasks
        .iter()
        .find(|task| task.ppid == Some(who["parent"]))
        .unwrap()
        .at;
    let done = at(format!("((struct task_struct *){child})->vfork_done"));
    let done = guest.completion(done).unwrap();
    let waiters: Vec<&Contender> = done.waiters.iter().collect();
    ledger.same(
        "vfork_done",
        "completion",
        &pids(&waiters),
        &vec![who["parent"]],
    );
    ledger.same("vfork_done", "completion", &done.done, &0);

    let threads = guest.threads(lock.pid).unwrap();
    let named = |name: &str| threads.iter().find(|task| task.comm == name).unwrap();
    let mut found = None;
    // The last ones may be on their way into the kernel still.
    for _ in 0..100 {
        let waiter = named("klab-lock-2").at;
        let blocked = at(format!("((struct task_struct *){waiter})->pi_blocked_on"));
        if blocked != GuestVirt(0) {
            let lock = at(format!("((struct rt_mutex_waiter *){blocked})->lock"));
            found = guest
                .rt_mutex(lock)
                .ok()
                .filter(|lock| lock.waiters.len() == 2);
        }
        if found.is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let lock = found.unwrap();
    ledger.same(
        "futex",
        "rt_mutex",
        &owner(&lock.owner),
        &named("klab-lock-0").pid,
    );
    let mut waiters: Vec<i32> = lock.waiters.iter().map(|one| one.task.pid).collect();
    waiters.sort_unstable();
    let mut said = vec![named("klab-lock-1").pid, named("klab-lock-2").pid];
    said.sort_unstable();
    ledger.same("futex", "rt_mutex", &waiters, &said);
    ledger.same("futex", "rt_mutex", &lock.waiters[0].prio, &120);
    ledger.end(&[
        ("wait queue", 2),
        ("mutex", 3),
        ("rw_semaphore", 7),
        ("completion", 2),
        ("rt_mutex", 3),
    ]);
}
