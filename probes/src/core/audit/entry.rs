//! The target of a function's first instruction, if that leads away.

use serde::Serialize;

use super::{Auditor, Owner};
use crate::Result;
use crate::core::trace;
use crate::kernel::Function;
use crate::memory::GuestVirt;

/// `endbr64`, which a function that may be called by pointer begins with.
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// Bytes of the longest detour, `mov $address,%rax; jmp *%rax`, behind an `endbr64`.
const LONGEST: usize = 4 + 13;

/// A first instruction that leads away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Detour {
    /// `call`, `jump` or `breakpoint`.
    pub how: &'static str,
    /// Target of the jump; `None` for a breakpoint.
    pub target: Option<Function>,
    /// Owner of the code there; of a breakpoint, the probe.
    pub owner: Owner,
}

/// The detour at the entry of the function at `at`.
pub(super) fn detour(auditor: &Auditor<'_>, at: GuestVirt) -> Result<Option<Detour>> {
    let mut bytes = [0; LONGEST];
    auditor.kernel.read(at, &mut bytes)?;
    let (code, at) = match bytes.strip_prefix(&ENDBR64) {
        Some(code) => (code, at.offset(4)),
        None => (&bytes[..], at),
    };
    let relative = |bytes: [u8; 4], len: u64| {
        let distance = i64::from(i32::from_le_bytes(bytes));
        GuestVirt(at.offset(len).0.wrapping_add_signed(distance))
    };
    let (how, target) = match *code {
        [0xe8, a, b, c, d, ..] => ("call", relative([a, b, c, d], 5)),
        [0xe9, a, b, c, d, ..] => ("jump", relative([a, b, c, d], 5)),
        // jmp *distance(%rip)
        [0xff, 0x25, a, b, c, d, ..] => {
            let pointer = relative([a, b, c, d], 6);
            ("jump", GuestVirt(auditor.kernel.read_u64(pointer)?))
        }
        // mov $address,%rax; jmp *%rax, or push %rax; ret
        [0x48, 0xb8, a, b, c, d, e, f, g, h, 0xff, 0xe0, ..]
        | [0x48, 0xb8, a, b, c, d, e, f, g, h, 0x50, 0xc3, ..]
        // mov $address,%r11; jmp *%r11
        | [0x49, 0xbb, a, b, c, d, e, f, g, h, 0x41, 0xff, 0xe3, ..] => {
            let address = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            ("jump", GuestVirt(address))
        }
        // push $address; ret
        [0x68, a, b, c, d, 0xc3, ..] => {
            let address = i64::from(i32::from_le_bytes([a, b, c, d]));
            ("jump", GuestVirt(address as u64))
        }
        [0xcc, ..] => {
            return Ok(Some(Detour {
                how: "breakpoint",
                target: None,
                owner: probe_at(auditor, at)?,
            }));
        }
        _ => return Ok(None),
    };
    Ok(Some(Detour {
        how,
        target: Some(auditor.functions.at(target)?),
        owner: auditor.code.owner(target),
    }))
}

/// Finds the owner of the breakpoint at `at`.
fn probe_at(auditor: &Auditor<'_>, at: GuestVirt) -> Result<Owner> {
    let probes = trace::kprobes(auditor.kernel, &auditor.functions)?;
    Ok(match probes.iter().any(|probe| probe.place.at == at) {
        true => Owner::Kprobe,
        false if probes.is_whole() => Owner::Nobody,
        false => Owner::Unknown,
    })
}
