//! What makes bytes a kernel, all read from guest RAM.

pub mod btf;
mod cache;

use std::sync::Arc;

use crate::memory::{AddressSpace, GuestVirt};
use crate::{Error, Result};
use btf::Btf;

/// A kernel found in guest memory.
#[derive(Debug, Clone)]
pub struct Kernel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    release: String,
    space: AddressSpace,
    btf: Option<Arc<Btf>>,
    cache: cache::Cache,
}

impl Kernel {
    /// A kernel of known parts: for tests.
    #[must_use]
    pub fn from_parts(release: &str, space: AddressSpace) -> Self {
        Self::of(release, space, None)
    }

    /// A kernel of known parts with types: for tests.
    #[must_use]
    pub fn with_btf(release: &str, space: AddressSpace, btf: Btf) -> Self {
        Self::of(release, space, Some(Arc::new(btf)))
    }

    fn of(release: &str, space: AddressSpace, btf: Option<Arc<Btf>>) -> Self {
        Self {
            inner: Arc::new(Inner {
                release: release.to_owned(),
                space,
                btf,
                cache: cache::Cache::default(),
            }),
        }
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

    /// The types of the kernel.
    pub fn btf(&self) -> Result<&Arc<Btf>> {
        let why = || {
            Error::Other(format!(
                "{} has no BTF: boot a kernel built with CONFIG_DEBUG_INFO_BTF",
                self.release()
            ))
        };
        self.inner.btf.as_ref().ok_or_else(why)
    }
}
