//! The same guest, read from an ELF dump that QEMU writes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use probes::Guest;

use crate::ground::Ground;
use crate::ledger::Ledger;

pub(crate) fn has_the_same(kernel: &str) {
    let ground = Ground::new(kernel);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("core");
    let socket = ground.guest.machine().unwrap().qmp_socket();
    let mut ledger = Ledger::new(format!("dump on {kernel}"));
    ground
        .guest
        .paused(|live| {
            dump(&socket, &file);
            let core = Guest::open_core(&file)?;
            let (tasks, dumped) = (live.tasks()?, core.tasks()?);
            ledger.same("tasks", "tasks", &dumped.len(), &tasks.len());
            for (live_task, task) in tasks.iter().zip(&dumped) {
                ledger.same(task.pid, "task", task, live_task);
                if task.mm.is_some() {
                    ledger.same(task.pid, "mm", &core.mm_of(task)?, &live.mm_of(live_task)?);
                    let (vmas, areas) = (live.vmas_of(live_task)?, core.vmas_of(task)?);
                    ledger.same(task.pid, "vmas", &areas, &vmas);
                }
            }
            ledger.same("log", "log", &core.log()?, &live.log()?);
            ledger.same("modules", "modules", &core.modules()?, &live.modules()?);
            Ok(())
        })
        .unwrap();
    ledger.end(&[("task", 80), ("vmas", 25), ("log", 1)]);
}

/// `dump-guest-memory` over the QMP socket that klab leaves to other tools.
fn dump(socket: &Path, to: &Path) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
    answers.next().unwrap().unwrap();
    let dump = serde_json::json!({
        "execute": "dump-guest-memory",
        "arguments": { "paging": false, "protocol": format!("file:{}", to.display()) },
    });
    for command in [serde_json::json!({ "execute": "qmp_capabilities" }), dump] {
        writeln!(stream, "{command}").unwrap();
        loop {
            let answer = answers.next().unwrap().unwrap();
            assert!(!answer.contains("\"error\""), "{answer}");
            if answer.contains("\"return\"") {
                break;
            }
        }
    }
}
