//! Arguments and environment, in the process's own memory: `proc_pid_cmdline_read()`, `environ_read()` of
//! `fs/proc/base.c`.

use crate::guest::Guest;
use crate::memory::{AddressSpace, GuestVirt};
use crate::{Error, Result};

/// Bytes of arguments or environment that are read at most: a process may have a quarter of its stack's limit of them.
const MOST: u64 = 8 << 20;

impl Guest {
    /// The arguments of the process that `pid` belongs to: `/proc/PID/cmdline`. None of a kernel thread or zombie.
    ///
    /// # Errors
    /// [`Error::NotMapped`] where a page of them is not in RAM.
    pub fn cmdline(&self, pid: i32) -> Result<Vec<String>> {
        if self.task(pid)?.mm.is_none() {
            return Ok(Vec::new());
        }
        let (mm, space) = (self.mm(pid)?, self.user_space(pid)?);
        let mut bytes = read(&space, mm.arg_start, mm.arg_end)?;
        // A title that setproctitle() wrote over the arguments may go on over the environment: get_mm_proctitle().
        if bytes.last().is_some_and(|last| *last != 0) && mm.arg_end == mm.env_start {
            bytes.extend(read(&space, mm.env_start, mm.env_end)?);
            let end = bytes.iter().position(|byte| *byte == 0);
            bytes.truncate(end.unwrap_or(bytes.len()));
        }
        Ok(strings(&bytes))
    }

    /// The environment that the process was started with, as it lies in its memory now: `/proc/PID/environ`.
    ///
    /// # Errors
    /// [`Error::NotMapped`] where a page of it is not in RAM.
    pub fn environ(&self, pid: i32) -> Result<Vec<String>> {
        if self.task(pid)?.mm.is_none() {
            return Ok(Vec::new());
        }
        let (mm, space) = (self.mm(pid)?, self.user_space(pid)?);
        Ok(strings(&read(&space, mm.env_start, mm.env_end)?))
    }
}

fn read(space: &AddressSpace, start: GuestVirt, end: GuestVirt) -> Result<Vec<u8>> {
    let len = end.0.saturating_sub(start.0);
    if len > MOST {
        let why = format!("{start} to {end} are {len} bytes");
        return Err(Error::Malformed {
            what: "mm_struct",
            why,
        });
    }
    let mut bytes = vec![0; len as usize];
    space.read(start, &mut bytes)?;
    Ok(bytes)
}

/// The strings between NULs; the last one may lack its NUL.
fn strings(bytes: &[u8]) -> Vec<String> {
    let mut parts: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
    if parts.last().is_some_and(|last| last.is_empty()) {
        parts.pop();
    }
    parts.into_iter().map(crate::text_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nul_ends_a_string() {
        assert_eq!(strings(b"sh\0-c\0\0x\0"), ["sh", "-c", "", "x"]);
        assert_eq!(strings(b"title"), ["title"]);
        assert!(strings(b"").is_empty());
    }
}
