//! Commands in the toolchain's root, without being root: a user namespace where we are not.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::Toolchain;
use crate::error::{At, Error, Result};

/// `$0` is the root, `$1` the folder that appears as `/module`, `$2` the command. objtool needs `/proc`.
const ENTER: &str = "mount -t proc proc \"$0/proc\" && mount --rbind /dev \"$0/dev\" && mount --bind \"$1\" \"$0/module\" && \
                     exec env -i PATH=/usr/bin:/usr/sbin LC_ALL=C.UTF-8 HOME=/ chroot \"$0\" sh -c \"$2\"";

impl Toolchain {
    /// Runs a line of shell in the root, with `module` as `/module`; its output goes to the log, and line by line to `on`.
    pub(super) fn run(
        &self,
        what: &str,
        words: &str,
        module: Option<&Path>,
        on: &mut dyn FnMut(&str),
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
        let mut last = Vec::new();
        if let Some(out) = child.stdout.take() {
            for line in BufReader::new(out)
                .lines()
                .map_while(std::result::Result::ok)
            {
                writeln!(file, "{line}").at("write", &log)?;
                on(&line);
                keep(&mut last, line);
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
