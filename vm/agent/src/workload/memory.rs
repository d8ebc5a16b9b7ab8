//! Mappings and the program break of a workload: what mmap(2) and sbrk(2) are for.
//!
//! With `unsafe`: neither call has a safe form. Each use is sound because the memory
//! is new, no Rust reference to it is ever made, and nothing else uses it.
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    fs::{self, File, OpenOptions},
    num::NonZeroUsize,
    ptr::NonNull,
    sync::{Mutex, PoisonError},
};

use klab_wire::Made;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect};

use crate::error::{Error, Result, reason};

const PAGE: usize = 4096;
/// Address at which a mapping is asked for: far from those that the kernel chooses.
const FIXED: usize = 0x1000_0000_0000;
/// A mapping so long that it needs page tables of every level; only one page of it is touched.
const HUGE: usize = 1 << 30;

/// Small areas that are said one by one: all that was made must fit into one answer.
const LISTED: usize = 1000;

const NONE: ProtFlags = ProtFlags::PROT_NONE;
const R: ProtFlags = ProtFlags::PROT_READ;
const RW: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);
const RX: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_EXEC);

/// Makes a mapping of every kind, and `count` areas of a page more; says what it made, but not the guard
/// pages between them.
pub(super) fn map_all(count: u32) -> Result<Vec<Made>> {
    let path = format!("/tmp/klab-maps.{}", std::process::id());
    fs::write(&path, vec![b'k'; 4 * PAGE])?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let private = MapFlags::MAP_PRIVATE;
    let mut made = vec![
        anonymous("anonymous", 16, RW, private)?,
        anonymous("anonymous read-only", 3, R, private)?,
        anonymous("PROT_NONE", 5, NONE, private)?,
        anonymous("executable", 1, RX, private)?,
        anonymous("shared anonymous", 4, RW, MapFlags::MAP_SHARED)?,
        anonymous("MAP_GROWSDOWN", 2, RW, private | MapFlags::MAP_GROWSDOWN)?,
        anonymous(
            "huge, untouched but for a page",
            HUGE / PAGE,
            RW,
            private | MapFlags::MAP_NORESERVE,
        )?,
        at_fixed()?,
        of_file(&file, &path, "file, private", R, private, 0)?,
        of_file(&file, &path, "file, shared", RW, MapFlags::MAP_SHARED, 0)?,
        of_file(
            &file,
            &path,
            "file, from its third page on",
            R,
            MapFlags::MAP_SHARED,
            2,
        )?,
    ];
    made.extend(split()?);
    made.extend(many(count)?);
    Ok(made)
}

/// The memory that [`step`] has made, from and to; what is below may be malloc's.
static RAISED: Mutex<(usize, usize)> = Mutex::new((0, 0));

/// Moves the program break by `bytes` and says where it is. New memory is touched, so that it is resident.
pub(super) fn step(bytes: i64) -> Result<u64> {
    let bytes = isize::try_from(bytes)?;
    let mut raised = RAISED.lock().unwrap_or_else(PoisonError::into_inner);
    let before = program_break();
    if before != raised.1 {
        // Malloc has moved it since: what lies below is no longer only this function's.
        *raised = (before, before);
    }
    let Some(after) = before
        .checked_add_signed(bytes)
        .filter(|after| *after >= raised.0)
    else {
        return Err(Error(
            "the program break cannot be lowered by more than it was raised".to_owned(),
        ));
    };
    // SAFETY: raising makes memory that nobody has; lowering gives back what this function made (checked above),
    // to which nothing refers. Malloc copes with a break that others move, as brk(2) and sbrk(3) allow.
    if unsafe { libc::sbrk(bytes) }.addr() == usize::MAX {
        let error = std::io::Error::last_os_error();
        return Err(Error(format!(
            "the kernel does not move the program break by {bytes} bytes: {}",
            reason(&error)
        )));
    }
    for at in (before..after).step_by(PAGE) {
        // SAFETY: inside the memory that sbrk has just made; nobody else has it.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(1) };
    }
    raised.1 = after;
    Ok(after as u64)
}

fn program_break() -> usize {
    // SAFETY: an increment of 0 changes nothing.
    unsafe { libc::sbrk(0) }.expose_provenance()
}

/// Address of an area, and what to say of it.
fn made(start: NonNull<c_void>, pages: usize, perms: &str, path: &str, what: &str) -> Made {
    let start = start.as_ptr().expose_provenance() as u64;
    let end = start + (pages * PAGE) as u64;
    Made::Mapping {
        start,
        end,
        perms: perms.to_owned(),
        path: path.to_owned(),
        what: what.to_owned(),
    }
}

fn perms(prot: ProtFlags, flags: MapFlags) -> String {
    let has = |flag, c| if prot.contains(flag) { c } else { '-' };
    let shared = if flags.contains(MapFlags::MAP_SHARED) {
        's'
    } else {
        'p'
    };
    [
        has(ProtFlags::PROT_READ, 'r'),
        has(ProtFlags::PROT_WRITE, 'w'),
        has(ProtFlags::PROT_EXEC, 'x'),
        shared,
    ]
    .iter()
    .collect()
}

/// A new area between guards of its own, so that it merges with none.
fn anonymous(what: &str, pages: usize, prot: ProtFlags, flags: MapFlags) -> Result<Made> {
    let start = map(pages, prot, flags)?;
    if prot.contains(ProtFlags::PROT_WRITE) {
        // SAFETY: the first byte of a new writable area.
        unsafe { start.cast::<u8>().write_volatile(1) };
    }
    let path = if flags.contains(MapFlags::MAP_SHARED) {
        "/dev/zero (deleted)"
    } else {
        ""
    };
    Ok(made(start, pages, &perms(prot, flags), path, what))
}

fn map(pages: usize, prot: ProtFlags, flags: MapFlags) -> Result<NonNull<c_void>> {
    // The guards at both ends are shared memory of their own, which merges with nothing. All is one area at first: one
    // that was made by itself could be put into another hole.
    // SAFETY: without MAP_FIXED the kernel chooses a place where nothing is.
    let guards = unsafe {
        mmap_anonymous(
            None,
            length(pages + 2)?,
            NONE,
            MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE,
        )
    }?;
    let start = guards.map_addr(|at| at.saturating_add(PAGE));
    // SAFETY: the middle of the area just made, to which nothing refers.
    Ok(unsafe {
        mmap_anonymous(
            Some(start.addr()),
            length(pages)?,
            prot,
            flags | MapFlags::MAP_FIXED,
        )
    }?)
}

fn length(pages: usize) -> Result<NonZeroUsize> {
    NonZeroUsize::new(pages * PAGE).ok_or_else(|| Error("an area of no pages".to_owned()))
}

fn at_fixed() -> Result<Made> {
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
    // SAFETY: NOREPLACE fails where something is already.
    let start = unsafe { mmap_anonymous(NonZeroUsize::new(FIXED), length(2)?, RW, flags) }?;
    Ok(made(start, 2, "rw-p", "", "MAP_FIXED"))
}

fn of_file(
    file: &File,
    path: &str,
    what: &str,
    prot: ProtFlags,
    flags: MapFlags,
    from_page: usize,
) -> Result<Made> {
    let offset = i64::try_from(from_page * PAGE)?;
    // SAFETY: a new place, and no reference is made to bytes that the file's other users may change.
    let start = unsafe { mmap(None, length(2)?, prot, flags, file, offset) }?;
    // SAFETY: the first byte of a readable area, inside the file.
    unsafe { start.cast::<u8>().read_volatile() };
    Ok(made(start, 2, &perms(prot, flags), path, what))
}

/// One area of six pages that mprotect(2) splits into three.
fn split() -> Result<Vec<Made>> {
    let private = MapFlags::MAP_PRIVATE;
    let start = map(6, RW, private)?;
    let page = |n: usize| start.map_addr(|a| a.saturating_add(n * PAGE));
    // SAFETY: two pages in the middle of the area just made.
    unsafe { mprotect(page(2), 2 * PAGE, R) }?;
    let part = |n, prot, what| made(page(n), 2, &perms(prot, private), "", what);
    Ok(vec![
        part(0, RW, "before mprotect's part"),
        part(2, R, "mprotect's part"),
        part(4, RW, "after mprotect's part"),
    ])
}

/// `count` areas of a page: neighbours differ in their permissions, so they do not merge. Says the first [`LISTED`].
fn many(count: u32) -> Result<Vec<Made>> {
    let count = usize::try_from(count)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let private = MapFlags::MAP_PRIVATE;
    let start = map(count, RW, private)?;
    let mut all = Vec::with_capacity(count.min(LISTED));
    for n in 0..count {
        let page = start.map_addr(|a| a.saturating_add(n * PAGE));
        let prot = if n % 2 == 0 { R } else { RW };
        // SAFETY: one page of the area just made.
        unsafe { mprotect(page, PAGE, prot) }?;
        if n < LISTED {
            all.push(made(page, 1, &perms(prot, private), "", "one of many"));
        }
    }
    Ok(all)
}
