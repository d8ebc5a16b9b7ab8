//! Disassembled functions.

use crate::kernel;
use crate::unwind::text::Disassembly;
use crate::view::{Align, Table};

/// Instructions that are shown around the one that was asked for, before and after it.
const AROUND: usize = 16;

crate::faces! { Disassembly => table }

fn table(function: &Disassembly) -> Table {
    let mut table = Table::new([
        ("", Align::Left),
        ("ADDRESS", Align::Left),
        ("OFFSET", Align::Right),
        ("BYTES", Align::Left),
        ("INSTRUCTION", Align::Left),
        ("PATCHED", Align::Left),
    ]);
    let all = &function.instructions;
    // The instruction that the address lies in: of a return address the one after the call.
    let here = all
        .iter()
        .rposition(|one| one.at <= function.here)
        .unwrap_or(0);
    let shown = match here {
        0 => 0..all.len(),
        here => here.saturating_sub(AROUND)..all.len().min(here + AROUND + 1),
    };
    for (i, one) in all.iter().enumerate().take(shown.end).skip(shown.start) {
        let bytes: Vec<String> = one.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        table.row([
            if i == here && here > 0 { "=>" } else { "" }.to_owned(),
            one.at.to_string(),
            format!("+{:#x}", one.offset),
            bytes.join(" "),
            one.text.clone(),
            one.patched.clone().unwrap_or_default(),
        ]);
    }
    let module = match &function.module {
        Some(module) => format!(" [{module}]"),
        None => String::new(),
    };
    let (name, count) = (kernel::shown(&function.function), all.len());
    let part = match shown.len() == count {
        true => String::new(),
        false => format!(", {} shown", shown.len()),
    };
    table.lacks(&function.missing);
    table.note(format!("{name}{module}: {count} instructions{part}"));
    table
}
