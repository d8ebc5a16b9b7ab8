//! The registers of a machine's CPUs.

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

            /// The registers with their names, the program counter first.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![ $( (stringify!($name), self.$name), )* ]
            }

            /// From the words of a `struct user_regs_struct`.
            #[must_use]
            pub fn from_user(cpu: u32, words: &[u64; Self::USER]) -> Self {
                Self { cpu, cr3: None, $( $name: words[$slot], )* }
            }

            /// Sets the register that QEMU's monitor prints as `label`; of another one nothing is kept.
            pub fn set(&mut self, label: &str, value: u64) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_has_a_slot_of_its_own() {
        let words = std::array::from_fn(|slot| slot as u64 + 1);
        let mut back = Registers::from_user(3, &words).user();
        // `orig_ax` is what a system call leaves: QEMU knows none.
        assert_eq!(std::mem::replace(&mut back[15], 16), 0);
        assert_eq!(back, words);
    }
}
