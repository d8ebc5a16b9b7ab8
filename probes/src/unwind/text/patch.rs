//! The kernel's patches of its own code: static keys, static calls, the hooks of ftrace.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Names;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::structures::{offset_of, whole_list};
use crate::{Missing, Of as _, Result};

/// Bytes of tables that are read at most: a kernel's own have some hundred KiB.
const MOST: u64 = 16 << 20;
/// Modules that are looked at, at most.
const MODULE_BOUND: usize = 1 << 16;
/// `sizeof(struct jump_entry)` and `sizeof(struct static_call_site)`, and the tables' symbols.
const JUMP: (u64, &str, &str) = (16, "__start___jump_table", "__stop___jump_table");
const CALL: (u64, &str, &str) = (8, "__start_static_call_sites", "__stop_static_call_sites");
/// The five-byte NOP in place of a call of `__fentry__`, when nobody traces the function.
const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

/// Address of a place's `static_key` or `static_call_key`.
enum Site {
    Key { key: GuestVirt, target: GuestVirt },
    Call { key: GuestVirt },
}

/// The places of a function that the kernel patches.
pub(super) struct Sites {
    start: GuestVirt,
    sites: BTreeMap<GuestVirt, Site>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct module")]
struct Module {
    jump_entries: Option<GuestVirt>,
    num_jump_entries: Option<u32>,
    static_call_sites: Option<GuestVirt>,
    num_static_call_sites: Option<u32>,
}

impl Sites {
    /// The places in a piece of code; the tables that cannot be read are missing.
    pub(super) fn between(
        kernel: &Kernel,
        code: Range<GuestVirt>,
        missing: &mut Vec<Missing>,
    ) -> Result<Self> {
        let mut sites = BTreeMap::new();
        let (mut jumps, mut calls) = (Vec::new(), Vec::new());
        let symbols = kernel.symbols()?;
        for ((_, start, stop), tables) in [(JUMP, &mut jumps), (CALL, &mut calls)] {
            if let (Some(start), Some(stop)) = (symbols.lookup(start), symbols.lookup(stop)) {
                tables.push((start, stop.0.wrapping_sub(start.0)));
            }
        }
        if let Some(head) = symbols.lookup("modules") {
            let list = offset_of(kernel, "struct module", "list")?;
            let modules = whole_list(kernel, head, list, MODULE_BOUND, "the list of modules");
            for at in modules.into_items(missing) {
                let module = kernel.load::<Module>(at);
                let module = module.or_miss(missing, || format!("the module at {at}"));
                let Some(module) = module else { continue };
                let table = |at: Option<GuestVirt>, count: Option<u32>, size: u64| {
                    Some((at?, u64::from(count?) * size)).filter(|(at, _)| !at.is_null())
                };
                jumps.extend(table(module.jump_entries, module.num_jump_entries, JUMP.0));
                calls.extend(table(
                    module.static_call_sites,
                    module.num_static_call_sites,
                    CALL.0,
                ));
            }
        }
        // Addresses are relative to the words that hold them; the lowest bits of a key are flags.
        let from = |at: GuestVirt, to: i64| GuestVirt(at.0.wrapping_add_signed(to));
        for (at, entry) in entries(kernel, &jumps, JUMP.0, missing) {
            let place = from(at, word(&entry, 0).into());
            if code.contains(&place) {
                let target = from(at.offset(4), word(&entry, 4).into());
                let key = i64::from_le_bytes(
                    entry
                        .get(8..16)
                        .and_then(|b| b.try_into().ok())
                        .unwrap_or_default(),
                );
                let key = from(at.offset(8), key & !3);
                sites.insert(place, Site::Key { key, target });
            }
        }
        for (at, entry) in entries(kernel, &calls, CALL.0, missing) {
            let place = from(at, word(&entry, 0).into());
            if code.contains(&place) {
                let key = from(at.offset(4), i64::from(word(&entry, 4)) & !3);
                sites.insert(place, Site::Call { key });
            }
        }
        Ok(Self {
            start: code.start,
            sites,
        })
    }

    /// Finds the patch at an instruction, and its state now.
    pub(super) fn say(
        &self,
        names: &Names,
        at: GuestVirt,
        bytes: &[u8],
        target: Option<GuestVirt>,
    ) -> Option<String> {
        let name = |at: GuestVirt| names.say(at).unwrap_or_else(|| at.to_string());
        match self.sites.get(&at) {
            Some(Site::Key { key, target: to }) => {
                let taken = target == Some(*to);
                let state = if taken { "jumps" } else { "does not jump" };
                Some(format!("static key {}: {state}", name(*key)))
            }
            Some(Site::Call { key }) => Some(format!("static call {}", name(*key))),
            // After the endbr64 that a function may begin with.
            None if at.0.wrapping_sub(self.start.0) <= 4 && bytes.len() == 5 => match target {
                None if bytes == NOP5 => Some("ftrace: off".to_owned()),
                Some(to) if names.say(to).is_none_or(|name| name.starts_with("ftrace_")) => {
                    Some("ftrace: on".to_owned())
                }
                _ => None,
            },
            None => None,
        }
    }
}

/// The entries of these tables: where each lies, and its bytes.
fn entries(
    kernel: &Kernel,
    tables: &[(GuestVirt, u64)],
    size: u64,
    missing: &mut Vec<Missing>,
) -> Vec<(GuestVirt, Vec<u8>)> {
    let mut all = Vec::new();
    for (start, len) in tables {
        let mut bytes = vec![0; (*len).min(MOST) as usize];
        let read = kernel.read(*start, &mut bytes);
        let what = || format!("the table of patches at {start}");
        if read.or_miss(missing, what).is_none() {
            continue;
        }
        let each = bytes.chunks_exact(size as usize).enumerate();
        all.extend(each.map(|(i, entry)| (start.offset(i as u64 * size), entry.to_vec())));
    }
    all
}

fn word(entry: &[u8], at: usize) -> i32 {
    let bytes = entry
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok());
    i32::from_le_bytes(bytes.unwrap_or_default())
}
