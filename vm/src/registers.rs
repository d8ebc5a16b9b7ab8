//! The registers of a machine's CPUs, as QEMU's monitor prints them.

use crate::Machine;
use crate::error::Result;

macro_rules! registers {
    ($( $(#[$doc:meta])* $name:ident $label:literal $slot:literal, )*) => {
        /// The registers of one CPU, as far as a dump of memory has them.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Registers {
            /// The CPU's number.
            pub cpu: u32,
            /// The control register with the physical address of the page tables; `None` where a dump does not have it.
            pub cr3: Option<u64>,
            $( $(#[$doc])* pub $name: u64, )*
        }

        impl Registers {
            /// An argument of the function that the CPU is about to enter, from 0; `None` for one that is not in a register
            /// (System V ABI).
            #[must_use]
            pub fn argument(&self, position: usize) -> Option<u64> {
                [self.rdi, self.rsi, self.rdx, self.rcx, self.r8, self.r9].get(position).copied()
            }

            /// Number of words in `struct user_regs_struct`.
            pub const USER: usize = 27;

            /// As the kernel's `struct user_regs_struct` has them (`arch/x86/include/asm/user_64.h`).
            #[must_use]
            pub fn user(&self) -> [u64; Self::USER] {
                let mut words = [0; Self::USER];
                $( words[$slot] = self.$name; )*
                words
            }

            /// From the words of a `struct user_regs_struct`.
            #[must_use]
            pub fn from_user(cpu: u32, words: &[u64; Self::USER]) -> Self {
                Self { cpu, cr3: None, $( $name: words[$slot], )* }
            }

            fn set(&mut self, label: &str, value: u64) {
                match label {
                    "CR3" => self.cr3 = Some(value),
                    $( $label => self.$name = value, )*
                    _ => {}
                }
            }
        }
    };
}

registers! {
    /// The address of the next instruction.
    rip "RIP" 16,
    /// The stack pointer.
    rsp "RSP" 19,
    /// The frame pointer, or what else the program keeps there.
    rbp "RBP" 4,
    /// General register.
    rax "RAX" 10,
    /// General register.
    rbx "RBX" 5,
    /// General register.
    rcx "RCX" 11,
    /// General register.
    rdx "RDX" 12,
    /// General register.
    rsi "RSI" 13,
    /// General register.
    rdi "RDI" 14,
    /// General register.
    r8 "R8" 9,
    /// General register.
    r9 "R9" 8,
    /// General register.
    r10 "R10" 7,
    /// General register.
    r11 "R11" 6,
    /// General register.
    r12 "R12" 3,
    /// General register.
    r13 "R13" 2,
    /// General register.
    r14 "R14" 1,
    /// General register.
    r15 "R15" 0,
    /// The flags.
    rflags "RFL" 18,
    /// The selector of the code segment: its lowest two bits are the privilege level.
    cs "CS" 17,
    /// Segment selector.
    ss "SS" 20,
    /// Segment selector.
    ds "DS" 23,
    /// Segment selector.
    es "ES" 24,
    /// Segment selector.
    fs "FS" 25,
    /// Segment selector.
    gs "GS" 26,
    /// Base of the `fs` segment.
    fs_base "FS base" 21,
    /// Base of the `gs` segment: in the kernel, the CPU's per-CPU area.
    gs_base "GS base" 22,
}

impl Machine {
    /// The registers of all CPUs. They are those of one instant only while the machine is paused.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn registers(&self) -> Result<Vec<Registers>> {
        Ok(parse(&self.qmp()?.human("info registers -a")?))
    }

    /// As [`Self::registers`], for a caller that can do without: it does not wait for another client of QEMU's socket.
    ///
    /// # Errors
    /// When that is held, or QEMU does not answer.
    pub fn registers_at_once(&self) -> Result<Vec<Registers>> {
        Ok(parse(&self.qmp_at_once()?.human("info registers -a")?))
    }
}

/// `RAX=0000.. R8 =0000.. CS =0010 BASE LIMIT FLAGS`, a block a CPU.
fn parse(text: &str) -> Vec<Registers> {
    let mut all: Vec<Registers> = Vec::new();
    let text = text.replace(" =", "=");
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        while let Some(word) = words.next() {
            if let Some(cpu) = word.strip_prefix("CPU#").and_then(|n| n.parse().ok()) {
                all.push(Registers {
                    cpu,
                    ..Registers::default()
                });
            }
            let (Some(last), Some((name, value))) = (all.last_mut(), word.split_once('=')) else {
                continue;
            };
            if let Some(value) = hex(value) {
                last.set(name, value);
            }
            if matches!(name, "FS" | "GS")
                && let Some(base) = words.next().and_then(hex)
            {
                last.set(&format!("{name} base"), base);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\r\nCPU#0\r\nRAX=0000000000000001 RBX=ffffffff8e60ce40\r\n\
        RSI=0000000000000000 RDI=0000000000000000 RBP=0000000000000000 RSP=ffffffff8e603e90\r\n\
        R8 =0000000000000008 R9 =0000000000000009 R10=000000000000000a\r\n\
        RIP=ffffffff8dd3b1cb RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\n\
        CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]\r\n\
        GS =0000 ffff8e5f3ec00000 ffffffff 00c00000\r\n\
        CR0=80050033 CR2=00007f1122334455 CR3=0000000004c2a000 CR4=00350ef0\r\n\
        \r\nCPU#1\r\nRIP=0000000000401000 RSP=00007ffd00000000\r\n";

    #[test]
    fn registers_are_found_in_what_qemu_prints() {
        let all = parse(TEXT);
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].rip, all[0].rsp),
            (0xffff_ffff_8dd3_b1cb, 0xffff_ffff_8e60_3e90)
        );
        assert_eq!((all[0].rax, all[0].r8, all[0].r10), (1, 8, 10));
        assert_eq!((all[0].cs, all[0].rflags), (0x10, 0x246));
        assert_eq!((all[0].gs, all[0].gs_base), (0, 0xffff_8e5f_3ec0_0000));
        assert_eq!((all[0].cr3, all[1].cr3), (Some(0x4c2_a000), None));
        assert_eq!((all[1].cpu, all[1].rip), (1, 0x40_1000));
    }

    #[test]
    fn every_register_has_a_slot_of_its_own() {
        let words = std::array::from_fn(|slot| slot as u64 + 1);
        let mut back = Registers::from_user(3, &words).user();
        // `orig_ax` is what a system call leaves: QEMU knows none.
        assert_eq!(std::mem::replace(&mut back[15], 16), 0);
        assert_eq!(back, words);
    }
}
