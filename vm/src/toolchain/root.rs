//! Commands in the toolchain's root, without being root: a user namespace where we are not.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Toolchain;
use crate::error::{At, Error, Result};
use crate::progress::Progress;

/// `$0` is the root, `$1` the folder that appears as `/module`, `$2` the command. objtool needs `/proc`.
const ENTER: &str = "mount -t proc proc \"$0/proc\" && mount --rbind /dev \"$0/dev\" && mount --bind \"$1\" \"$0/module\" && \
                     exec env -i PATH=/usr/bin:/usr/sbin LC_ALL=C.UTF-8 HOME=/ chroot \"$0\" sh -c \"$2\"";

/// Milliseconds after which it is looked whether the user wants an end.
const MOMENT: u8 = 100;

impl Toolchain {
    /// Runs a line of shell in the root, with `module` as `/module`; its output goes to the log, and line by line to `on`.
    /// Ends it when `progress` says that the user wants it.
    pub(super) fn run(
        &self,
        what: &str,
        words: &str,
        module: Option<&Path>,
        progress: &mut dyn Progress,
        on: &mut dyn FnMut(&str, &mut dyn Progress),
    ) -> Result<()> {
        let (root, log) = (self.root(), self.folder.join("log"));
        for folder in ["module", "proc", "dev"] {
            fs::create_dir_all(root.join(folder)).at("make", &root)?;
        }
        let mut file = File::create(&log).at("write", &log)?;
        let mut command = Command::new("setpriv");
        // The child ends with us, and all that it started with it: its process namespace goes.
        command.args([
            "--pdeathsig",
            "TERM",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=KILL",
        ]);
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["sh", "-c", &format!("({ENTER}) 2>&1")]);
        command
            .arg(&root)
            .arg(module.unwrap_or(&self.folder))
            .arg(words);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.map_err(|_| Error::NoTool {
            tool: "setpriv",
            package: "util-linux",
        })?;
        let (mut last, mut lines) = (Vec::new(), Lines::default());
        if let Some(mut out) = child.stdout.take() {
            while lines.read(&mut out).at("read the build in", &root)? {
                while let Some(line) = lines.next() {
                    writeln!(file, "{line}").at("write", &log)?;
                    on(&line, progress);
                    keep(&mut last, line);
                }
                if progress.stopped() {
                    end(child, out).at("end the build in", &root)?;
                    return Err(Error::Interrupted(format!("{what} was stopped")));
                }
            }
        }
        let out = child
            .wait_with_output()
            .at("wait for the build in", &root)?;
        if out.status.success() {
            return Ok(());
        }
        last.extend(
            String::from_utf8_lossy(&out.stderr)
                .lines()
                .map(str::to_owned),
        );
        let refused = last
            .iter()
            .any(|line| line.starts_with("unshare:") || line.starts_with("mount:"));
        Err(Error::Step {
            what: what.to_owned(),
            why: if refused {
                format!(
                    "{} (user namespaces are needed: see `sysctl kernel.unprivileged_userns_clone`)",
                    last.join(" ")
                )
            } else {
                last.join("\n")
            },
            log,
        })
    }
}

/// Ends all that the child has started: they go with it, since it is the parent of their process namespace. Returns when
/// none of them has its output open any more.
fn end(mut child: Child, mut out: ChildStdout) -> io::Result<()> {
    child.kill()?;
    child.wait()?;
    io::copy(&mut out, &mut io::sink()).map(drop)
}

/// The lines of a stream that says nothing for long.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    over: bool,
}

impl Lines {
    /// Waits a moment for more; false once all has been given.
    fn read(&mut self, from: &mut ChildStdout) -> io::Result<bool> {
        if self.over {
            return Ok(false);
        }
        let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(MOMENT)) {
            Ok(0) | Err(Errno::EINTR) => return Ok(true),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut buf = [0; 4096];
        let n = from.read(&mut buf)?;
        self.bytes.extend_from_slice(&buf[..n]);
        self.over = n == 0;
        Ok(true)
    }

    /// The next line that is whole, or the last one.
    fn next(&mut self) -> Option<String> {
        let end = match self.bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if self.over && !self.bytes.is_empty() => self.bytes.len(),
            None => return None,
        };
        let line: Vec<u8> = self.bytes.drain(..end).collect();
        Some(
            String::from_utf8_lossy(&line)
                .trim_end_matches('\n')
                .to_owned(),
        )
    }
}

/// Keeps what a reader of an error wants: from the first error on, else the end; bounded.
fn keep(last: &mut Vec<String>, line: String) {
    let began = last.first().is_some_and(|first| is_error(first));
    if !began {
        if is_error(&line) {
            last.clear();
        } else if last.len() >= 5 {
            last.remove(0);
        }
    }
    if last.len() < 40 {
        last.push(line);
    }
}

fn is_error(line: &str) -> bool {
    line.starts_with("error")
        || line.contains(": error:")
        || line.contains("***")
        || line.starts_with("ERROR:")
}
