// SPDX-License-Identifier: GPL-2.0

//! Calls of any function: which are wanted, and their records. What `event.rs` says of where this runs holds here too.

use core::cell::UnsafeCell;
use core::mem::{offset_of, size_of};

use kernel::prelude::*;

use crate::call::{CallRecord, Plan, Wanted, COMM, PLANS, TEXT};
use crate::event::{count, publish, slot};
use crate::ring::{commit, Record, RingHeader, POSITIONS};
use crate::rings;

/// `struct klab_call` of hooks.h.
#[repr(C)]
pub(crate) struct Call {
    time: u64,
    args: [u64; POSITIONS as usize],
    value: u64,
    entered: u64,
    site: u32,
    pid: u32,
    tgid: u32,
    cpu: u32,
    kind: u8,
    context: u8,
    text_len: u8,
    flags: u8,
    unread: u32,
    comm: [u8; COMM],
    text: [u8; TEXT],
}

const _: () = {
    assert!(size_of::<Call>() == 192);
    assert!(offset_of!(Call, site) == 72 && offset_of!(Call, kind) == 88);
    assert!(offset_of!(Call, comm) == 96 && offset_of!(Call, text) == 112);
};

extern "C" {
    /// Copies kernel memory; false where it cannot be read.
    fn klab_read(at: u64, to: *mut c_void, len: u32) -> bool;
}

struct Shared(UnsafeCell<[Plan; PLANS]>);

// SAFETY: Written only while no hook is registered (see `set_plans`), else read only.
unsafe impl Sync for Shared {}

static ALL: Shared = Shared(UnsafeCell::new([Plan::ALL; PLANS]));

/// Sets what will be recorded.
///
/// # Safety
/// No hook may be registered, and the capture's lock is held. Registering a hook orders this write before its first run.
pub(crate) unsafe fn set_plans(plans: &[Plan]) {
    let all = ALL.0.get().cast::<Plan>();
    // One by one: together they are too long for the stack.
    for (index, plan) in plans.iter().take(PLANS).enumerate() {
        // SAFETY: As the caller promises, and there are `PLANS` of them.
        unsafe { all.add(index).write(*plan) };
    }
}

/// Forgets them, as `set_plans`.
///
/// # Safety
/// That of `set_plans`.
pub(crate) unsafe fn forget_plans() {
    let all = ALL.0.get().cast::<Plan>();
    for index in 0..PLANS {
        // SAFETY: As the caller promises, and there are `PLANS` of them.
        unsafe { all.add(index).write(Plan::ALL) };
    }
}

/// The plan of this number, while hooks are registered.
fn plan(number: u32) -> Option<&'static Plan> {
    // SAFETY: Not written while hooks are registered, and only they come here.
    unsafe { &*ALL.0.get() }.get(number as usize)
}

/// Reads a little-endian number of so many bytes.
fn number(at: u64, bytes: u8) -> Option<u64> {
    let mut word = [0_u8; 8];
    let to = word.get_mut(..usize::from(bytes))?;
    // SAFETY: `to` has so many bytes.
    let read = unsafe { klab_read(at, to.as_mut_ptr().cast(), to.len() as u32) };
    read.then(|| u64::from_le_bytes(word))
}

/// Called by each hook with preemption off: whether the call is wanted ([`Wanted`]).
///
/// # Safety
/// `args` must be valid for reads.
#[no_mangle]
pub(crate) unsafe extern "C" fn klab_wants(
    of: u32,
    cpu: u32,
    args: *const [u64; POSITIONS as usize],
) -> u8 {
    // SAFETY: As the caller promises.
    let args = unsafe { &*args };
    let (Some(plan), Some((header, _))) = (plan(of), rings::of(cpu)) else {
        return Wanted::No as u8;
    };
    count(header, offset_of!(RingHeader, seen));
    let wanted = plan.wants(args, number);
    if wanted == Wanted::No {
        count(header, offset_of!(RingHeader, rejected));
    }
    wanted as u8
}

/// Number of return addresses that a plan records.
#[no_mangle]
pub(crate) extern "C" fn klab_frames_of(number: u32) -> u8 {
    plan(number).map_or(0, |plan| plan.frames)
}

/// Copies the members that a plan names into `text`, and says which could not be read; gives how many bytes they take.
///
/// # Safety
/// `call` must be valid.
#[no_mangle]
pub(crate) unsafe extern "C" fn klab_fetch(number: u32, call: *mut Call) -> u32 {
    // SAFETY: As the caller promises.
    let call = unsafe { &mut *call };
    let Some(plan) = plan(number) else { return 0 };
    let mut used = 0_usize;
    for (index, one) in plan.fetches.iter().enumerate() {
        let end = used.saturating_add(usize::from(one.len));
        let (Some(to), Some(word)) = (
            call.text.get_mut(used..end),
            call.args.get(usize::from(one.arg)),
        ) else {
            break;
        };
        if to.is_empty() {
            break;
        }
        let at = word.wrapping_add(u64::from(one.offset));
        // SAFETY: `to` has so many bytes.
        if !unsafe { klab_read(at, to.as_mut_ptr().cast(), to.len() as u32) } {
            call.unread |= 1 << (index & 31);
        }
        used = end;
    }
    used as u32
}

/// Place of the text of a call: the argument, or what `peek64` is to read before; 0: nowhere. `hop` gets which.
///
/// # Safety
/// `args` and `hop` must be valid.
#[no_mangle]
pub(crate) unsafe extern "C" fn klab_text_of(
    number: u32,
    args: *const [u64; POSITIONS as usize],
    hop: *mut bool,
) -> u64 {
    // SAFETY: As the caller promises.
    let args = unsafe { &*args };
    let Some(plan) = plan(number) else { return 0 };
    let Some(word) = plan
        .text
        .checked_sub(1)
        .and_then(|index| args.get(usize::from(index)))
    else {
        return 0;
    };
    // SAFETY: As the caller promises.
    unsafe { hop.write(plan.hop != 0) };
    match plan.hop {
        0 => *word,
        _ => word.wrapping_add(u64::from(plan.offset)),
    }
}

/// Called by each hook, with preemption off.
///
/// # Safety
/// `call` must be valid for reads.
#[no_mangle]
pub(crate) unsafe extern "C" fn klab_record_call(call: *const Call) {
    // SAFETY: As the caller promises.
    let call = unsafe { &*call };
    if let Some((sequence, at)) = slot(call.cpu) {
        write(at.cast(), sequence, call);
    }
}

/// Writes a call as a record.
fn write(at: *mut CallRecord, sequence: u64, call: &Call) {
    let record = CallRecord {
        commit: 0,
        time: call.time,
        args: call.args,
        value: call.value,
        entered: call.entered,
        site: call.site,
        pid: call.pid,
        tgid: call.tgid,
        unread: call.unread,
        comm: call.comm,
        text: call.text,
    };
    let whole = commit(sequence, call.kind, call.context, call.text_len, call.flags);
    // SAFETY: `at` is a slot of this CPU's ring, which is as long (see below), and a `CallRecord` begins with `commit`.
    unsafe { publish(at, record, whole) };
}

// A slot is as long for both.
const _: () = assert!(size_of::<CallRecord>() == size_of::<Record>() && offset_of!(CallRecord, commit) == 0);
