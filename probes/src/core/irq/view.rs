//! Interrupts, the table that they enter by, softirqs.

use crate::core::irq::{Gate, Idt, IrqAction, Irqs, Softirqs};
use crate::view::{Align, Table, View};

/// `CPU0`, `CPU1`, .. as columns of numbers.
fn columns<'a>(first: &'a str, cpus: &'a [String], rest: &[&'a str]) -> Table {
    let cpus = cpus.iter().map(|cpu| (cpu.as_str(), Align::Right));
    let rest = rest.iter().map(|name| (*name, Align::Left));
    Table::new([(first, Align::Right)].into_iter().chain(cpus).chain(rest))
}

fn cpus(cpus: &[u32]) -> Vec<String> {
    cpus.iter().map(|cpu| format!("CPU{cpu}")).collect()
}

/// `0-3,5`, as the kernel prints lists of CPUs.
pub(crate) fn list(cpus: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*cpu) => *last = *cpu,
            _ => ranges.push((*cpu, *cpu)),
        }
    }
    let ranges = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    ranges.collect::<Vec<_>>().join(",")
}

impl View for Irqs {
    fn text(&self) -> String {
        irqs(self).text()
    }

    fn html(&self) -> Option<String> {
        irqs(self).html()
    }

    fn missing(&self) -> Vec<crate::Missing> {
        irqs(self).missing()
    }
}

fn irqs(all: &Irqs) -> Table {
    let names = cpus(&all.cpus);
    let rest = ["CPUS", "CHIP", "HWIRQ", "HANDLER", "DEVICE"];
    let mut table = columns("IRQ", &names, &rest);
    let mut idle = 0;
    for irq in all.iter() {
        // As /proc/interrupts: not those that nobody handles and that never came.
        if irq.actions.is_empty() && irq.counts.iter().all(|count| *count == 0) {
            idle += 1;
            continue;
        }
        let counts = irq.counts.iter().map(u64::to_string);
        let how = irq.name.as_deref().map(|name| format!("-{name}"));
        let affinity = match (list(&irq.affinity), list(&irq.effective)) {
            (may, does) if does.is_empty() || may == does => may,
            (may, does) => format!("{does} of {may}"),
        };
        let first = [irq.irq.to_string()].into_iter().chain(counts).chain([
            affinity,
            irq.chip.clone().unwrap_or_default(),
            format!("{}{}", irq.hwirq, how.unwrap_or_default()),
        ]);
        let mut first: Vec<String> = first.collect();
        let blank = vec![String::new(); first.len()];
        if irq.actions.is_empty() {
            table.row(first.clone());
        }
        for action in &irq.actions {
            let mut row = std::mem::replace(&mut first, blank.clone());
            row.push(handler(action));
            row.push(action.name.clone());
            table.row(row);
        }
    }
    for own in &all.cpu_interrupts {
        let counts = own.counts.iter().map(u64::to_string);
        let blank = std::iter::repeat_n(String::new(), 4);
        table.row(
            [own.name.clone()]
                .into_iter()
                .chain(counts)
                .chain(blank)
                .chain([own.about.clone()]),
        );
    }
    table.note(format!(
        "{} descriptors, {idle} of them unused",
        all.irqs.len()
    ));
    table.lacks(&all.missing);
    table
}

/// The function in the interrupt, and the one that its thread calls.
fn handler(action: &IrqAction) -> String {
    match (&action.thread_fn, action.thread) {
        (Some(function), Some(pid)) => format!("{}, {function} in {pid}", action.handler),
        _ => action.handler.to_string(),
    }
}

crate::lists! { Gate => gates }

/// Entries that go to places at one distance from each other are one row: the vectors of devices are hundreds.
fn gates(idt: &Idt) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("VECTOR", Right),
        ("", Left),
        ("HANDLER", Left),
        ("FUNCTION", Left),
        ("DPL", Right),
        ("IST", Right),
        ("GATE", Left),
    ]);
    let mut rest = &idt[..];
    while let Some(first) = rest.first() {
        let alike = |count: &usize| {
            let Some(pair) = rest.get(count - 1..count + 1) else {
                return false;
            };
            let [before, gate] = pair else { return false };
            let same = |gate: &Gate| (gate.handler.name.clone(), gate.dpl, gate.ist, gate.present);
            let distance = |a: &Gate, b: &Gate| b.handler.at.0.wrapping_sub(a.handler.at.0);
            first.exception.is_none()
                && gate.exception.is_none()
                && same(first) == same(gate)
                && rest.get(1).map(|second| distance(first, second)) == Some(distance(before, gate))
        };
        let count = (1..).take_while(alike).count() + 1;
        let (these, others) = rest.split_at(count.min(rest.len()));
        rest = others;
        let last = these.last().unwrap_or(first);
        table.row([
            match these.len() {
                1 => first.vector.to_string(),
                _ => format!("{}-{}", first.vector, last.vector),
            },
            first.exception.unwrap_or_default().to_owned(),
            format!("{:#x}", first.handler.at.0),
            match these.len() {
                1 => first.handler.to_string(),
                _ => format!("{} ..", first.handler),
            },
            first.dpl.to_string(),
            match first.ist {
                0 => String::new(),
                ist => ist.to_string(),
            },
            match (first.present, first.kind) {
                (false, _) => "absent".to_owned(),
                (true, 14) => "interrupt".to_owned(),
                (true, 15) => "trap".to_owned(),
                (true, other) => other.to_string(),
            },
        ]);
    }
    let foreign = idt.iter().filter(|gate| gate.present && !gate.in_image);
    table.note(match foreign.count() {
        0 if idt.is_whole() => "all lead into the kernel's image".to_owned(),
        0 => "all that could be read lead into the kernel's image".to_owned(),
        count => format!("{count} LEAD OUT OF THE KERNEL'S IMAGE"),
    });
    table
}

impl View for Softirqs {
    fn text(&self) -> String {
        softirqs(self).text()
    }

    fn html(&self) -> Option<String> {
        softirqs(self).html()
    }

    fn missing(&self) -> Vec<crate::Missing> {
        softirqs(self).missing()
    }
}

fn softirqs(all: &Softirqs) -> Table {
    let names = cpus(&all.cpus);
    let mut table = columns("SOFTIRQ", &names, &["PENDING ON", "FUNCTION"]);
    for softirq in &all.softirqs {
        let counts = softirq.counts.iter().map(u64::to_string);
        let on = |is: Option<bool>| {
            let pending = all.cpus.iter().zip(&softirq.pending);
            let cpus = pending.filter(|(_, pending)| **pending == is);
            list(&cpus.map(|(cpu, _)| *cpu).collect::<Vec<_>>())
        };
        let mut waits = on(Some(true));
        let unknown = on(None);
        if !unknown.is_empty() {
            waits += &format!("?{unknown}");
        }
        let action = softirq.action.as_ref().map(ToString::to_string);
        table.row(
            [softirq.name.clone()]
                .into_iter()
                .chain(counts)
                .chain([waits, action.unwrap_or_default()]),
        );
    }
    table.lacks(&all.missing);
    table
}

crate::displays!(Irqs, Softirqs);
