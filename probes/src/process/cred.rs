//! Credentials: the identity and the rights of a task (`include/linux/cred.h`, `include/linux/capability.h`).

use serde::Serialize;

use super::Namespace;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::structures::offset_of;
use crate::{Error, Result};

/// `CAP_*` of `include/uapi/linux/capability.h`, from bit 0.
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// `SECBIT_*` of `include/uapi/linux/securebits.h`, from bit 0.
const SECUREBITS: [&str; 8] = [
    "NOROOT",
    "NOROOT_LOCKED",
    "NO_SETUID_FIXUP",
    "NO_SETUID_FIXUP_LOCKED",
    "KEEP_CAPS",
    "KEEP_CAPS_LOCKED",
    "NO_CAP_AMBIENT_RAISE",
    "NO_CAP_AMBIENT_RAISE_LOCKED",
];
/// `PFA_NO_NEW_PRIVS`: a bit of `task_struct.atomic_flags` (`include/linux/sched.h`).
const PFA_NO_NEW_PRIVS: u64 = 1;
/// `NGROUPS_MAX` of `include/uapi/linux/limits.h`.
const NGROUPS_MAX: u32 = 65536;

/// A set of capabilities: a `kernel_cap_t`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Its bits, as `/proc/PID/status` prints them in hexadecimal.
    pub bits: u64,
    /// The names without `CAP_`; the number of one that has no name here.
    pub names: Vec<String>,
}

impl Capabilities {
    pub(super) fn new(bits: u64) -> Self {
        Self {
            bits,
            names: names(bits, &CAPABILITIES),
        }
    }
}

/// The names of the bits that are set; a bit without a name is its number.
pub(super) fn names(bits: u64, names: &[&str]) -> Vec<String> {
    let name = |bit: usize| {
        names
            .get(bit)
            .map_or_else(|| bit.to_string(), |name| (*name).to_owned())
    };
    (0..64)
        .filter(|bit| bits >> bit & 1 == 1)
        .map(name)
        .collect()
}

/// The four numbers that a task has as user, and as group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ids {
    /// `uid`: whose it is.
    pub real: u32,
    /// `euid`: the user as whom it acts.
    pub effective: u32,
    /// `suid`: the user as whom it may act again.
    pub saved: u32,
    /// `fsuid`: the user as whom it opens files.
    pub fs: u32,
}

/// `task_struct.seccomp.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum SeccompMode {
    /// All system calls.
    Disabled,
    /// `read`, `write`, `_exit` and `sigreturn` only.
    Strict,
    /// System calls that its filters allow.
    Filter,
    /// Killed by its filter.
    Dead,
}

/// Restriction of a task's system calls: seccomp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Seccomp {
    /// Mode of the restriction.
    pub mode: SeccompMode,
    /// Filters that are attached to it.
    pub filters: u32,
}

/// The credentials of a task: `real_cred`, what others see of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Credentials {
    /// Address of its `struct cred`.
    pub at: GuestVirt,
    /// Its user.
    pub uid: Ids,
    /// Its group.
    pub gid: Ids,
    /// Its further groups, ascending.
    pub groups: Vec<u32>,
    /// `cap_inheritable`: kept over an `execve()` of a program that wants them.
    pub inheritable: Capabilities,
    /// `cap_permitted`: may be made effective.
    pub permitted: Capabilities,
    /// `cap_effective`: checked when it does something.
    pub effective: Capabilities,
    /// `cap_bset`: the most that it can get by an `execve()`.
    pub bounding: Capabilities,
    /// `cap_ambient`: kept over an `execve()` of any program.
    pub ambient: Capabilities,
    /// `SECBIT_*` that are set, without `SECBIT_`: how user 0 is treated.
    pub securebits: Vec<String>,
    /// True if no `execve()` gives it more than it has.
    pub no_new_privs: bool,
    /// Restriction of its system calls.
    pub seccomp: Seccomp,
    /// The user namespace that all this holds in.
    pub user_ns: Namespace,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct cred")]
struct Cred {
    #[mirror(member = "uid.val")]
    uid: u32,
    #[mirror(member = "euid.val")]
    euid: u32,
    #[mirror(member = "suid.val")]
    suid: u32,
    #[mirror(member = "fsuid.val")]
    fsuid: u32,
    #[mirror(member = "gid.val")]
    gid: u32,
    #[mirror(member = "egid.val")]
    egid: u32,
    #[mirror(member = "sgid.val")]
    sgid: u32,
    #[mirror(member = "fsgid.val")]
    fsgid: u32,
    securebits: u32,
    user_ns: GuestVirt,
    group_info: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct TaskStruct {
    real_cred: GuestVirt,
    atomic_flags: u64,
    #[mirror(member = "seccomp.mode")]
    mode: Option<u32>,
    #[mirror(member = "seccomp.filter_count.counter")]
    filters: Option<u32>,
}

impl Guest {
    /// Reads the credentials of the task `pid`: `Uid` to `Seccomp` of `/proc/PID/status`, and its securebits.
    ///
    /// # Errors
    /// `Absent` if there is no such task; `Unmapped` if its `cred` is not in RAM; `Torn` if they keep changing.
    pub fn credentials(&self, pid: i32) -> Result<Credentials> {
        self.of_task(pid, "the credentials", |kernel, task| read(kernel, task.at))
    }
}

fn read(kernel: &Kernel, task: GuestVirt) -> Result<Credentials> {
    let task: TaskStruct = kernel.load(task)?;
    let at = task.real_cred;
    let cred: Cred = kernel.load(at)?;
    // A u64, or two u32 with the lower one first: the same bytes.
    let set = |member: &str| {
        let at = at.offset(offset_of(kernel, "struct cred", member)?);
        kernel.read_u64(at).map(Capabilities::new)
    };
    Ok(Credentials {
        at,
        uid: Ids {
            real: cred.uid,
            effective: cred.euid,
            saved: cred.suid,
            fs: cred.fsuid,
        },
        gid: Ids {
            real: cred.gid,
            effective: cred.egid,
            saved: cred.sgid,
            fs: cred.fsgid,
        },
        groups: groups(kernel, cred.group_info)?,
        inheritable: set("cap_inheritable")?,
        permitted: set("cap_permitted")?,
        effective: set("cap_effective")?,
        bounding: set("cap_bset")?,
        ambient: set("cap_ambient")?,
        securebits: names(cred.securebits.into(), &SECUREBITS),
        no_new_privs: task.atomic_flags & PFA_NO_NEW_PRIVS != 0,
        seccomp: Seccomp {
            mode: mode(task.mode.unwrap_or(0)),
            filters: task.filters.unwrap_or(0),
        },
        user_ns: Namespace::read(kernel, "user", cred.user_ns)?,
    })
}

/// `SECCOMP_MODE_*` of `include/uapi/linux/seccomp.h`, and `SECCOMP_MODE_DEAD` of `kernel/seccomp.c`.
const fn mode(mode: u32) -> SeccompMode {
    match mode {
        0 => SeccompMode::Disabled,
        1 => SeccompMode::Strict,
        2 => SeccompMode::Filter,
        _ => SeccompMode::Dead,
    }
}

fn groups(kernel: &Kernel, info: GuestVirt) -> Result<Vec<u32>> {
    let c = "struct group_info";
    let count = kernel.read_u32(info.offset(offset_of(kernel, c, "ngroups")?))?;
    if count > NGROUPS_MAX {
        return Err(Error::TooLong {
            what: "list of groups",
            at: info,
            bound: NGROUPS_MAX as usize,
        });
    }
    let first = info.offset(offset_of(kernel, c, "gid")?);
    (0..u64::from(count))
        .map(|i| kernel.read_u32(first.offset(4 * i)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_the_kernels_names() {
        assert_eq!(Capabilities::new(0x2000).names, ["NET_RAW"]);
        assert_eq!(
            Capabilities::new(1 << 40 | 1 << 41).names,
            ["CHECKPOINT_RESTORE", "41"]
        );
        assert_eq!(
            names(0x2f, &SECUREBITS),
            [
                "NOROOT",
                "NOROOT_LOCKED",
                "NO_SETUID_FIXUP",
                "NO_SETUID_FIXUP_LOCKED",
                "KEEP_CAPS_LOCKED"
            ]
        );
    }
}
