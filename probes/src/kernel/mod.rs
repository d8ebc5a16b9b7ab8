//! What makes bytes a kernel, all read from guest RAM.

use std::sync::Arc;

use crate::Result;
use crate::memory::{AddressSpace, GuestVirt};

/// A kernel found in guest memory.
#[derive(Debug, Clone)]
pub struct Kernel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    release: String,
    space: AddressSpace,
}

impl Kernel {
    /// A kernel of known parts: for tests.
    #[must_use]
    pub fn from_parts(release: &str, space: AddressSpace) -> Self {
        Self { inner: Arc::new(Inner { release: release.to_owned(), space }) }
    }

    /// The kernel's release, as `uname -r` prints it.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.inner.release
    }

    /// The kernel's own address space (`swapper_pg_dir`).
    #[must_use]
    pub fn space(&self) -> &AddressSpace {
        &self.inner.space
    }

    /// Fills `buf` from the kernel address `at`.
    pub fn read(&self, at: GuestVirt, buf: &mut [u8]) -> Result<()> {
        self.inner.space.read(at, buf)
    }
}
