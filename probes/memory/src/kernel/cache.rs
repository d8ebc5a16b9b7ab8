//! A cache for what an upper layer works out once for a kernel.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::Kernel;
use crate::Result;

/// One value of each type, made at first use.
#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cache")
    }
}

impl Kernel {
    /// The one `T` of this kernel: made by `make` at first use, then shared. It must not hold the kernel itself.
    ///
    /// ```
    /// # use klab_memory::{kernel::Kernel, memory::{AddressSpace, FakeMemory}};
    /// # let space = AddressSpace::identity(std::sync::Arc::new(FakeMemory::default()));
    /// # let kernel = Kernel::from_parts("7.3.4", space);
    /// struct ListOffset(u64);
    /// let offset = kernel.once(|| Ok(ListOffset(2272)))?;
    /// assert_eq!(offset.0, 2272);
    /// # Ok::<(), klab_memory::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of `make`, which is then called again the next time.
    pub fn once<T: Any + Send + Sync>(&self, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let table = || {
            self.inner
                .cache
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let known = table().get(&TypeId::of::<T>()).cloned();
        if let Some(Ok(known)) = known.map(Arc::downcast) {
            return Ok(known);
        }
        // Not under the lock: making one may need another. Two threads may both make it; either is right.
        let made = Arc::new(make()?);
        table().insert(TypeId::of::<T>(), made.clone());
        Ok(made)
    }
}
