//! QEMU's processes: started so that none outlives its owner, found again with no record of them.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};
use crate::lease::book::{Process, start_of};

/// Number of looks at a process without a command line, 1 ms apart: longer than an `execve` takes.
const EXEC_LOOKS: u32 = 100;

/// A process that cannot be mistaken for a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pid: u32,
    /// Clock ticks from boot to its start (field 22 of `/proc/PID/stat`, proc(5)).
    start: u64,
}

impl Identity {
    /// This process.
    pub(crate) fn ours() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start: start_of(pid).unwrap_or(0),
        }
    }

    /// The process `pid`, if it lives.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let start = start_of(pid)?;
        Some(Self { pid, start })
    }

    pub(crate) fn pid(self) -> u32 {
        self.pid
    }

    pub(crate) fn lives(self) -> bool {
        start_of(self.pid) == Some(self.start)
    }
}

impl From<Identity> for Process {
    fn from(Identity { pid, start }: Identity) -> Self {
        Self { pid, start }
    }
}

/// Tells whether `pid` is the QEMU of the guest in `folder`: its command line names that folder's pid file, which no
/// other process does. A reused id does not pass, nor a zombie (its command line is empty).
pub(crate) fn is_guest(pid: u32, folder: &Path) -> bool {
    let marker = folder.join("pid");
    command_line(pid)
        .split(|&byte| byte == 0)
        .any(|arg| arg == marker.as_os_str().as_encoded_bytes())
}

/// The command line of a process; empty for one that is gone, a zombie or of the kernel.
///
/// It is empty for a moment in every `execve(2)` too, from `exec_mmap` until `create_elf_tables` has said where the
/// arguments are, while the new program is named already: that moment is waited out, since `end` would otherwise
/// pass over a QEMU that is just being started.
fn command_line(pid: u32) -> Vec<u8> {
    for _ in 0..EXEC_LOOKS {
        match fs::read(format!("/proc/{pid}/cmdline")) {
            Ok(line) if line.is_empty() => {}
            Ok(line) => return line,
            Err(_) => break,
        }
        // Without memory of its own (zombies, kernel threads) a process has no program.
        if fs::read_link(format!("/proc/{pid}/exe")).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Vec::new()
}

/// The QEMU that wrote the pid file in `folder`, if it lives.
pub(crate) fn recorded(folder: &Path) -> Option<u32> {
    let pid = fs::read_to_string(folder.join("pid"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    is_guest(pid, folder).then_some(pid)
}

/// Every process of the guest in `folder`, also one that has not written its pid file yet.
fn all(folder: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|&pid| is_guest(pid, folder)).collect()
}

/// Tells whether any process of the guest in `folder` lives.
pub(crate) fn any(folder: &Path) -> bool {
    !all(folder).is_empty()
}

/// Ends every process of the guest in `folder` and waits until they are gone.
pub(crate) fn end(folder: &Path) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let pids = all(folder);
        if pids.is_empty() {
            return Ok(());
        }
        for pid in &pids {
            if let Ok(raw) = i32::try_from(*pid) {
                // It may have ended meanwhile; the loop looks again.
                let _ = kill(Pid::from_raw(raw), Signal::SIGKILL);
            }
        }
        if Instant::now() > until {
            let pid = pids.first().copied().unwrap_or(0);
            return Err(Error::Qmp {
                command: format!("kill {pid}"),
                why: "the process does not end".to_owned(),
            });
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `"$0" "$@"` so that no file of its own grows beyond `$LIMIT` blocks of 512 bytes: the guest decides what its
/// console prints. A write past that fails, instead of ending the program.
const BOUNDED: &str = r#"trap '' XFSZ; ulimit -f "$LIMIT"; unset LIMIT"#;

/// Starts `program` so that it dies with this process, however this process dies. None of its files gets longer than
/// `limit` bytes.
///
/// PDEATHSIG is sent when the *thread* that started the child ends (prctl(2)), so a thread of its own waits for
/// the child to end, which also leaves no zombie.
pub(crate) fn start_owned(
    program: &Path,
    args: Vec<std::ffi::OsString>,
    folder: &Path,
    limit: u64,
) -> Result<()> {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "sh", "-c"])
        .arg(format!(r#"{BOUNDED}; exec "$0" "$@""#))
        .env("LIMIT", limit.div_ceil(512).to_string())
        .arg(program)
        .args(args);
    let mut log = prepare(&mut command, folder)?;
    let (report, started) = mpsc::sync_channel(1);
    let guard = move || match command.spawn() {
        Ok(mut child) => {
            let _ = report.send(Ok(()));
            if let Ok(status) = child.wait()
                && status.signal().is_some()
            {
                let _ = writeln!(log, "{status}");
            }
        }
        Err(error) => {
            let _ = report.send(Err(error));
        }
    };
    thread::Builder::new()
        .name("klab-guest".to_owned())
        .spawn(guard)
        .at("start a thread for", folder)?;
    match started.recv() {
        Ok(Err(_)) | Err(_) => Err(Error::NoTool {
            tool: "setpriv",
            package: "util-linux",
        }),
        Ok(Ok(())) => Ok(()),
    }
}

/// Starts `program` in a session of its own, a child of init: it outlives this process and its terminal. A shell
/// waits for it, which says in the log what signal ended it; and a process that looks for the guest finds the shell at
/// every moment of the program's start. None of its files gets longer than `limit` bytes.
pub(crate) fn start_detached(
    program: &Path,
    args: Vec<std::ffi::OsString>,
    folder: &Path,
    limit: u64,
) -> Result<()> {
    let mut command = Command::new("setsid");
    command
        .args(["--fork", "sh", "-c"])
        .arg(format!(r#"{BOUNDED}; "$0" "$@"; exit"#))
        .env("LIMIT", limit.div_ceil(512).to_string())
        .arg(program)
        .args(args);
    let _log = prepare(&mut command, folder)?;
    match command.status() {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::NoTool {
            tool: "setsid",
            package: "util-linux",
        }),
    }
}

/// Makes `command` run in `folder` and write to the log there, which is returned.
fn prepare(command: &mut Command, folder: &Path) -> Result<fs::File> {
    let log = folder.join("qemu.log");
    let out = fs::File::options()
        .create(true)
        .append(true)
        .open(&log)
        .at("open", &log)?;
    let clone = || out.try_clone().at("open", &log);
    command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(clone()?)
        .stderr(clone()?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_live_and_a_reused_id_does_not_pass() {
        let ours = Identity::ours();
        assert!(ours.lives());
        assert!(
            !Identity {
                start: ours.start + 1,
                ..ours
            }
            .lives()
        );
        assert!(!is_guest(ours.pid, Path::new("/nowhere")));
    }

    type Start = fn(&Path, Vec<std::ffi::OsString>, &Path, u64) -> Result<()>;

    #[test]
    fn what_it_prints_without_end_has_an_end() {
        for start in [start_owned as Start, start_detached] {
            let folder = tempfile::tempdir().unwrap();
            // It goes on after the write that failed.
            let script = "head -c 100000 /dev/zero >much 2>/dev/null; touch done";
            let args = ["-c", script].map(Into::into).to_vec();
            start(Path::new("sh"), args, folder.path(), 10_000).unwrap();
            let until = Instant::now() + Duration::from_secs(5);
            while !folder.path().join("done").exists() {
                assert!(Instant::now() < until);
            }
            let written = fs::metadata(folder.path().join("much")).unwrap().len();
            assert_eq!(written, 10_000_u64.div_ceil(512) * 512);
        }
    }

    #[test]
    fn the_log_says_what_signal_ended_it() {
        for start in [start_owned as Start, start_detached] {
            let folder = tempfile::tempdir().unwrap();
            let args = ["-c", "kill -SEGV $$", "x"].map(Into::into).to_vec();
            start(Path::new("sh"), args, folder.path(), 1 << 20).unwrap();
            let log = || fs::read_to_string(folder.path().join("qemu.log")).unwrap();
            let until = Instant::now() + Duration::from_secs(5);
            while !["Segmentation fault", "SIGSEGV"]
                .iter()
                .any(|words| log().contains(words))
            {
                assert!(Instant::now() < until, "{:?}", log());
            }
        }
    }

    #[test]
    fn a_child_is_found_by_its_folder_and_ended() {
        let folder = tempfile::tempdir().unwrap();
        let args = ["-c", "sleep 1000; :", "x"]
            .map(std::ffi::OsString::from)
            .to_vec();
        let args = [args, vec![folder.path().join("pid").into_os_string()]].concat();
        start_owned(Path::new("sh"), args, folder.path(), 1 << 20).unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        while !any(folder.path()) {
            assert!(Instant::now() < until);
        }
        end(folder.path()).unwrap();
        assert!(!any(folder.path()));
    }
}
