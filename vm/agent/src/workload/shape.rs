//! Workloads, from their own side: processes that take a shape and keep it.

use std::{
    ffi::CString,
    io::{ErrorKind, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    thread,
};

use klab_wire::{
    Made, WorkloadKind,
    frame::{self, Decoder},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::wait::{Id, WaitPidFlag, waitid},
    unistd::Pid,
};

use super::{CHILD, Said, Told, bpf, confined, contended, memory, socket};
use crate::error::{Error, Result, reason};

/// `TASK_COMM_LEN` of `include/linux/sched.h` without its zero.
const COMM: usize = 15;
const MAX_TASKS: usize = 4096;
/// Below the default of `/proc/sys/vm/max_map_count`, 65530.
const MAX_AREAS: u32 = 60_000;
/// Bytes that a busy process allocates each time round.
const BUSY_BYTES: usize = 1 << 20;
const THREAD_STACK: usize = 64 * 1024;

/// Says what is wrong with a shape before anything is started.
pub(crate) fn check(kind: &WorkloadKind) -> Result<()> {
    let (tasks, comm, longest) = match kind {
        WorkloadKind::Sleep { comm } => (1, comm.as_str(), COMM),
        WorkloadKind::Tree { depth, width, comm } => {
            (tree_size(*depth, *width), comm.as_str(), COMM)
        }
        WorkloadKind::Threads { count, comm } => (usize::from(*count), comm.as_str(), COMM - 5),
        WorkloadKind::Zombies { count } => (usize::from(*count), "z", COMM),
        WorkloadKind::Maps { count } if *count > MAX_AREAS => {
            return Err(Error(format!(
                "{count} areas are too many: at most {MAX_AREAS}"
            )));
        }
        WorkloadKind::Namespaces { count: 0 } | WorkloadKind::Busy { count: 0 } => {
            return Err(Error(format!(
                "a workload `{}` has at least one process",
                kind.name()
            )));
        }
        _ => return Ok(()),
    };
    if tasks > MAX_TASKS {
        return Err(Error(format!(
            "{tasks} tasks are too many: at most {MAX_TASKS}"
        )));
    }
    if comm.is_empty() || comm.len() > longest || comm.contains(['\0', '\n']) {
        return Err(Error(format!(
            "`{comm}` is no name for this workload: 1 to {longest} bytes"
        )));
    }
    Ok(())
}

/// Processes of a tree, the first too.
fn tree_size(depth: u8, width: u8) -> usize {
    let (mut level, mut all) = (1_usize, 1_usize);
    for _ in 0..depth {
        level = level.saturating_mul(usize::from(width));
        all = all.saturating_add(level);
    }
    all
}

/// The first process of a workload.
pub(crate) fn parent() {
    let mut told = Tell::default();
    let Some(Told::Shape(kind)) = told.next() else {
        return;
    };
    // Held until the end: a zombie is a child that is not waited for.
    let mut children = Vec::new();
    if let Err(e) = take_shape(&kind, &mut children) {
        say(&Said::Failed(e.0));
        return;
    }
    while let Some(told) = told.next() {
        if let Told::Step(bytes) = told {
            match memory::step(bytes) {
                Ok(at) => {
                    say(&Said::Made(Made::Break { at }));
                    say(&Said::Ready {
                        tasks: 0,
                        comm: String::new(),
                    });
                }
                Err(e) => say(&Said::Failed(e.0)),
            }
        }
    }
    // Nobody listens any more: the server has gone, and PID 1 kills the rest of the group.
}

fn take_shape(kind: &WorkloadKind, children: &mut Vec<Child>) -> Result<()> {
    let ready = |tasks: usize, comm: &str| {
        say(&Said::Ready {
            tasks,
            comm: comm.to_owned(),
        })
    };
    match kind {
        WorkloadKind::Sleep { comm } => {
            set_comm(comm);
            ready(1, comm);
        }
        WorkloadKind::Tree { depth, width, comm } => {
            set_comm(comm);
            tree(*depth, *width, comm, children)?;
            ready(tree_size(*depth, *width), comm);
        }
        WorkloadKind::Threads { count, comm } => {
            set_comm(comm);
            for i in 0..*count {
                let thread = thread::Builder::new()
                    .name(format!("{comm}-{i}"))
                    .stack_size(THREAD_STACK);
                thread.spawn(|| {
                    loop {
                        thread::park();
                    }
                })?;
            }
            ready(usize::from(*count) + 1, comm);
        }
        WorkloadKind::Maps { count } => {
            set_comm("klab-maps");
            for made in memory::map_all(*count)? {
                say(&Said::Made(made));
            }
            ready(1, "klab-maps");
        }
        WorkloadKind::Brk => {
            set_comm("klab-brk");
            say(&Said::Made(Made::Break {
                at: memory::step(0)?,
            }));
            ready(1, "klab-brk");
        }
        WorkloadKind::Zombies { count } => {
            set_comm("klab-zombies");
            for _ in 0..*count {
                children.push(spawn(&["zombie"])?);
            }
            for child in children {
                let pid = i32::try_from(child.id())?;
                waitid(
                    Id::Pid(Pid::from_raw(pid)),
                    WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT,
                )?;
                say(&Said::Made(Made::Zombie { pid }));
            }
            ready(usize::from(*count) + 1, "klab-zombie");
        }
        WorkloadKind::Namespaces { count } => {
            set_comm("klab-ns");
            // Only children are in the new pid namespace; the first becomes its pid 1.
            unshare(CloneFlags::CLONE_NEWPID)?;
            children.push(spawn(&["namespace", &count.to_string()])?);
            ready(usize::from(*count) + 1, "klab-ns");
        }
        WorkloadKind::Busy { count } => {
            set_comm("klab-busy");
            for _ in 0..*count {
                children.push(spawn(&["busy"])?);
            }
            ready(usize::from(*count) + 1, "klab-busy");
        }
        WorkloadKind::Confined => {
            set_comm("klab-confined");
            confined::confine()?;
            ready(2, "klab-confined");
        }
        WorkloadKind::Contended => {
            set_comm("klab-lock");
            contended::queue()?;
            ready(1 + contended::THREADS, "klab-lock");
        }
        WorkloadKind::Deadline => {
            set_comm("klab-dl");
            children.push(spawn(&["deadline"])?);
            ready(1, "klab-deadline");
        }
        WorkloadKind::Socket { kind, netns } => {
            set_comm("klab-socket");
            socket::open(*kind, netns)?;
            ready(1, "klab-socket");
        }
        WorkloadKind::Bpf => {
            set_comm("klab-bpf");
            bpf::make()?;
            ready(1, "klab-bpf");
        }
    }
    Ok(())
}

/// Any other process of a workload.
pub(crate) fn child(args: &[String]) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["tree", depth, width, comm] => {
            set_comm(comm);
            let mut children = Vec::new();
            if let (Ok(depth), Ok(width)) = (depth.parse(), width.parse()) {
                // A level that cannot be made is missed by the count.
                let _ = tree(depth, width, comm, &mut children);
            }
            sleep()
        }
        ["zombie"] => set_comm("klab-zombie"),
        ["namespace", count] => namespace(count.parse().unwrap_or(1)),
        ["sleep", comm] => {
            set_comm(comm);
            sleep()
        }
        ["deadline"] if contended::deadline().is_ok() => {
            set_comm("klab-deadline");
            loop {
                std::hint::spin_loop();
            }
        }
        ["busy"] => {
            set_comm("klab-busy");
            loop {
                if let Ok(mut child) = spawn(&["zombie"]) {
                    let _ = child.wait();
                }
                let mut memory = vec![0_u8; BUSY_BYTES];
                for page in memory.chunks_mut(4096) {
                    page[0] = 1;
                }
                std::hint::black_box(&memory);
            }
        }
        _ => {}
    }
}

/// Pid 1 of a pid namespace: makes the other namespaces and the other processes.
fn namespace(count: u8) {
    let flags = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    let made = unshare(flags)
        .and_then(|()| nix::unistd::sethostname("klab-inner"))
        .and_then(|()| {
            mount::<str, str, str, str>(
                None,
                "/",
                None,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None,
            )
        })
        .and_then(|()| {
            mount::<_, _, _, str>(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None)
        });
    // Under another name it does not count, so that the server says what is missing.
    if made.is_err() {
        return;
    }
    let children: Vec<_> = (2..=count)
        .map(|i| spawn(&["sleep", &format!("klab-ns-{i}")]))
        .collect();
    set_comm("klab-ns-1");
    sleep();
    drop(children);
}

fn tree(depth: u8, width: u8, comm: &str, children: &mut Vec<Child>) -> Result<()> {
    if let Some(depth) = depth.checked_sub(1) {
        for _ in 0..width {
            children.push(spawn(&[
                "tree",
                &depth.to_string(),
                &width.to_string(),
                comm,
            ])?);
        }
    }
    Ok(())
}

fn spawn(args: &[&str]) -> Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("klab-workload")
        .arg(CHILD)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().map_err(|e| {
        Error(format!(
            "cannot start a process of the workload: {}",
            reason(&e)
        ))
    })
}

fn sleep() {
    loop {
        nix::unistd::pause();
    }
}

fn set_comm(comm: &str) {
    if let Ok(comm) = CString::new(comm) {
        let _ = nix::sys::prctl::set_name(&comm);
    }
}

fn say(said: &Said) {
    if let Ok(bytes) = frame::encode(said) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(&bytes).and_then(|()| out.flush());
    }
}

/// Messages of the server, frame by frame.
#[derive(Default)]
struct Tell {
    decoder: Decoder,
}

impl Tell {
    /// `None` when nothing more will come.
    fn next(&mut self) -> Option<Told> {
        let mut buf = [0; 4096];
        loop {
            if let Some(told) = self.decoder.message() {
                return told.ok();
            }
            match std::io::stdin().lock().read(&mut buf) {
                Ok(0) => return None,
                Ok(n) => _ = self.decoder.push(&buf[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_checked() {
        assert_eq!(tree_size(2, 3), 13);
        assert_eq!(tree_size(255, 255), usize::MAX);
        let comm = || "x".to_owned();
        assert!(
            check(&WorkloadKind::Tree {
                depth: 255,
                width: 2,
                comm: comm()
            })
            .is_err()
        );
        assert!(
            check(&WorkloadKind::Tree {
                depth: 3,
                width: 4,
                comm: comm()
            })
            .is_ok()
        );
        assert!(
            check(&WorkloadKind::Sleep {
                comm: "sixteen bytes ..".to_owned()
            })
            .is_err()
        );
        assert!(check(&WorkloadKind::Maps { count: u32::MAX }).is_err());
    }
}
