//! Workloads, from the server's side: start, wait until complete, step, stop.
//!
//! A workload is this binary again, in a process group of its own. It gets its shape and its steps as frames on
//! its standard input and says on its standard output what it made; the end of its standard input ends it.

mod bpf;
mod confined;
mod contended;
pub(crate) mod memory;
pub(crate) mod shape;
pub(crate) mod socket;

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use klab_wire::{
    Made, WorkloadInfo, WorkloadKind,
    frame::{self, Decoder},
    proc::Task,
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Context as _, Error, Result, reason},
    proc,
};

/// The argument that makes this binary a workload's first process.
pub(crate) const PARENT: &str = "workload";
/// The argument that makes this binary another process of a workload.
pub(crate) const CHILD: &str = "workload-child";
/// Time that a workload may take to become complete.
const COMPLETE: Duration = Duration::from_secs(25);
/// The most workloads at once.
const MAX_WORKLOADS: usize = 256;

/// Message of a workload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Said {
    /// It made something.
    Made(Made),
    /// The end of the list; the workload is complete once so many of its threads have names that begin so.
    Ready { tasks: usize, comm: String },
    /// It cannot be made.
    Failed(String),
}

/// Message to a workload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Told {
    /// Its shape; first.
    Shape(WorkloadKind),
    /// Moves the program break.
    Step(i64),
}

/// The workloads that run.
#[derive(Debug, Default)]
pub(crate) struct Workloads {
    last: AtomicU32,
    all: Mutex<BTreeMap<u32, Arc<Mutex<Workload>>>>,
}

impl Workloads {
    pub(crate) fn start(&self, kind: WorkloadKind) -> Result<WorkloadInfo> {
        shape::check(&kind)?;
        if self
            .all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
            >= MAX_WORKLOADS
        {
            return Err(Error(format!(
                "{MAX_WORKLOADS} workloads run already; stop some"
            )));
        }
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let workload = Workload::start(id, kind)?;
        let info = workload.info.clone();
        self.all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, Arc::new(Mutex::new(workload)));
        Ok(info)
    }

    pub(crate) fn step(&self, id: u32, bytes: i64) -> Result<WorkloadInfo> {
        let workload = self.get(id)?;
        let mut workload = workload.lock().unwrap_or_else(PoisonError::into_inner);
        if workload.info.kind != WorkloadKind::Brk {
            return Err(Error(format!(
                "workload {id} is `{}`; only `brk` has steps",
                workload.info.kind.name()
            )));
        }
        workload.tell(&Told::Step(bytes))?;
        workload.hear()?;
        Ok(workload.info.clone())
    }

    pub(crate) fn stop(&self, id: u32) -> Result<()> {
        let workload = self.get(id)?;
        self.all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        workload
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stop();
        Ok(())
    }

    pub(crate) fn list(&self) -> Vec<WorkloadInfo> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.values()
            .map(|w| {
                w.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .info
                    .clone()
            })
            .collect()
    }

    fn get(&self, id: u32) -> Result<Arc<Mutex<Workload>>> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&id)
            .cloned()
            .ok_or_else(|| Error(format!("there is no workload {id}")))
    }
}

/// A workload's first process and the pipes to it.
#[derive(Debug)]
struct Workload {
    info: WorkloadInfo,
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    decoder: Decoder,
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Workload {
    fn start(id: u32, kind: WorkloadKind) -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("klab-workload")
            .arg(PARENT)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command
            .spawn()
            .map_err(|e| Error(format!("cannot start a workload: {}", reason(&e))))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error("a workload has no pipes".to_owned()));
        };
        let pid = i32::try_from(child.id()).context("a pid")?;
        let info = WorkloadInfo {
            id,
            kind: kind.clone(),
            pid,
            tasks: Vec::new(),
            made: Vec::new(),
        };
        let mut workload = Self {
            info,
            child,
            to,
            from,
            decoder: Decoder::new(),
        };
        workload.tell(&Told::Shape(kind))?;
        workload.hear()?;
        Ok(workload)
    }

    fn tell(&mut self, told: &Told) -> Result<()> {
        let bytes = frame::encode(told)?;
        self.to.write_all(&bytes).context("the workload has ended")
    }

    /// Takes what the workload says until it is ready, then waits until all of it is there.
    fn hear(&mut self) -> Result<()> {
        let mut made = Vec::new();
        let mut buf = vec![0; 16 * 1024];
        let (expected, comm) = loop {
            match self.decoder.message() {
                Some(Ok(Said::Made(one))) => made.push(one),
                Some(Ok(Said::Ready { tasks, comm })) => break (tasks, comm),
                Some(Ok(Said::Failed(text))) => return Err(Error(text)),
                Some(Err(e)) => return Err(e.into()),
                None => match self.from.read(&mut buf) {
                    Ok(0) => {
                        return Err(Error(
                            "the workload ended before it was complete".to_owned(),
                        ));
                    }
                    // After `None` there is room for a whole frame, which is more than this buffer.
                    Ok(n) => _ = self.decoder.push(&buf[..n]),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e.into()),
                },
            }
        };
        let tasks = self.complete(expected, &comm)?;
        made.extend(tasks.iter().filter_map(inner));
        self.info.tasks = tasks;
        self.info.made = made;
        Ok(())
    }

    fn complete(&self, expected: usize, comm: &str) -> Result<Vec<Task>> {
        let deadline = Instant::now() + COMPLETE;
        loop {
            let tasks = proc::tasks(|stat| stat.pgrp == self.info.pid);
            let there = tasks.iter().filter(|t| t.comm.starts_with(comm)).count();
            if there >= expected {
                return Ok(tasks);
            }
            if Instant::now() > deadline {
                return Err(Error(format!(
                    "the workload has only {there} of {expected} tasks after {COMPLETE:?}"
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the group and waits until nothing of it is left.
    fn stop(&mut self) {
        let group = Pid::from_raw(self.info.pid);
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = killpg(group, Signal::SIGKILL);
            let _ = self.child.wait();
            // The others are orphans now, and PID 1 waits for them.
            let deadline = Instant::now() + COMPLETE;
            while killpg(group, None).is_ok() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// A task whose pid in its own namespace is another.
fn inner(task: &Task) -> Option<Made> {
    let inner = *task.nspid.last()?;
    (task.nspid.len() > 1).then_some(Made::Namespace {
        pid: task.pid,
        inner,
    })
}
