// SPDX-License-Identifier: GPL-2.0

//! The packets that a filter has let through, so that each is followed also under other addresses: by
//! `skb->head`, which clones share and NAT leaves alone, and by the `sk_buff` where nothing else is to be had.
//!
//! A fixed table without locks: any hook, on any CPU and in any context, reads and writes its words. Where one is
//! full something else of it is forgotten, which is counted: such a packet may lack stages.

use core::sync::atomic::{AtomicU64, Ordering};

/// Words of one bucket: a cache line.
const WAYS: usize = 8;
const BUCKETS: usize = 1024;

#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

static TABLE: [Bucket; BUCKETS] = [const { Bucket([const { AtomicU64::new(0) }; WAYS]) }; BUCKETS];
/// True if anything was put in since it was cleared: most filters see mostly what they do not want.
static USED: AtomicU64 = AtomicU64::new(0);

fn bucket(key: u64) -> &'static [AtomicU64; WAYS] {
    // Allocations are aligned to 64 bytes at least: what tells them apart is above. Fibonacci hashing.
    let hash = (key >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    &TABLE[hash as usize % BUCKETS].0
}

/// Tells whether this address is of a packet that is followed.
pub(crate) fn contains(key: u64) -> bool {
    key != 0
        && USED.load(Ordering::Relaxed) != 0
        && bucket(key)
            .iter()
            .any(|word| word.load(Ordering::Relaxed) == key)
}

/// Follows it; `false` if another was forgotten for it.
pub(crate) fn insert(key: u64) -> bool {
    if key == 0 || contains(key) {
        return true;
    }
    USED.store(1, Ordering::Relaxed);
    let words = bucket(key);
    for word in words {
        if word
            .compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            return true;
        }
    }
    words[(key >> 12) as usize % WAYS].store(key, Ordering::Relaxed);
    false
}

/// Follows it no more.
pub(crate) fn remove(key: u64) {
    if key == 0 || USED.load(Ordering::Relaxed) == 0 {
        return;
    }
    for word in bucket(key) {
        // Two CPUs may have put it in at once.
        let _ = word.compare_exchange(key, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Follows nothing. Only while no hook is registered.
pub(crate) fn clear() {
    for bucket in &TABLE {
        for word in &bucket.0 {
            word.store(0, Ordering::Relaxed);
        }
    }
    USED.store(0, Ordering::Relaxed);
}
