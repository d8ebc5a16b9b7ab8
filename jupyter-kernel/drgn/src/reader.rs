//! The callback by which drgn reads the guest's memory: `drgn_memory_read_fn` of drgn's C API.
//!
//! `struct drgn_error *(*)(void *buf, uint64_t address, size_t count, uint64_t offset, void *arg, bool physical)`,
//! NULL where it succeeded (`libdrgn/drgn.h@v0.3.0`).

#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use probes::memory::{AddressSpace, GuestPhys, GuestVirt};

/// `struct drgn_error *drgn_error_create_fault(const char *message, uint64_t address)`
type CreateFault = unsafe extern "C" fn(*const c_char, u64) -> *mut c_void;

/// The callback's `arg`.
#[derive(Debug)]
pub(crate) struct Reader {
    space: AddressSpace,
    create_fault: CreateFault,
}

impl Reader {
    /// A reader of `space` that lives as long as the process: a drgn program cannot say when it stops reading. It holds
    /// a mapping of the RAM file, not a copy. `create_fault` is the address of drgn's `drgn_error_create_fault`.
    pub(crate) fn leak(space: AddressSpace, create_fault: usize) -> Option<usize> {
        if create_fault == 0 {
            return None;
        }
        // SAFETY: the caller looked the function up by its name in the drgn of the version whose header has this
        // signature; a function pointer and a usize have the same size, and it is not null.
        let create_fault = unsafe { std::mem::transmute::<usize, CreateFault>(create_fault) };
        let reader = Box::leak(Box::new(Self {
            space,
            create_fault,
        }));
        Some(std::ptr::from_mut(reader) as usize)
    }

    /// Fills `buf`: from physical memory, or from the kernel's address space.
    fn read(&self, at: u64, buf: &mut [u8], physical: bool) -> probes::Result<()> {
        if physical {
            self.space.memory().read(GuestPhys(at), buf)
        } else {
            self.space.read(GuestVirt(at), buf)
        }
    }
}

/// The address of the callback.
pub(crate) fn callback() -> usize {
    read as *const () as usize
}

/// drgn calls it on one thread at a time for a program; the reader is shared and never changes.
unsafe extern "C" fn read(
    buf: *mut c_void,
    address: u64,
    count: usize,
    _offset: u64,
    arg: *mut c_void,
    physical: bool,
) -> *mut c_void {
    // SAFETY: `arg` is what `Reader::leak` returned, which is never freed.
    let reader = unsafe { &*arg.cast::<Reader>() };
    if count == 0 {
        return std::ptr::null_mut();
    }
    // SAFETY: drgn gives a buffer of `count` bytes that nothing else touches during the call. They may be
    // uninitialised, so they are first written.
    let buf = unsafe {
        std::ptr::write_bytes(buf.cast::<u8>(), 0, count);
        std::slice::from_raw_parts_mut(buf.cast::<u8>(), count)
    };
    // A panic must not pass through drgn's C frames.
    let done = catch_unwind(AssertUnwindSafe(|| reader.read(address, buf, physical)));
    let why = match done {
        Ok(Ok(())) => return std::ptr::null_mut(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the reader panicked".to_owned(),
    };
    let message = CString::new(why).unwrap_or_default();
    // SAFETY: the function copies the message (`drgn_error_create_fault` calls `strdup`).
    unsafe { (reader.create_fault)(message.as_ptr(), address) }
}
