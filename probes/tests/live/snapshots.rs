//! Snapshots: read as they were, gone back to, compared; what the guest itself says of it; and what is refused.

use probes::cell::diff;
use probes::view::View;
use probes::{ErrorKind, Guest};

use crate::ground::Ground;

fn names(guest: &Guest) -> Vec<String> {
    guest.snapshots().unwrap().iter().map(|one| one.name.clone()).collect()
}

#[test]
fn a_guest_goes_back_to_what_it_was() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    assert!(names(&guest).is_empty());
    let start = "sleep 1000 >/dev/null 2>&1 </dev/null & while [ \"$(cat /proc/$!/comm)\" != sleep ]; do :; done; echo $!";
    let first: i32 = ground.sh(start).trim().parse().unwrap();
    ground.sh("echo one >/tmp/file");
    guest.writable().unwrap().set("*(int *)&vm_swappiness", 7).unwrap();
    guest.snapshot("one").unwrap();
    // It goes on, with all that it had.
    assert_eq!(ground.sh("cat /tmp/file"), "one\n");
    let second: i32 = ground.sh(start).trim().parse().unwrap();
    ground.sh(&format!("echo two >/tmp/file; kill {first}; echo 9 >/proc/sys/vm/swappiness"));
    ground.sh(&format!("while test -e /proc/{first}; do sleep 0.05; done"));
    guest.snapshot("two").unwrap();
    assert_eq!(names(&guest), ["one", "two"]);

    // Each is read as it was, while the guest runs.
    let tasks = |guest: &Guest| {
        let tasks = guest.tasks().unwrap();
        assert!(tasks.is_whole());
        [first, second].map(|pid| tasks.pid(pid).is_some())
    };
    let (one, two) = (guest.in_snapshot("one").unwrap(), guest.in_snapshot("two").unwrap());
    assert_eq!((tasks(&one), tasks(&two)), ([true, false], [false, true]));
    let swappiness = |guest: &Guest| guest.eval("*(int *)&vm_swappiness").unwrap().i64().unwrap();
    assert_eq!((swappiness(&one), swappiness(&two)), (7, 9));
    assert!(one.machine().is_err() && one.writable().is_err());
    let said = diff(&one.tasks().unwrap(), &guest.tasks().unwrap()).text();
    assert!(said.contains(&second.to_string()) && said.contains(&first.to_string()), "{said}");

    // Back, in any order, and the guest's own files agree.
    guest.restore("one").unwrap();
    ground.renew();
    assert_eq!(ground.sh("cat /tmp/file /proc/sys/vm/swappiness"), "one\n7\n");
    assert_eq!(tasks(&guest), [true, false]);
    assert_eq!(guest.machine().unwrap().writes(), ["*(int *)&vm_swappiness = 7"]);
    guest.restore("two").unwrap();
    ground.renew();
    assert_eq!(ground.sh("cat /tmp/file /proc/sys/vm/swappiness"), "two\n9\n");
    assert_eq!(tasks(&guest), [false, true]);
    // Its clock and its network go on.
    assert_eq!(ground.sh("sleep 0.2; ping -c 1 -W 2 127.0.0.1 >/dev/null && echo there"), "there\n");
    // A reset leaves them; a name is taken again.
    guest.reset().unwrap();
    ground.renew();
    guest.snapshot("one").unwrap();
    guest.forget_snapshot("two").unwrap();
    assert_eq!(names(&guest), ["one"]);
    assert_eq!(tasks(&guest.in_snapshot("one").unwrap()), [false, false]);

    // One that someone took parts from hides no other, and goes.
    let folder = guest.machine().unwrap().run_dir().join("snapshots");
    guest.snapshot("hurt").unwrap();
    std::fs::remove_file(folder.join("hurt/state")).unwrap();
    let all = guest.snapshots().unwrap();
    assert_eq!((names(&guest), all.missing.len()), (vec!["one".to_owned()], 1));
    assert!(all.missing[0].to_string().contains("hurt") && guest.restore("hurt").is_err());
    guest.forget_snapshot("hurt").unwrap();
    assert!(guest.snapshots().unwrap().is_whole());

    for (fault, says) in [
        (guest.restore("three").unwrap_err(), "there are one"),
        (guest.snapshot("../x").map(drop).unwrap_err(), "name"),
        (guest.in_snapshot("").map(drop).unwrap_err(), "name"),
    ] {
        assert_eq!(fault.kind(), ErrorKind::Machine);
        assert!(fault.to_string().contains(says), "{fault}");
    }
}

#[test]
fn a_fork_goes_its_own_way() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let start = "sleep 1000 >/dev/null 2>&1 </dev/null & while [ \"$(cat /proc/$!/comm)\" != sleep ]; do :; done; echo $!";
    let pid: i32 = ground.sh(start).trim().parse().unwrap();
    let name = format!("{}-fork", guest.machine().unwrap().name());
    let other = guest.fork(&name).unwrap();
    let down = Down(other.machine().unwrap());
    // The very same kernel, with the same task.
    let task = |guest: &Guest| guest.find_task(pid).unwrap().pointer().unwrap();
    assert_eq!(task(&guest), task(&other));
    let mut agent = other.agent().unwrap();
    let boot = "cat /proc/sys/kernel/random/boot_id";
    assert_eq!(agent.shell(boot).unwrap().text(), ground.sh(boot));
    // Each on its own from there.
    agent.shell(&format!("kill {pid}; while test -e /proc/{pid}; do sleep 0.05; done")).unwrap();
    assert!(other.find_task(pid).is_err());
    assert_eq!(ground.sh(&format!("cat /proc/{pid}/comm")), "sleep\n");
    assert!(guest.find_task(pid).is_ok());
    let taken = guest.fork(&name).unwrap_err();
    assert!(taken.to_string().contains("already"), "{taken}");
    drop(agent);
    drop(down);
    assert!(Guest::attach(&name).is_err());
}

/// A guest that is taken down in the end.
struct Down(vm::Machine);

impl Drop for Down {
    fn drop(&mut self) {
        self.0.clone().down().unwrap();
    }
}
