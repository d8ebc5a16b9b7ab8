//! Resource limits: `signal_struct.rlim` (`include/uapi/asm-generic/resource.h`, `fs/proc/base.c`).

use serde::Serialize;

use crate::Listing;
use crate::guest::Guest;
use crate::structures::array;
use crate::{Error, Named, Result};

/// `RLIMIT_*` by number: the name in lower case, and the words of `/proc/PID/limits`.
const RESOURCES: [(&str, &str, &str); 16] = [
    ("cpu", "Max cpu time", "seconds"),
    ("fsize", "Max file size", "bytes"),
    ("data", "Max data size", "bytes"),
    ("stack", "Max stack size", "bytes"),
    ("core", "Max core file size", "bytes"),
    ("rss", "Max resident set", "bytes"),
    ("nproc", "Max processes", "processes"),
    ("nofile", "Max open files", "files"),
    ("memlock", "Max locked memory", "bytes"),
    ("as", "Max address space", "bytes"),
    ("locks", "Max file locks", "locks"),
    ("sigpending", "Max pending signals", "signals"),
    ("msgqueue", "Max msgqueue size", "bytes"),
    ("nice", "Max nice priority", ""),
    ("rtprio", "Max realtime priority", ""),
    ("rttime", "Max realtime timeout", "us"),
];

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rlimit {
    /// `RLIMIT_*`, without `RLIMIT_`, in lower case.
    pub name: &'static str,
    /// Name in `/proc/PID/limits`.
    pub what: &'static str,
    /// Unit; empty for a plain number.
    pub unit: &'static str,
    /// Limit in force, in `unit`: `rlim_cur`; `None` is no limit.
    pub soft: Option<u64>,
    /// Limit to which the task may raise it, in `unit`: `rlim_max`; `None` is no limit.
    pub hard: Option<u64>,
}

/// The limits of a process, in the order of their numbers.
pub type Rlimits = Listing<Rlimit>;

impl Named for Rlimit {
    type Value<'a> = &'a Self;

    fn name(&self) -> &str {
        self.name
    }

    fn value(&self) -> &Self {
        self
    }
}

impl Guest {
    /// The limits of the process that `pid` belongs to: `/proc/PID/limits`.
    ///
    /// # Errors
    /// `Absent` if there is no such task; `Torn` if they keep changing.
    pub fn rlimits(&self, pid: i32) -> Result<Rlimits> {
        self.of_task(pid, "the limits", |kernel, task| {
            let (rlim, count, stride) = array(kernel, "struct signal_struct", "rlim")?;
            let limit =
                |(i, (name, what, unit)): (usize, &(&'static str, &'static str, &'static str))| {
                    let at = task.signal.offset(rlim + stride * i as u64);
                    // RLIM_INFINITY is ~0.
                    let read = |at| {
                        let limit = kernel.read_u64(at)?;
                        Ok::<_, Error>((limit != u64::MAX).then_some(limit))
                    };
                    Ok(Rlimit {
                        name,
                        what,
                        unit,
                        soft: read(at)?,
                        hard: read(at.offset(8))?,
                    })
                };
            RESOURCES
                .iter()
                .take(count)
                .enumerate()
                .map(limit)
                .collect()
        })
    }
}
