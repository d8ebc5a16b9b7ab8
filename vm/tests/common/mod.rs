//! Each test runs in a process of its own with a run folder of its own, and must leave nothing behind.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vm::{Machine, Progress};

/// Names the test that a child process is to run.
pub(crate) const CHILD: &str = "KLAB_TEST_CHILD";

/// Runs `body` in a child process whose `KLAB_RUN` is empty and its own; afterwards no process and no file of
/// it may be there. `test` is the calling test's name.
pub(crate) fn isolated(test: &str, body: impl FnOnce()) {
    isolated_with(test, None, body);
}

/// The same, with the programs in the folder `first` before all others.
pub(crate) fn isolated_with(test: &str, first: Option<&Path>, body: impl FnOnce()) {
    if is_child(test) {
        return body();
    }
    let run = tempfile::Builder::new().prefix("klab-").tempdir().unwrap();
    let mut command = command(test, run.path());
    if let Some(first) = first {
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", first.display()));
    }
    let status = command.status().unwrap();
    if !status.success() {
        // The guests of a failed test are of use to no one.
        let down = this_test("common::cleaner", run.path()).wait();
        eprintln!("cleaned up: {down:?}");
    }
    assert!(status.success(), "{test} failed in its own process");
    nothing_left(run.path());
}

/// Not a test of its own: takes down what a failed test left.
#[test]
fn cleaner() {
    if is_child("common::cleaner") {
        all_down();
    }
}

/// Runs a test of this program (its part for the child) in a process of its own.
pub(crate) fn this_test(test: &str, run: &Path) -> Child {
    // Its verdicts are not ours.
    command(test, run).stdout(Stdio::null()).spawn().unwrap()
}

fn command(test: &str, run: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([test, "--exact", "--nocapture"])
        .env("KLAB_RUN", run)
        .env(CHILD, test);
    command
}

/// Tells whether this process is the child that `this_test` started for `test`.
pub(crate) fn is_child(test: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|child| child == test)
}

/// Fails if a process names `run` or a file is in it.
pub(crate) fn nothing_left(run: &Path) {
    assert_eq!(processes(run), Vec::<String>::new(), "processes were left");
    let files: Vec<_> = std::fs::read_dir(run)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(files.is_empty(), "files were left: {files:?}");
}

/// The command lines that name `run`.
pub(crate) fn processes(run: &Path) -> Vec<String> {
    let run = run.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .filter(|line| line.contains(run))
        .collect()
}

/// Waits until `done`, at most `seconds`.
#[allow(dead_code)]
pub(crate) fn wait(what: &str, seconds: u64, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(seconds);
    while !done() {
        assert!(Instant::now() < until, "{what} did not come in {seconds} s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends every guest, then fails if any is still listed.
#[allow(dead_code)]
pub(crate) fn all_down() {
    for status in Machine::list().unwrap() {
        Machine::attach(&status.name).unwrap().down().unwrap();
    }
    assert_eq!(Machine::list().unwrap(), []);
}

/// Prints steps with their times.
pub(crate) struct Say(Instant);

impl Say {
    #[allow(dead_code)]
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Progress for Say {
    fn step(&mut self, text: &str) {
        eprintln!("{:6.2} s {text}", self.0.elapsed().as_secs_f64());
    }
}
