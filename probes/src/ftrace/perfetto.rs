//! A file for Perfetto and `chrome://tracing`: the Trace Event Format, which both open.

use serde_json::{Map, Value, json};

use super::calls::Traced;
use super::timeline::Timeline;
use crate::debug::Return;

/// The process whose threads are the CPUs: no PID is as large (`PID_MAX_LIMIT`).
const CPUS: u32 = 1 << 30;

impl Traced {
    /// The calls as JSON in the Trace Event Format: each a slice of its thread, with arguments and return value, each event of
    /// a tracepoint an instant; and where every `sched_switch` was traced, what each CPU ran, as slices of its own.
    #[must_use]
    pub fn perfetto(&self) -> Vec<u8> {
        let events: Vec<Value> = self
            .calls
            .iter()
            .map(|call| {
                let named = call
                    .args
                    .iter()
                    .chain(&call.members)
                    .map(|arg| (arg.name.clone(), arg.value.to_string().into()));
                let mut args: Map<String, Value> = named.collect();
                args.insert("cpu".to_owned(), call.cpu.into());
                if let Some(text) = &call.text {
                    args.insert(text.arg.clone(), text.text.clone().into());
                }
                if let Return::Value(value) = &call.returned {
                    args.insert("returned".to_owned(), value.to_string().into());
                }
                // Microseconds. One that has not returned only begins.
                let mut event = json!({
                    "name": call.function,
                    "ph": match (call.duration, call.point) {
                        (_, true) => "i",
                        (Some(_), false) => "X",
                        (None, false) => "B",
                    },
                    "ts": call.time as f64 / 1000.0,
                    "pid": call.tgid,
                    "tid": call.pid,
                    "args": args,
                });
                // An instant of its thread.
                if call.point {
                    event["s"] = "t".into();
                }
                if let Some(took) = call.duration {
                    event["dur"] = (took as f64 / 1000.0).into();
                }
                event
            })
            .collect();
        let mut threads: Vec<(u32, u32, &str)> = self
            .calls
            .iter()
            .map(|call| (call.tgid, call.pid, call.comm.as_str()))
            .collect();
        threads.sort_unstable();
        threads.dedup_by_key(|(_, pid, _)| *pid);
        let names = threads.into_iter().map(|(tgid, pid, comm)| {
            json!({
                "name": "thread_name", "ph": "M", "pid": tgid, "tid": pid, "args": { "name": comm },
            })
        });
        let lanes = self.timeline().map(|timeline| lanes(&timeline));
        let lanes = lanes.unwrap_or_default();
        let events: Vec<Value> = names.chain(events).chain(lanes).collect();
        json!({ "traceEvents": events, "displayTimeUnit": "ns" })
            .to_string()
            .into_bytes()
    }
}

/// What each CPU ran.
fn lanes(timeline: &Timeline) -> Vec<Value> {
    let name = json!({
        "name": "process_name", "ph": "M", "pid": CPUS, "args": { "name": "CPUs" },
    });
    let cpus = timeline.cpus.iter().map(|cpu| {
        let name = format!("CPU {cpu}");
        json!({ "name": "thread_name", "ph": "M", "pid": CPUS, "tid": cpu, "args": { "name": name } })
    });
    let running = timeline.slices.iter().filter(|slice| slice.pid != 0);
    let slices = running.map(|slice| {
        json!({
            "name": slice.comm,
            "ph": "X",
            "ts": slice.start as f64 / 1000.0,
            "dur": slice.end.saturating_sub(slice.start) as f64 / 1000.0,
            "pid": CPUS,
            "tid": slice.cpu,
            "args": { "pid": slice.pid, "left": slice.left },
        })
    });
    let unknown = timeline.unknown.iter().map(|one| {
        json!({
            "name": "(not known)",
            "ph": "X",
            "ts": one.start as f64 / 1000.0,
            "dur": one.end.saturating_sub(one.start) as f64 / 1000.0,
            "pid": CPUS,
            "tid": one.cpu,
        })
    });
    let all = std::iter::once(name).chain(cpus);
    all.chain(slices).chain(unknown).collect()
}
