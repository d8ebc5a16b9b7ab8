//! The guests of the tests: apart from the user's own, and gone afterwards.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::process::plain;
use crate::tally::Tally;

/// Beginning of the paths of tests' run folders; the process that made them and its lane follow.
const PREFIX: &str = "/tmp/klab-test-";

/// A run folder of this test run's own.
#[derive(Debug)]
pub(crate) struct Guests {
    /// Value of `KLAB_RUN` for everything that the tests start.
    pub(crate) run: PathBuf,
}

impl Guests {
    /// An empty run folder, of the lane of this number. Its path is short: Unix sockets lie in it.
    pub(crate) fn new(lane: u32) -> Result<Self> {
        let run = PathBuf::from(format!("{PREFIX}{}-{lane}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&run)
            .with_context(|| format!("cannot make {}", run.display()))?;
        Ok(Self { run })
    }

    /// The run folders of test runs that were killed.
    pub(crate) fn stale() -> Vec<Self> {
        let Ok(entries) = fs::read_dir("/tmp") else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.path().into_os_string().into_string().ok())
            .filter(|path| {
                let process = path
                    .strip_prefix(PREFIX)
                    .and_then(|id| id.split_once('-')?.0.parse::<u32>().ok());
                process.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists())
            })
            .map(|path| Self { run: path.into() })
            .collect()
    }

    /// Stops all that still runs. One check: no process and no guest of this run folder is left.
    pub(crate) fn end(&self, paths: &Paths) -> Tally {
        let klab = paths.program("klab");
        let down = plain(&klab)
            .args(["down", "--all"])
            .env("KLAB_RUN", &self.run)
            .status();
        if klab.exists() && !down.is_ok_and(|status| status.success()) {
            println!("`klab down --all` failed");
        }
        let processes = naming(&self.run);
        for process in &processes {
            println!("still running: {process}");
        }
        let left = self.folders();
        for folder in &left {
            println!("still there: {}", folder.display());
        }
        // It was made by this user, in a folder that all may write: gone already is as good.
        let _ = fs::remove_dir_all(&self.run);
        Tally::one(processes.is_empty() && left.is_empty())
    }

    /// Lists the folders in the run folder that look like a guest's.
    fn folders(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.run) else {
            return Vec::new();
        };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter(|path| path.is_dir()).collect()
    }
}

/// The processes whose command line names the folder.
fn naming(folder: &Path) -> Vec<String> {
    let folder = folder.to_string_lossy();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&*folder))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_left_behind_is_seen() {
        let guests = Guests::new(9).unwrap();
        assert_eq!(naming(&guests.run), Vec::<String>::new());
        let mut left = Command::new("sh")
            .args(["-c", "read line", guests.run.to_str().unwrap()])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // An execve closes the pipe that `spawn` waits for before the process has its new command line.
        let seen = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            naming(&guests.run).len() == 1
        });
        assert!(seen);
        drop(left.stdin.take());
        left.wait().unwrap();
        fs::create_dir(guests.run.join("left")).unwrap();
        assert_eq!(guests.folders().len(), 1);
        fs::remove_dir_all(&guests.run).unwrap();
    }
}
