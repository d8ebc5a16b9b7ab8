//! A fresh guest with a crowd in it, and the two ways to read it.

use std::sync::atomic::{AtomicU32, Ordering};

use probes::{Guest, Result};
use vm::agent::{Client, Workload, WorkloadKind, values};
use vm::{Machine, Options, Owner, Silent};

/// A guest that ends with the test.
pub(crate) struct Ground {
    pub(crate) guest: Guest,
    pub(crate) agent: Client,
    pub(crate) crowd: Vec<Workload>,
    machine: Option<Machine>,
}

/// Processes that the workloads do not offer: a user of its own, a nice value, a stopped process, a process whose
/// program was deleted, a mapped file with a blank in its name.
const ODD_ONES: &str = r"
    set -e
    cp /bin/busybox '/tmp/busybox 2'; cp /bin/busybox /tmp/busybox-gone
    echo u:x:1234:4321::/:/bin/sh >>/etc/passwd; echo g:x:4321: >>/etc/group
    start-stop-daemon -S -b -c 1234:4321 -x /bin/sleep -- 5001
    setsid '/tmp/busybox 2' sleep 5002 </dev/null >/dev/null 2>&1 &
    setsid /tmp/busybox-gone sleep 5003 </dev/null >/dev/null 2>&1 & gone=$!
    setsid sleep 5004 </dev/null >/dev/null 2>&1 & nice=$!
    setsid sleep 5005 </dev/null >/dev/null 2>&1 & stopped=$!
    until grep -q gone /proc/$gone/maps && grep -q sleep /proc/$stopped/comm; do sleep 0.1; done
    rm /tmp/busybox-gone
    renice -n 7 -p $nice
    kill -STOP $stopped
    until grep -q 'State:.T' /proc/$stopped/status; do sleep 0.1; done
";

impl Ground {
    /// A fresh copy of the ready guest of this kernel, with a crowd in it.
    pub(crate) fn new(kernel: &str) -> Self {
        let mut ground = Self::bare(kernel, Options::default().memory);
        ground.fill();
        ground
    }

    /// The same without the crowd, and with so many bytes of RAM.
    pub(crate) fn bare(kernel: &str, memory: u64) -> Self {
        Self::of(Options {
            kernel: kernel.parse().unwrap(),
            memory,
            ..Options::default()
        })
    }

    /// The same with one CPU, for the kernel's own tracers: with two QEMU may run code that the kernel has just patched as it was, and the guest
    /// dies of it (`kmod/int3.c`, which kernels without CONFIG_RUST cannot have).
    pub(crate) fn to_trace(kernel: &str) -> Self {
        Self::of(Options {
            kernel: kernel.parse().unwrap(),
            cpus: 1,
            ..Options::default()
        })
    }

    /// A fresh copy of the ready guest of these options.
    pub(crate) fn of(options: Options) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("live-{}-{id}", std::process::id());
        let options = Options {
            owner: Owner::ThisProcess,
            ..options
        };
        let machine = Machine::up(&name, &options, &mut Silent).unwrap();
        let agent = machine.agent().unwrap();
        let guest = Guest::attach(&name).unwrap();
        Self {
            guest,
            agent,
            crowd: Vec::new(),
            machine: Some(machine),
        }
    }

    /// Starts the crowd.
    pub(crate) fn fill(&mut self) {
        let kinds = [
            WorkloadKind::Tree {
                depth: 2,
                width: 3,
                comm: "fir".to_owned(),
            },
            WorkloadKind::Threads {
                count: 6,
                comm: "weave".to_owned(),
            },
            WorkloadKind::Maps { count: 60 },
            WorkloadKind::Brk,
            WorkloadKind::Zombies { count: 3 },
            WorkloadKind::Namespaces { count: 3 },
            WorkloadKind::Sleep {
                comm: "odd (1) name".to_owned(),
            },
        ];
        for kind in kinds {
            self.crowd.push(self.agent.workload(kind).unwrap());
        }
        self.sh(ODD_ONES);
    }

    /// Asks the agent anew, after the guest was put back into another state.
    pub(crate) fn renew(&mut self) {
        self.agent = self.guest.agent().unwrap();
    }

    /// Output of a shell line in the guest; it must succeed.
    pub(crate) fn sh(&mut self, line: &str) -> String {
        let output = self.agent.shell(line).unwrap();
        assert!(
            output.status.success(),
            "{line}: {:?} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        output.text()
    }

    /// The agent's reading, the memory's while the guest is paused, and the agent's again.
    pub(crate) fn sandwich<A, M>(
        &mut self,
        mut ask: impl FnMut(&mut Self) -> A,
        read: impl FnOnce(&Guest) -> Result<M>,
    ) -> (A, M, A) {
        let before = ask(self);
        let memory = self.guest.paused(read).unwrap();
        (before, memory, ask(self))
    }

    /// Every thread of every process, by `/proc`.
    pub(crate) fn tasks(&mut self) -> Vec<values::Task> {
        self.agent.proc_tasks().unwrap()
    }

    /// The processes with an address space, but for those that change it and change it back between two readings: the
    /// agent, which has threads more while it reads, and the busy ones.
    pub(crate) fn with_mm(&mut self) -> Vec<values::Task> {
        let mut tasks = self.tasks();
        tasks.retain(|task| {
            task.is_leader()
                && task.mm.is_some()
                && !["klab-agent", "klab-busy"].contains(&&*task.comm)
        });
        tasks
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Some(machine) = self.machine.take() {
            let _ = machine.down();
        }
    }
}
