//! The registers of a machine's CPUs, as QEMU's monitor prints them.

use klab_facts::Registers;

use crate::Machine;
use crate::error::Result;

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
}
