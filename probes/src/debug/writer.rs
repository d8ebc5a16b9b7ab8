//! The instruction that has written, when the processor has executed it and stands behind it.
//!
//! x86 stops after a write. The function is decoded from its start, so that its instructions are those that the processor
//! executes, and the one that ends where the CPU stands is the one. Where the one before did not go on there, a call did: that one is
//! before the return address that it has pushed. A string instruction that is not done yet is still the next one. What the
//! instruction addresses, with the registers as they are now, is compared with the watched bytes: a second reading, which the
//! instruction's own change of a register can spoil.

use std::ops::Range;

use iced_x86::{
    Decoder, DecoderOptions, Instruction as Decoded, InstructionInfoFactory, Mnemonic, OpAccess,
    Register, UsedMemory,
};
use serde::Serialize;
use vm::Registers;

use crate::guest::Guest;
use crate::memory::GuestVirt;
use crate::text::Instruction;

/// The instruction that has written, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// The instruction.
    pub instruction: Instruction,
    /// True if what it addresses is what was watched: `false` where it has changed the register that it addresses by.
    pub addresses: bool,
    /// Way in which it was found.
    pub found: Found,
}

/// Ways in which the instruction that has written is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// It ends where the CPU stands.
    Before,
    /// It is a call, which has pushed its return address and gone.
    Call,
    /// It is a string instruction in the middle of its work.
    Again,
}

/// The instruction that has written to one of the watched bytes; `None` where none is found: user space, or what the processor itself
/// pushes when an interrupt comes.
pub(super) fn find(guest: &Guest, registers: &Registers, watched: &Range<u64>) -> Option<Written> {
    let here = registers.rip;
    if here >> 63 == 0 {
        return None;
    }
    let written = |one: &Instruction, found| {
        let decoded = decode(one)?;
        Some(Written {
            addresses: addresses(&decoded, registers, watched),
            instruction: one.clone(),
            found,
        })
    };
    // The byte before: an instruction may be a function's last.
    let all = |at: u64| {
        let all = guest.disassembly(GuestVirt(at));
        all.map(|all| all.instructions).unwrap_or_default()
    };
    let ends_at = |all: &[Instruction], end: u64| {
        let mut all = all.iter();
        all.find(|one| one.at.offset(one.bytes.len() as u64).0 == end)
            .cloned()
    };
    let around = all(here.wrapping_sub(1));
    let again = || all(here).into_iter().find(|one| one.at.0 == here);
    let before = ends_at(&around, here).and_then(|one| written(&one, Found::Before));
    if before.as_ref().is_some_and(|written| written.addresses) {
        return before;
    }
    let unfinished = again().filter(|one| {
        decode(one).is_some_and(|decoded| decoded.has_rep_prefix() || decoded.has_repne_prefix())
    });
    if let Some(written) = unfinished.and_then(|one| written(&one, Found::Again))
        && written.addresses
    {
        return Some(written);
    }
    // A call has pushed where it returns to, onto the watched bytes.
    if watched.contains(&registers.rsp)
        && let Ok(kernel) = guest.kernel()
        && let Ok(returns) = kernel.read_u64(GuestVirt(registers.rsp))
        && let Some(call) = ends_at(&all(returns.wrapping_sub(1)), returns)
        && decode(&call).is_some_and(|decoded| decoded.mnemonic() == Mnemonic::Call)
    {
        return written(&call, Found::Call);
    }
    before
        .filter(|written| decode(&written.instruction).is_some_and(|one| !stores(&one).is_empty()))
}

fn decode(one: &Instruction) -> Option<Decoded> {
    let decoded = Decoder::with_ip(64, &one.bytes, one.at.0, DecoderOptions::NONE).decode();
    (!decoded.is_invalid()).then_some(decoded)
}

/// The memory that it writes to, and whether it changes a register that it addresses that by.
fn stores(one: &Decoded) -> Vec<(UsedMemory, bool)> {
    let writes = |access| {
        matches!(
            access,
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        )
    };
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(one);
    let changed: Vec<Register> = info
        .used_registers()
        .iter()
        .filter(|used| writes(used.access()))
        .map(|used| used.register().full_register())
        .collect();
    let moves = |memory: &UsedMemory| {
        [memory.base(), memory.index()]
            .iter()
            .any(|register| changed.contains(&register.full_register()))
    };
    let all = info.used_memory().iter();
    all.filter(|memory| writes(memory.access()))
        .map(|memory| (*memory, moves(memory)))
        .collect()
}

/// Tells whether the memory that it writes to, with the registers as they are behind it, has one of the watched bytes.
fn addresses(one: &Decoded, registers: &Registers, watched: &Range<u64>) -> bool {
    let touches = |at: u64, len: u64| at < watched.end && at.wrapping_add(len) > watched.start;
    stores(one).iter().any(|(memory, moves)| {
        let at = memory.virtual_address(0, |register, _, _| value(registers, register));
        let len = (memory.memory_size().size() as u64).max(1);
        // A push or a string instruction has gone on by one element, up or down.
        at.is_some_and(|at| match moves {
            true => touches(at.wrapping_sub(len), len) || touches(at.wrapping_add(len), len),
            false => touches(at, len),
        })
    })
}

/// The value of a register; the base of a segment.
fn value(registers: &Registers, register: Register) -> Option<u64> {
    let whole = match register.full_register() {
        Register::RAX => registers.rax,
        Register::RBX => registers.rbx,
        Register::RCX => registers.rcx,
        Register::RDX => registers.rdx,
        Register::RSI => registers.rsi,
        Register::RDI => registers.rdi,
        Register::RBP => registers.rbp,
        Register::RSP => registers.rsp,
        Register::R8 => registers.r8,
        Register::R9 => registers.r9,
        Register::R10 => registers.r10,
        Register::R11 => registers.r11,
        Register::R12 => registers.r12,
        Register::R13 => registers.r13,
        Register::R14 => registers.r14,
        Register::R15 => registers.r15,
        Register::FS => registers.fs_base,
        Register::GS => registers.gs_base,
        Register::CS | Register::DS | Register::ES | Register::SS => 0,
        _ => return None,
    };
    Some(match register.size() {
        4 if register.is_gpr32() => whole & 0xffff_ffff,
        _ => whole,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Decoded {
        let one = Instruction {
            at: GuestVirt(0xffff_ffff_8100_0000),
            offset: 0,
            bytes: bytes.to_vec(),
            text: String::new(),
            target: None,
            patched: None,
        };
        decode(&one).unwrap()
    }

    #[test]
    fn what_an_instruction_addresses_is_found_behind_it() {
        let registers = Registers {
            rax: 0x1000,
            rcx: 2,
            rdi: 0x2008,
            rsp: 0x3000,
            gs_base: 0x10_0000,
            ..Registers::default()
        };
        let watched = 0x1010..0x1018;
        // movl $1, 0x10(%rax); incl 0x8(%rax,%rcx,4)
        assert!(addresses(
            &decoded(&[0xc7, 0x40, 0x10, 1, 0, 0, 0]),
            &registers,
            &watched
        ));
        assert!(addresses(
            &decoded(&[0xff, 0x44, 0x88, 0x08]),
            &registers,
            &watched
        ));
        assert!(!addresses(
            &decoded(&[0xff, 0x44, 0x88, 0x10]),
            &registers,
            &watched
        ));
        // rep stos %rax: it has gone on to 0x2008.
        let rep = decoded(&[0xf3, 0x48, 0xab]);
        assert!(addresses(&rep, &registers, &(0x2000..0x2008)) && rep.has_rep_prefix());
        // push %rax; call: the stack's last word.
        for bytes in [&[0x50][..], &[0xe8, 0, 0, 0, 0]] {
            assert!(addresses(&decoded(bytes), &registers, &(0x3000..0x3004)));
            assert!(!stores(&decoded(bytes)).is_empty());
        }
        // incl %gs:0x20
        let per_cpu = decoded(&[0x65, 0xff, 0x04, 0x25, 0x20, 0, 0, 0]);
        assert!(addresses(&per_cpu, &registers, &(0x10_0020..0x10_0024)));
        // xor %eax, %eax
        assert!(stores(&decoded(&[0x31, 0xc0])).is_empty());
    }
}
