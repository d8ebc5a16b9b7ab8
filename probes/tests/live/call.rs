//! Calls of functions, held against what the kernel shows of itself; what is refused; a fault, and one that does not return.

use std::time::Duration;

use probes::object::{NewValue, Value};
use probes::{ErrorKind, Guest};

use crate::ground::Ground;

fn number(value: Option<Value>) -> u64 {
    match value {
        Some(Value::Uint(number)) => number,
        Some(Value::Int(number)) => number.cast_unsigned(),
        other => panic!("{other:?}"),
    }
}

fn refused(guest: &Guest, function: &str, arguments: &[i64], kind: ErrorKind, says: &str) {
    let error = guest.call(function, arguments.iter().copied()).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(says), "{error}");
}

#[test]
fn what_a_function_returns_is_what_the_kernel_shows() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let machine = guest.machine().unwrap();
    assert!(machine.writes().is_empty());

    // A text, and an address: /proc/kallsyms.
    let line = ground.sh("grep -w init_task /proc/kallsyms");
    let at = u64::from_str_radix(line.split_whitespace().next().unwrap(), 16).unwrap();
    let done = guest.call("kallsyms_lookup_name", ["init_task"]).unwrap();
    assert_eq!((number(done.value), done.ty.as_str()), (at, "long unsigned int"));
    assert_eq!(done.arguments[0].value, Value::Text("init_task".to_owned()));
    // A pointer: the room of a task_struct, as /proc/slabinfo has it.
    let task = guest.find_task(1).unwrap().pointer().unwrap();
    let line = ground.sh("grep '^task_struct ' /proc/slabinfo");
    let size: u64 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    let done = guest.call("ksize", [task]).unwrap();
    assert_eq!((number(done.value), done.ty.as_str()), (size, "size_t"));
    // Signed numbers of both sides, and several of them; a result that is negative.
    let change = guest.writable().unwrap();
    let done = change.call_c("strcmp", &["\"a\"", "\"b\""]).unwrap();
    assert_eq!(done.value, Some(Value::Int(-1)));
    let text = |text: &str| NewValue::from(text);
    let done = guest.call("strncmp", [text("abc"), text("abd"), 2.into()]).unwrap();
    assert_eq!(done.value, Some(Value::Int(0)));
    // Nothing returned, and an effect: a line in the log.
    let done = change.call_c("add_taint", &["18", "LOCKDEP_STILL_OK"]).unwrap();
    assert_eq!((done.value, done.ty.as_str()), (None, "void"));
    assert_eq!(ground.sh("cat /proc/sys/kernel/tainted").trim().parse::<u64>().unwrap() >> 18 & 1, 1);

    // Each is told of until the reset.
    assert_eq!(machine.writes().len(), 5, "{:?}", machine.writes());
    assert!(machine.writes()[0].contains("kallsyms_lookup_name"));

    refused(&guest, "no_such_function", &[], ErrorKind::Absent, "no symbol");
    refused(&guest, "ksize", &[], ErrorKind::Invalid, "takes 1");
    refused(&guest, "msleep", &[-1], ErrorKind::Invalid, "does not fit");
    refused(&guest, "init_task", &[], ErrorKind::Invalid, "no code");
    let long = guest.call("strlen", ["x".repeat(600)]).unwrap_err();
    assert!(long.to_string().contains("512 bytes"), "{long}");
    assert_eq!(machine.writes().len(), 5);
}

#[test]
fn a_fault_ends_the_call_and_not_the_guest() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let error = guest.call("strlen", [0_u64]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Machine);
    let said = error.to_string();
    assert!(said.contains("faulted") && said.contains("NULL pointer dereference") && said.contains("strlen"), "{said}");
    assert_eq!(ground.sh("echo there"), "there\n");
    // The module is still there for the next call.
    assert_eq!(number(guest.call("strlen", ["four"]).unwrap().value), 4);
}

#[test]
fn what_does_not_return_is_told_with_its_thread() {
    let mut ground = Ground::bare("default", 512 << 20);
    let guest = ground.guest.clone();
    let change = guest.writable().unwrap();
    let error = change.call_within(Duration::from_millis(200), "msleep", [1000]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Machine);
    let said = error.to_string();
    let thread = said.split("the thread ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert_eq!(ground.sh(&format!("cat /proc/{thread}/comm")), "klab/call\n");
    assert!(ground.sh(&format!("cat /proc/{thread}/stack")).contains("msleep"));
    // It ends by itself, and another one is made beside it.
    assert_eq!(number(guest.call("strlen", ["four"]).unwrap().value), 4);
    ground.sh(&format!("while test -e /proc/{thread}; do sleep 0.1; done"));
}
