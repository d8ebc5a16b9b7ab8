//! Locks and queues: their owners and waiters.

use crate::core::locking::{Completion, Contender, Mutex, RtMutex, RwSem, RwState, WaitQueue};
use crate::view::{Align, Table};

crate::faces! {
    Mutex => mutex,
    RwSem => rwsem,
    RtMutex => rt_mutex,
    WaitQueue => wait_queue,
    Completion => completion,
}

fn table(last: &'static str) -> Table {
    Table::new([
        ("", Align::Left),
        ("PID", Align::Right),
        ("COMM", Align::Left),
        ("TASK_STRUCT", Align::Left),
        (last, Align::Left),
    ])
}

fn row(table: &mut Table, what: &str, task: &Contender, last: String) {
    table.row([
        what.to_owned(),
        task.pid.to_string(),
        task.comm.clone(),
        task.at.to_string(),
        last,
    ]);
}

fn mutex(mutex: &Mutex) -> Table {
    let mut table = table("");
    if let Some(owner) = &mutex.owner {
        row(&mut table, "has it", owner, mutex.flags.join(" "));
    }
    for waiter in &mutex.waiters {
        row(&mut table, "waits", waiter, String::new());
    }
    let state = if mutex.locked { "locked" } else { "free" };
    table.note(format!("mutex at {}: {state}", mutex.at));
    table.lacks(&mutex.missing);
    table
}

fn rwsem(sem: &RwSem) -> Table {
    let mut table = table("FOR");
    let (what, state) = match sem.state {
        RwState::Free => ("had it", "free".to_owned()),
        RwState::Readers(n) => ("took it last", format!("held by {n} readers")),
        RwState::Writer => ("has it", "held by a writer".to_owned()),
    };
    if let Some(owner) = &sem.owner {
        let read = matches!(sem.state, RwState::Readers(_));
        let last = if read { "reading" } else { "writing" };
        row(&mut table, what, owner, last.to_owned());
    }
    for waiter in &sem.waiters {
        let last = match waiter.writer {
            Some(true) => "writing",
            Some(false) => "reading",
            None => "",
        };
        row(&mut table, "waits", &waiter.task, last.to_owned());
    }
    let handoff = if sem.handoff {
        ", the first who waits is next"
    } else {
        ""
    };
    table.note(format!("rw_semaphore at {}: {state}{handoff}", sem.at));
    table.lacks(&sem.missing);
    table
}

fn rt_mutex(mutex: &RtMutex) -> Table {
    let mut table = table("PRIO");
    if let Some(owner) = &mutex.owner {
        row(&mut table, "has it", owner, String::new());
    }
    for waiter in &mutex.waiters {
        row(&mut table, "waits", &waiter.task, waiter.prio.to_string());
    }
    let state = if mutex.locked { "locked" } else { "free" };
    table.note(format!("rt_mutex at {}: {state}", mutex.at));
    table.lacks(&mutex.missing);
    table
}

fn wait_queue(queue: &WaitQueue) -> Table {
    let mut table = Table::new([
        ("PID", Align::Right),
        ("COMM", Align::Left),
        ("TASK_STRUCT", Align::Left),
        ("FUNCTION", Align::Left),
        ("", Align::Left),
        ("ENTRY", Align::Left),
    ]);
    for waiter in &queue.waiters {
        let of =
            |text: fn(&Contender) -> String| waiter.task.as_ref().map_or_else(String::new, text);
        let exclusive = if waiter.exclusive { "exclusive" } else { "" };
        table.row([
            of(|task| task.pid.to_string()),
            of(|task| task.comm.clone()),
            of(|task| task.at.to_string()),
            waiter.function.clone(),
            exclusive.to_owned(),
            waiter.at.to_string(),
        ]);
    }
    let count = queue.waiters.len();
    let s = if count == 1 { "" } else { "s" };
    table.note(format!("wait queue at {}: {count} waiter{s}", queue.at));
    table.lacks(&queue.missing);
    table
}

fn completion(completion: &Completion) -> Table {
    let mut table = table("");
    for waiter in &completion.waiters {
        row(&mut table, "waits", waiter, String::new());
    }
    let done = match completion.done {
        0 => "not done".to_owned(),
        n if n >= u32::MAX / 2 => "done for all".to_owned(),
        n => format!("{n} more may pass"),
    };
    table.note(format!("completion at {}: {done}", completion.at));
    table.lacks(&completion.missing);
    table
}
