//! The native half of the Python package `klab`: a guest's kernel as drgn's finders ask for it.
//!
//! drgn itself is not linked: `klab/program.py` hands drgn the address of `reader`'s callback, and its finders ask
//! `kernel::Kernel` for types, symbols and declarations. Everything is read from the guest's memory by `probes`.

mod kernel;
mod modules;
mod reader;
mod symbols;
mod types;

use pyo3::prelude::*;

/// The native module that `klab/program.py` builds on.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<kernel::Kernel>()
}
