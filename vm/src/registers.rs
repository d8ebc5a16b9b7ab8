//! The registers of a machine's CPUs, as QEMU's monitor prints them.

use crate::Machine;
use crate::error::Result;
use crate::qmp::Qmp;

/// The general registers of one CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Registers {
    /// The CPU's number.
    pub cpu: u32,
    /// The address of the next instruction.
    pub rip: u64,
    /// In the order of their numbers in instructions: `rax`, `rcx`, `rdx`, `rbx`, `rsp`, `rbp`, `rsi`, `rdi`, `r8` to `r15`.
    pub general: [u64; 16],
}

/// The names of [`Registers::general`].
pub const GENERAL: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

impl Registers {
    /// The stack pointer.
    #[must_use]
    pub fn rsp(&self) -> u64 {
        self.general[4]
    }

    /// The frame pointer, or what else the program keeps there.
    #[must_use]
    pub fn rbp(&self) -> u64 {
        self.general[5]
    }

    /// An argument of the function that the CPU is about to enter, from 0; `None` for one that is not in a register (System V
    /// ABI).
    #[must_use]
    pub fn argument(&self, position: usize) -> Option<u64> {
        // rdi, rsi, rdx, rcx, r8, r9
        [7, 6, 2, 1, 8, 9]
            .get(position)
            .map(|register| self.general[*register])
    }
}

impl Machine {
    /// The registers of all CPUs. They are those of one instant only while the machine is paused.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn registers(&self) -> Result<Vec<Registers>> {
        let mut qmp = Qmp::connect(self.run_dir())?;
        Ok(parse(&qmp.human("info registers -a")?))
    }
}

fn parse(text: &str) -> Vec<Registers> {
    let mut all: Vec<Registers> = Vec::new();
    for word in text.split_whitespace() {
        if let Some(cpu) = word.strip_prefix("CPU#").and_then(|n| n.parse().ok()) {
            all.push(Registers {
                cpu,
                ..Registers::default()
            });
        }
        let (Some(last), Some((name, value))) = (all.last_mut(), word.split_once('=')) else {
            continue;
        };
        let Ok(value) = u64::from_str_radix(value, 16) else {
            continue;
        };
        let name = name.to_ascii_lowercase();
        if name == "rip" {
            last.rip = value;
        } else if let Some(index) = GENERAL.iter().position(|general| *general == name) {
            last.general[index] = value;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_found_in_what_qemu_prints() {
        let text = "\r\nCPU#0\r\nRAX=0000000000000001 RBX=ffffffff8e60ce40\r\n\
            RSI=0000000000000000 RDI=0000000000000000 RBP=0000000000000000 RSP=ffffffff8e603e90\r\n\
            RIP=ffffffff8dd3b1cb RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\n\
            \r\nCPU#1\r\nRIP=0000000000401000 RSP=00007ffd00000000\r\n";
        let all = parse(text);
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].rip, all[0].rsp()),
            (0xffff_ffff_8dd3_b1cb, 0xffff_ffff_8e60_3e90)
        );
        assert_eq!(all[0].general[3], 0xffff_ffff_8e60_ce40);
        assert_eq!((all[1].cpu, all[1].rip), (1, 0x40_1000));
    }
}
