//! PID 1: mounts, modules, the loopback device; then it starts the server and reaps what dies.

use std::{fs, os::unix::process::CommandExt as _, path::Path, process::Command, time::Duration};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::{
        signal::{Signal, kill},
        wait::wait,
    },
    unistd::Pid,
};

use klab_wire::Answer;

use crate::{
    apart::{self, Job},
    error::Error,
    kmsg::say,
    server::SERVE,
};

const MOUNTS: &[(&str, &str, &str, &str)] = &[
    ("proc", "/proc", "proc", ""),
    ("sysfs", "/sys", "sysfs", ""),
    ("devtmpfs", "/dev", "devtmpfs", "mode=0755"),
    (
        "devpts",
        "/dev/pts",
        "devpts",
        "mode=0620,gid=5,ptmxmode=0666",
    ),
    ("tmpfs", "/dev/shm", "tmpfs", "mode=1777"),
    ("tmpfs", "/run", "tmpfs", "mode=0755"),
    ("tmpfs", "/tmp", "tmpfs", "mode=1777"),
    ("tracefs", "/sys/kernel/tracing", "tracefs", ""),
    ("debugfs", "/sys/kernel/debug", "debugfs", ""),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", ""),
];
/// Modules to load before the ports are looked for, one name a line.
const MODULES: &str = "/etc/klab/modules";
const BUSYBOX: &str = "/bin/busybox";
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Never returns: the kernel panics when PID 1 ends.
pub(crate) fn init() -> ! {
    if let Err(panic) = std::panic::catch_unwind(prepare) {
        say(format_args!(
            "preparing the guest failed: {}",
            crate::kmsg::panic_text(&*panic)
        ));
    }
    loop {
        let server = start_server();
        // Orphans of every kind come here; the server's own end is what is waited for.
        while let Some(server) = server {
            match wait() {
                Ok(status) if status.pid() == Some(server) => {
                    say(format_args!(
                        "the server ended ({status:?}) and is started again"
                    ));
                    break;
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        // The programs that the server had started have no owner any more.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn start_server() -> Option<Pid> {
    let child = Command::new("/proc/self/exe")
        .arg0("klab-agent")
        .arg(SERVE)
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("TERM", "linux")
        .spawn();
    match child {
        Ok(child) => i32::try_from(child.id()).ok().map(Pid::from_raw),
        Err(e) => {
            say(format_args!("cannot start the server: {e}"));
            None
        }
    }
}

fn prepare() {
    for (source, target, kind, options) in MOUNTS {
        let _ = fs::create_dir_all(target);
        let flags = MsFlags::MS_NOSUID
            | if *kind == "devtmpfs" {
                MsFlags::empty()
            } else {
                MsFlags::MS_NODEV
            };
        match mount(Some(*source), *target, Some(*kind), flags, Some(*options)) {
            // A kernel without the file system goes without; one that mounted it by itself is fine.
            Ok(()) | Err(Errno::ENODEV | Errno::EBUSY) => {}
            Err(e) => say(format_args!("cannot mount {kind} on {target}: {e}")),
        }
    }
    let _ = fs::create_dir_all("/root");
    if Path::new(BUSYBOX).exists() {
        busybox(&["--install", "-s"]);
        busybox(&["ip", "link", "set", "lo", "up"]);
    }
    let _ = nix::unistd::sethostname("klab");
    for name in fs::read_to_string(MODULES)
        .unwrap_or_default()
        .split_whitespace()
    {
        let job = Job::Load {
            name: name.to_owned(),
            params: String::new(),
        };
        match apart::run(&job) {
            Ok(Answer::Loaded(_)) => {}
            Ok(Answer::Error(text)) | Err(Error(text)) => say(text),
            Ok(other) => say(format_args!("cannot load `{name}`: {other:?}")),
        }
    }
}

fn busybox(args: &[&str]) {
    match Command::new(BUSYBOX).args(args).env("PATH", PATH).status() {
        Ok(status) if status.success() => {}
        Ok(status) => say(format_args!(
            "busybox {} ended with {status}",
            args.join(" ")
        )),
        Err(e) => say(format_args!("cannot run {BUSYBOX}: {e}")),
    }
}
