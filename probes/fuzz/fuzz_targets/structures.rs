//! Any words as the kernel's containers: every walk and every validation ends.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use probes::kernel::Kernel;
use probes::memory::{AddressSpace, FakeMemory, GuestPhys, GuestVirt};
use probes::structures::{
    hlist_for_each, list_for_each, llist_for_each, rbtree_for_each, validate_list, validate_rbtree,
};

/// Address of the words; low bytes of a word are made to point there.
const BASE: u64 = 0x10000;

fuzz_target!(|bytes: &[u8]| {
    let mut words: Vec<u8> = Vec::new();
    for word in bytes.chunks(2).take(512) {
        let near = BASE + 8 * u64::from(word[0]);
        let value = match word.get(1) {
            Some(0..=200) | None => near,
            Some(low @ 201..=230) => near | u64::from(low & 7),
            Some(high) => u64::from(*high) << 48,
        };
        words.extend(value.to_le_bytes());
    }
    let memory = FakeMemory::new([(GuestPhys(BASE), words)]);
    let kernel = Kernel::from_parts("fuzzed", AddressSpace::identity(Arc::new(memory)));
    let at = GuestVirt(BASE);
    let _ = list_for_each(&kernel, at).count();
    let _ = hlist_for_each(&kernel, at).count();
    let _ = llist_for_each(&kernel, at).count();
    let _ = rbtree_for_each(&kernel, at).count();
    let _ = validate_list(&kernel, at, 4096);
    let _ = validate_rbtree(&kernel, at, 4096);
});
