//! The agent in real guests: each test has a fresh copy of its own. `KLAB_TEST_KERNEL=6.1` takes another kernel.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod faults;
mod files;
mod modules;
mod own;
mod proc;
mod runs;
mod workloads;

use std::{
    ops::{Deref, DerefMut},
    path::PathBuf,
    time::Duration,
};

use vm::{KernelChoice, Machine, Options, Owner, Silent, agent::Client};

/// A guest that ends with the test, and a client of its agent.
struct Guest {
    machine: Option<Machine>,
    client: Client,
}

impl Guest {
    fn up(name: &str) -> Self {
        let kernel = std::env::var("KLAB_TEST_KERNEL").unwrap_or_default();
        Self::with_kernel(name, &kernel)
    }

    fn with_kernel(name: &str, kernel: &str) -> Self {
        let name = format!("agent-{name}-{}", std::process::id());
        let kernel: KernelChoice = kernel.parse().unwrap();
        let options = Options {
            kernel,
            owner: Owner::ThisProcess,
            ..Options::default()
        };
        let machine = Machine::up(&name, &options, &mut Silent).unwrap();
        let client = machine.agent().unwrap();
        Self {
            machine: Some(machine),
            client,
        }
    }

    fn machine(&self) -> &Machine {
        self.machine.as_ref().unwrap()
    }

    /// The folder with its sockets.
    fn folder(&self) -> PathBuf {
        self.machine().qmp_socket().parent().unwrap().to_owned()
    }

    fn another_client(&self) -> Client {
        Client::connect(&self.folder(), Duration::from_secs(10)).unwrap()
    }

    /// The processes of this name.
    fn pids(&mut self, comm: &str) -> Vec<i32> {
        let tasks = self.client.proc_tasks().unwrap();
        tasks
            .iter()
            .filter(|t| t.comm == comm && t.is_leader())
            .map(|t| t.pid)
            .collect()
    }

    /// Output of a shell line, when it succeeds.
    fn sh(&mut self, line: &str) -> String {
        let output = self.client.shell(line).unwrap();
        assert!(
            output.status.success(),
            "{line}: {:?} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        output.text()
    }
}

impl Deref for Guest {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Guest {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read(self.folder().join("serial.log")).unwrap_or_default();
            let from = log.len().saturating_sub(4000);
            eprintln!(
                "the console ends with:\n{}",
                String::from_utf8_lossy(&log[from..])
            );
        }
        if let Some(machine) = self.machine.take() {
            let _ = machine.down();
        }
    }
}
