//! A small kernel whose RAM was written to at random: found, and read.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use probes::Guest;
use probes::kernel::FakeKernel;
use probes::readers::READERS;
use probes::memory::{FakeMemory, GuestPhys, GuestVirt, PhysMemory as _};

static RAM: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut fake = FakeKernel::new();
    fake.symbol("jiffies", 'D', &42_u64.to_le_bytes()).unwrap();
    let memory = fake.memory().unwrap();
    let len = memory
        .ranges()
        .iter()
        .map(|range| range.start.0 + range.len)
        .max()
        .unwrap();
    let mut ram = vec![0; len as usize];
    memory.read(GuestPhys(0), &mut ram).unwrap();
    ram
});

// Patches: three bytes of place, one of length, the bytes.
fuzz_target!(|bytes: &[u8]| {
    let mut ram = RAM.clone();
    let mut rest = bytes;
    while let [a, b, c, len, tail @ ..] = rest {
        let at = u32::from_le_bytes([*a, *b, *c, 0]) as usize % ram.len();
        let len = usize::from(*len).min(tail.len()).min(ram.len() - at);
        ram[at..at + len].copy_from_slice(&tail[..len]);
        rest = &tail[len..];
    }
    let memory = FakeMemory::new([(GuestPhys(0), ram)]);
    let Ok(guest) = Guest::from_memory(Arc::new(memory)) else {
        return;
    };
    let Ok(kernel) = guest.kernel() else { return };
    let _ = kernel.symbol("jiffies").and_then(|at| kernel.read_u64(at));
    let _ = kernel.symbol_at(GuestVirt(0xffff_ffff_8100_0000));
    let _ = kernel.btf();
    let _ = guest.page_walk(GuestVirt(0xffff_ffff_8100_0000));
    for reader in READERS {
        for sample in reader.samples {
            let read = reader.words(sample).and_then(|words| reader.read(&guest, &words));
            let _ = read.map(|value| (value.text(), value.html(), value.svg(), value.json()));
        }
    }
});
