//! A file for Perfetto and `chrome://tracing`: the Trace Event Format, which both open.

use serde_json::{Map, Value, json};

use super::calls::Traced;
use crate::debug::Return;

impl Traced {
    /// The calls as JSON in the Trace Event Format: each a slice of its thread, with arguments and return value, each event of
    /// a tracepoint an instant.
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
        let events: Vec<Value> = names.chain(events).collect();
        json!({ "traceEvents": events, "displayTimeUnit": "ns" })
            .to_string()
            .into_bytes()
    }
}
