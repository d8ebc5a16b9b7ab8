//! Timers and clocks.

use crate::core::time::{Clocks, Serves, Timers};
use crate::view::{Align, Table, View, or_unknown};

/// Seconds with nine digits behind the point.
fn seconds(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let all = nanoseconds.unsigned_abs();
    format!("{sign}{}.{:09}", all / 1_000_000_000, all % 1_000_000_000)
}

fn whom(serves: Option<&Serves>) -> String {
    match serves {
        None => String::new(),
        Some(Serves::Task(pid)) => format!("task {pid}"),
        Some(Serves::Work(work)) => work.to_string(),
    }
}

impl View for Timers {
    fn text(&self) -> String {
        format!("{}\n{}", wheel(self).text(), hrtimers(self).text())
    }

    fn html(&self) -> Option<String> {
        Some(wheel(self).html()? + &hrtimers(self).html()?)
    }

    fn missing(&self) -> Vec<crate::Missing> {
        self.missing.clone()
    }
}

fn wheel(all: &Timers) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("CPU", Right),
        ("WHEEL", Left),
        ("EXPIRES", Right),
        ("IN JIFFIES", Right),
        ("FUNCTION", Left),
        ("FOR", Left),
        ("TIMER_LIST", Left),
    ]);
    for timer in &all.wheel {
        table.row([
            timer.cpu.to_string(),
            timer.base.to_owned(),
            timer.expires.to_string(),
            (timer.expires.wrapping_sub(all.jiffies) as i64).to_string(),
            timer.function.to_string(),
            whom(timer.serves.as_ref()),
            format!("{:#x}", timer.at.0),
        ]);
    }
    table.note(format!(
        "{} timers; jiffies {}",
        all.wheel.len(),
        all.jiffies
    ));
    table
}

fn hrtimers(all: &Timers) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("CPU", Right),
        ("CLOCK", Left),
        ("EXPIRES", Right),
        ("FUNCTION", Left),
        ("FOR", Left),
        ("HRTIMER", Left),
    ]);
    for timer in &all.hrtimers {
        table.row([
            timer.cpu.to_string(),
            timer.clock.clone(),
            seconds(timer.expires),
            timer.function.to_string(),
            whom(timer.serves.as_ref()),
            format!("{:#x}", timer.at.0),
        ]);
    }
    let now = seconds(all.monotonic.try_into().unwrap_or(i64::MAX));
    table.note(format!(
        "{} high-resolution timers; MONOTONIC was {now} at the last tick",
        all.hrtimers.len()
    ));
    table.lacks(&all.missing);
    table
}

impl View for Clocks {
    fn text(&self) -> String {
        let tables = [times(self), sources(self), events(self)];
        tables.map(|table| table.text()).join("\n")
    }

    fn html(&self) -> Option<String> {
        Some(times(self).html()? + &sources(self).html()? + &events(self).html()?)
    }

    fn missing(&self) -> Vec<crate::Missing> {
        self.missing.clone()
    }
}

fn times(clocks: &Clocks) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([("CLOCK", Left), ("AT THE LAST TICK", Right)]);
    let monotonic = clocks.monotonic.map(|ns| ns.try_into().unwrap_or(i64::MAX));
    for (name, value) in [
        ("REALTIME", or_unknown(clocks.realtime.map(seconds))),
        ("MONOTONIC", or_unknown(monotonic.map(seconds))),
        ("BOOTTIME", or_unknown(clocks.boottime.map(seconds))),
        ("booted at", or_unknown(clocks.btime)),
        ("jiffies", or_unknown(clocks.jiffies)),
    ] {
        table.row([name.to_owned(), value]);
    }
    table
}

fn sources(clocks: &Clocks) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("CLOCK SOURCE", Left),
        ("", Left),
        ("RATING", Right),
        ("READ BY", Left),
        ("MULT", Right),
        ("SHIFT", Right),
        ("BITS", Right),
    ]);
    for source in &clocks.sources {
        table.row([
            source.name.clone(),
            if source.current { "in use" } else { "" }.to_owned(),
            source.rating.to_string(),
            source.read.to_string(),
            source.mult.to_string(),
            source.shift.to_string(),
            source.mask.count_ones().to_string(),
        ]);
    }
    table
}

fn events(clocks: &Clocks) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("CPU", Left),
        ("CLOCK EVENT DEVICE", Left),
        ("MODE", Left),
        ("NEXT EVENT", Right),
        ("HANDLER", Left),
    ]);
    for event in &clocks.events {
        table.row([
            event
                .cpu
                .map_or_else(|| "any".to_owned(), |cpu| cpu.to_string()),
            event.name.clone(),
            event.mode.clone(),
            match event.next_event {
                i64::MAX => "never".to_owned(),
                at => seconds(at),
            },
            event.event_handler.to_string(),
        ]);
    }
    table.lacks(&clocks.missing);
    table
}

crate::displays!(Timers, Clocks);
