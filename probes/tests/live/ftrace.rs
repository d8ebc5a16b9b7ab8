//! Traced calls, held against the workload, the kernel's own kprobe events, and ftrace's list of what it can hook.

use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use probes::Guest;
use probes::debug::Return;
use probes::ftrace::{Traced, TracedCall};
use probes::object::Value;

use crate::ground::Ground;
use crate::planted;

const TRACING: &str = "cd /sys/kernel/tracing";

fn sound(traced: &Traced) {
    let tally = &traced.tally;
    assert_eq!((tally.lost, tally.missed, tally.left_out), (0, 0, 0), "{tally:?}");
    assert!(tally.delivered > 0);
}

/// `size_t` and `ssize_t`.
fn number(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::Int(number)) => *number,
        Some(Value::Uint(number)) => *number as i64,
        other => panic!("{other:?}"),
    }
}

fn returned(call: &TracedCall) -> i64 {
    match &call.returned {
        Return::Value(value) => number(Some(value)),
        other => panic!("{other:?}"),
    }
}

/// What `dd` says that it has read, by its own count of bytes, and the kernel's kprobes see the same in the same order.
#[test]
fn kprobe_events_agree() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    ground.sh("head -c 100000 /dev/zero >/tmp/file");
    ground.sh(&format!(
        "{TRACING}; echo 'p:call vfs_read count=%dx:u64' >kprobe_events; echo 'r:back vfs_read ret=$retval:s64' >>kprobe_events; \
         echo 1 >events/kprobes/enable; echo >trace; echo 1 >tracing_on"
    ));
    let traced = guest
        .trace(["vfs_read"])
        .unwrap()
        .when("count == 4099")
        .shell("dd if=/tmp/file of=/dev/null bs=4099; dd if=/tmp/file of=/dev/null bs=5000 count=2")
        .within(Duration::from_secs(60))
        .calls()
        .unwrap();
    let said = ground.sh(&format!(
        "{TRACING}; echo 0 >tracing_on; cat trace; echo 0 >events/kprobes/enable; echo >kprobe_events"
    ));
    sound(&traced);
    let whole = 100_000 / 4099;
    let mut expected = vec![4099; whole];
    expected.extend([100_000 - 4099 * whole as i64, 0]);
    let seen: Vec<i64> = traced.calls.iter().map(returned).collect();
    assert_eq!(seen, expected);
    assert!(traced.tally.passed >= 2, "{:?}", traced.tally);
    let pids: HashSet<u32> = traced.calls.iter().map(|call| call.pid).collect();
    assert_eq!(pids.len(), 1);
    // `  dd-123   [001] .....   45.678901: back: (ksys_read+0x6f/0xe0 <- vfs_read) ret=4099`
    let pid = pids.into_iter().next().unwrap();
    let of = format!("dd-{pid} ");
    let mut counts = Vec::new();
    let mut kept = Vec::new();
    for line in said.lines().filter(|line| line.contains(&of)) {
        let number = |key: &str| {
            let (_, rest) = line.split_once(key)?;
            rest.split(' ').next()?.parse::<i64>().ok()
        };
        if let Some(count) = number(" count=") {
            counts.push(count);
        } else if let (Some(ret), Some(4099)) = (number(" ret="), counts.pop()) {
            kept.push(ret);
        }
    }
    assert_eq!(kept, seen, "{said}");
    for call in &traced.calls {
        assert_eq!((call.comm.as_str(), number(call.arg("count"))), ("dd", 4099));
        assert!(call.duration.is_some_and(|took| took > 0));
    }
    assert!(traced.calls.is_sorted_by_key(|call| call.time));
    // A condition that the guest cannot see to lets the same through.
    let here = guest
        .trace(["vfs_read"])
        .unwrap()
        .when(r#"comm == "dd" && (count == 4099)"#)
        .shell("dd if=/tmp/file of=/dev/null bs=4099")
        .within(Duration::from_secs(60))
        .calls()
        .unwrap();
    sound(&here);
    assert_eq!(here.calls.iter().map(returned).collect::<Vec<_>>(), seen);
    assert_eq!(here.latencies().functions[0].calls, seen.len() as u64);
    assert_eq!(here.count_by(|call| call.comm.clone()).counts, [("dd".to_owned(), seen.len() as u64)]);
}

/// Text behind pointers, of the task's memory and of the kernel's, errors, and calls within calls.
#[test]
fn a_system_call_from_entry_to_return() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let long = format!("/tmp/{}", "x".repeat(120));
    let mut agent = guest.agent().unwrap();
    let traced = guest
        .trace(["do_sys_openat2", "do_file_open", "vfs_open"])
        .unwrap()
        .when(r#"comm == "cat""#)
        .during(|| {
            for path in ["/etc/passwd", "/nowhere/at/all", &long] {
                agent.output(&["cat", path])?;
            }
            Ok(())
        })
        .unwrap();
    sound(&traced);
    let opened = |path: &str, whole: bool| {
        let is = |call: &&TracedCall| {
            call.function == "do_sys_openat2"
                && call.text.as_ref().is_some_and(|text| {
                    (text.arg.as_str(), text.text.as_str(), text.whole) == ("filename", path, whole)
                })
        };
        let mut calls = traced.calls.iter().filter(is);
        let call = calls.next().unwrap_or_else(|| panic!("{path}: {traced:?}"));
        assert!(calls.next().is_none());
        returned(call)
    };
    assert!(opened("/etc/passwd", true) >= 0);
    assert_eq!(opened("/nowhere/at/all", true), -2);
    assert_eq!(opened(&long[..80], false), -2);
    let tree = traced.tree();
    let at = |function: &str| {
        let is = |(_, call): &&(usize, TracedCall)| {
            call.function == function
                && call.text.as_ref().is_some_and(|text| text.text == "/etc/passwd")
        };
        tree.calls.iter().position(|one| is(&one)).unwrap()
    };
    // The same path twice: a pointer of the caller's, then the kernel's copy.
    let (outer, inner) = (at("do_sys_openat2"), at("do_file_open"));
    assert_eq!((inner, tree.calls[inner].0), (outer + 1, tree.calls[outer].0 + 1));
    assert_eq!(tree.calls[inner + 1].1.function, "vfs_open");
    let file: serde_json::Value = serde_json::from_slice(&traced.perfetto()).unwrap();
    assert!(file["traceEvents"].as_array().unwrap().len() > traced.calls.len());
    // No trace is left, and the kernel has nothing to say.
    assert_eq!(ground.sh(&format!("{TRACING}; cat enabled_functions")), "");
    let log = ground.sh("dmesg | grep -cE 'WARNING|BUG|Oops|Call Trace' || true");
    assert_eq!(log.trim(), "0");
}

/// At full speed each call is told or counted as lost.
#[test]
fn a_million_calls() {
    const CALLS: u64 = 1_000_000;
    let mut ground = Ground::bare("default", 512 << 20);
    planted::load(&mut ground);
    let traced = ground
        .guest
        .trace(["skb_pull"])
        .unwrap()
        .shell(&format!("taskset 1 sh -c 'echo {CALLS} >/sys/module/klab_test/parameters/hits'"))
        .within(Duration::from_secs(300))
        .calls()
        .unwrap();
    let tally = &traced.tally;
    assert_eq!(tally.missed, 0);
    assert!(tally.delivered + tally.lost >= 2 * CALLS, "{tally:?}");
    let lost: u64 = tally.cpus.iter().map(|cpu| cpu.lost).sum();
    assert_eq!(lost, tally.lost);
    let ends = traced.calls.iter().map(|call| 1 + u64::from(call.duration.is_some()));
    let without_call = tally.lost + tally.left_out;
    assert!(ends.sum::<u64>() + without_call >= tally.delivered, "{tally:?}");
    // With a filter that nothing passes there is nothing to lose.
    let none = ground
        .guest
        .trace(["skb_pull"])
        .unwrap()
        .when("len == 77777")
        .shell(&format!("taskset 1 sh -c 'echo {CALLS} >/sys/module/klab_test/parameters/hits'"))
        .within(Duration::from_secs(300))
        .calls()
        .unwrap();
    assert_eq!((none.calls.len(), none.tally.delivered, none.tally.lost), (0, 0, 0));
    assert!(none.tally.passed >= CALLS, "{:?}", none.tally);
}

/// Program that [`killed_in_the_middle`] starts: this test program once more, in a guest that is there. It waits to be
/// killed.
const KILLED: &str = "KLAB_TEST_FTRACE";

#[test]
fn killed_in_the_middle() {
    if let Ok(name) = std::env::var(KILLED) {
        let guest = Guest::attach(&name).unwrap();
        let trace = guest.trace(["vfs_read", "vfs_write"]).unwrap();
        let _ = trace.during(|| {
            println!("armed");
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        });
        return;
    }
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ftrace::killed_in_the_middle", "--nocapture"])
        .env(KILLED, guest.machine().unwrap().name())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = std::io::BufReader::new(child.stdout.take().unwrap());
    let armed = std::io::BufRead::lines(out).any(|line| line.unwrap().contains("armed"));
    assert!(armed);
    let hooked = ground.sh(&format!("{TRACING}; cat enabled_functions"));
    assert!(hooked.contains("vfs_read") && hooked.contains("vfs_write"), "{hooked}");
    let busy = guest.trace(["vfs_read"]).unwrap().within(Duration::ZERO).calls();
    let error = busy.unwrap_err().to_string();
    assert!(error.contains("another recording"), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    // The hooks go with it, and the next one may trace.
    ground.sh(&format!(
        "{TRACING}; for i in $(seq 300); do [ -z \"$(cat enabled_functions)\" ] && exit 0; sleep 0.1; done; exit 1"
    ));
    let next = guest.trace(["vfs_read"]).unwrap().shell("cat /etc/passwd").calls();
    assert!(!next.unwrap().calls.is_empty());
}

crate::on_kernels!(what_can_be_traced_is_what_ftrace_says, a_kernel_without_rust_says_so);

/// Every 300th function of the kernel, and those that the issue is about.
fn what_can_be_traced_is_what_ftrace_says(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    let guest = ground.guest.clone();
    let said = ground.sh(&format!("{TRACING}; cat available_filter_functions"));
    let can: HashSet<&str> = said.lines().filter(|line| !line.contains('[')).collect();
    let all = ground.sh("grep -E ' [tT] ' /proc/kallsyms | grep -v '\\[' | grep -v ' __pfx_' | cut -d' ' -f3");
    let mut times = std::collections::HashMap::new();
    for name in all.lines() {
        *times.entry(name).or_insert(0) += 1;
    }
    let once = |name: &&str| times.get(name) == Some(&1);
    let names = all.lines().filter(once).step_by(300);
    let (mut yes, mut no) = (0, 0);
    for name in names.chain(["vfs_read", "vfs_write", "do_sys_openat2", "schedule_idle"]) {
        let traced = guest.trace([name]);
        match (&traced, can.contains(name)) {
            (Ok(_), true) => yes += 1,
            (Err(error), false) => {
                assert!(error.to_string().contains("ftrace cannot hook"), "{error}");
                no += 1;
            }
            (_, said) => panic!("{name}: {said} {traced:?}"),
        }
    }
    assert!(yes > 40 && no > 10, "{yes} {no}");
    let wrong = guest.trace(["vfs_read"]).unwrap().when("cuont > 1").calls();
    let wrong = wrong.unwrap_err().to_string();
    assert!(wrong.contains("count, pos"), "{wrong}");
}

fn a_kernel_without_rust_says_so(kernel: &str) {
    let mut ground = Ground::bare(kernel, 512 << 20);
    let rust = ground.sh("grep -c ' rust_helper_' /proc/kallsyms || true");
    let traced = ground.guest.trace(["vfs_read"]).unwrap().shell("true").calls();
    match rust.trim() {
        "0" => {
            let error = traced.unwrap_err().to_string();
            assert!(error.contains("CONFIG_RUST"), "{error}");
        }
        _ => assert!(traced.is_ok(), "{traced:?}"),
    }
}
