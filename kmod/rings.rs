// SPDX-License-Identifier: GPL-2.0

//! The rings' memory: for each CPU a header page and its records, physically contiguous, kept over arming and
//! disarming and freed with the module.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use kernel::bindings;
use kernel::prelude::*;

use crate::ring::{Record, RingHeader, MAGIC, MAX_CPUS, RECORD, VERSION};

const PAGE: usize = 4096;

/// One CPU's ring; both NULL, or neither.
struct Ring {
    header: AtomicPtr<RingHeader>,
    records: AtomicPtr<Record>,
}

static RINGS: [Ring; MAX_CPUS] = [const {
    Ring {
        header: AtomicPtr::new(ptr::null_mut()),
        records: AtomicPtr::new(ptr::null_mut()),
    }
}; MAX_CPUS];

extern "C" {
    fn klab_phys(address: *const c_void) -> u64;
}

/// The header and the records of `cpu`'s ring, if it has one.
pub(crate) fn of(cpu: u32) -> Option<(*mut RingHeader, *mut Record)> {
    let ring = RINGS.get(cpu as usize)?;
    let header = ring.header.load(Ordering::Acquire);
    (!header.is_null()).then(|| (header, ring.records.load(Ordering::Relaxed)))
}

/// Number of CPUs that there can be.
pub(crate) fn cpus() -> usize {
    // SAFETY: Set while the kernel boots, constant since.
    unsafe { bindings::nr_cpu_ids as usize }
}

/// Slots of each ring; 0 before the first arming.
pub(crate) fn slots() -> u32 {
    // SAFETY: `slots` does not change while the ring exists, and the caller holds the capture's lock.
    of(0).map_or(0, |(header, _)| unsafe { (*header).slots })
}

/// Guest-physical address of what `alloc_pages_exact()` gave.
pub(crate) fn phys<T>(address: *const T) -> u64 {
    // SAFETY: Only computes.
    unsafe { klab_phys(address.cast()) }
}

/// Makes rings of `bytes` of records for every CPU, unless they are that long already.
///
/// Only while no hook is registered and with the capture's lock held.
pub(crate) fn make(bytes: usize) -> Result {
    if cpus() > MAX_CPUS {
        return Err(E2BIG);
    }
    if slots() as usize == bytes / RECORD {
        return Ok(());
    }
    free();
    for cpu in 0..cpus() {
        if let Err(error) = make_one(cpu, bytes) {
            free();
            return Err(error);
        }
    }
    Ok(())
}

fn make_one(cpu: usize, bytes: usize) -> Result {
    let header = pages(PAGE)?.cast::<RingHeader>();
    let records = match pages(bytes) {
        Ok(records) => records.cast::<Record>(),
        Err(error) => {
            // SAFETY: From `pages` just now, seen by nobody.
            unsafe { bindings::free_pages_exact(header.cast(), PAGE) };
            return Err(error);
        }
    };
    let first = RingHeader {
        magic: MAGIC,
        version: VERSION,
        record: RECORD as u32,
        cpu: cpu as u32,
        slots: (bytes / RECORD) as u32,
        records: phys(records),
        generation: 0,
        produced: 0,
        seen: 0,
        rejected: 0,
        unreadable: 0,
        missed: 0,
        forgotten: 0,
    };
    // SAFETY: A page, aligned and ours.
    unsafe { header.write(first) };
    RINGS[cpu].records.store(records, Ordering::Relaxed);
    RINGS[cpu].header.store(header, Ordering::Release);
    Ok(())
}

/// Zeroed pages.
fn pages(bytes: usize) -> Result<*mut c_void> {
    let flags = bindings::GFP_KERNEL | bindings::__GFP_ZERO | bindings::__GFP_NOWARN;
    // SAFETY: May sleep: only the ioctl's task comes here.
    let pages = unsafe { bindings::alloc_pages_exact_noprof(bytes, flags) };
    if pages.is_null() {
        return Err(ENOMEM);
    }
    Ok(pages)
}

/// Frees every ring. Only while no hook is registered.
pub(crate) fn free() {
    for ring in &RINGS {
        let header = ring.header.swap(ptr::null_mut(), Ordering::AcqRel);
        let records = ring.records.swap(ptr::null_mut(), Ordering::AcqRel);
        if header.is_null() {
            continue;
        }
        // SAFETY: Both are from `pages`, with these lengths, and no hook runs that could use them.
        unsafe {
            // Whole pages, so what does not hold a record any more is among them.
            let bytes = (*header).slots as usize * RECORD;
            bindings::free_pages_exact(records.cast(), bytes);
            bindings::free_pages_exact(header.cast(), PAGE);
        }
    }
}

/// Counts an arming or a disarming in every ring, where the host sees it. Only while no hook is registered.
pub(crate) fn turn() {
    for (header, _) in (0..MAX_CPUS as u32).filter_map(of) {
        // SAFETY: The ring exists; the host may look at the same word.
        let generation = unsafe { AtomicU64::from_ptr(&raw mut (*header).generation) };
        generation.fetch_add(1, Ordering::Release);
    }
}
