//! `Guest`: the handle that cells and commands hold.

use std::path::Path;
use std::sync::Arc;

use crate::Result;
use crate::kernel::Kernel;
use crate::memory::{RamFile, RamRange};

/// A guest whose memory can be read. Clones are the same guest.
#[derive(Debug, Clone)]
pub struct Guest {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    kernel: Kernel,
}

impl Guest {
    /// A guest that is nothing but its RAM file: no machine to pause, no agent.
    pub fn open_ram(path: impl AsRef<Path>, ranges: &[RamRange]) -> Result<Self> {
        let ram = RamFile::open(path.as_ref(), ranges)?;
        Ok(Self::from_kernel(Kernel::discover(Arc::new(ram))?))
    }

    /// A guest of a kernel that is known: for tests.
    #[must_use]
    pub fn from_kernel(kernel: Kernel) -> Self {
        Self {
            inner: Arc::new(Inner { kernel }),
        }
    }

    /// The kernel that runs in it.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.inner.kernel.clone()
    }
}
