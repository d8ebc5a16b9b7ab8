//! `Kernel`: a guest's kernel for Python.

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use probes::kernel::btf::{Btf, Kind, TypeId};
use probes::memory::{GuestPhys, GuestVirt};
use probes::object::NewValue;
use probes::{Guest, Listing, Missing};
use pyo3::exceptions::{PyOSError, PyRuntimeWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::modules::{self, Loaded};
use crate::reader::{Reader, callback};
use crate::symbols::{Sym, Symbols};
use crate::types::{Place, Types};

/// A kernel in a guest's memory, as it is until the guest is reset.
#[pyclass(frozen, module = "klab._native")]
#[derive(Debug)]
pub(crate) struct Kernel {
    guest: Guest,
    kernel: probes::kernel::Kernel,
    types: Mutex<Types>,
}

pub(crate) fn fault(error: probes::Error) -> PyErr {
    PyOSError::new_err(error.to_string())
}

/// Warns of parts that could not be read, once for each sentence as Python does: others may have what was asked for, so
/// that it is no error.
fn warn(py: Python<'_>, missing: &[Missing]) -> PyResult<()> {
    let category = py.get_type::<PyRuntimeWarning>();
    for one in missing {
        let text = CString::new(one.to_string().replace('\0', "\\0"))?;
        PyErr::warn(py, &category, &text, 2)?;
    }
    Ok(())
}

impl Kernel {
    fn of(guest: Guest) -> probes::Result<Self> {
        let kernel = guest.kernel()?;
        let types = Mutex::default();
        Ok(Self {
            guest,
            kernel,
            types,
        })
    }

    fn is_current(&self) -> probes::Result<bool> {
        let now = self.guest.kernel()?;
        Ok(Arc::ptr_eq(
            now.space().memory(),
            self.kernel.space().memory(),
        ))
    }

    fn types(&self) -> MutexGuard<'_, Types> {
        self.types.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel's BTF, then those of its modules; those that cannot be read are missing.
    fn btfs(&self) -> probes::Result<Listing<Arc<Btf>>> {
        let mut all = Listing::from(vec![Arc::clone(self.kernel.btf()?)]);
        for module in self.kernel.module_btfs()? {
            all.take(module.btf, || format!("module {}, its types", module.name));
        }
        Ok(all)
    }
}

#[pymethods]
impl Kernel {
    /// The guest that `klab up NAME` made.
    #[staticmethod]
    fn attach(py: Python<'_>, name: &str) -> PyResult<Self> {
        py.detach(|| Guest::attach(name).and_then(Self::of))
            .map_err(fault)
    }

    /// An ELF dump of a guest's memory.
    #[staticmethod]
    fn open_core(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| Guest::open_core(path).and_then(Self::of))
            .map_err(fault)
    }

    /// The kernel's release, as `uname -r` prints it.
    #[getter]
    fn release(&self) -> &str {
        self.kernel.release()
    }

    /// Tells whether this is still the kernel in the guest: not after a reset, nor after the guest was started anew.
    fn current(&self, py: Python<'_>) -> PyResult<bool> {
        py.detach(|| self.is_current()).map_err(fault)
    }

    /// Tells whether a machine runs it.
    #[getter]
    fn is_live(&self) -> bool {
        self.guest.machine().is_ok()
    }

    /// Writes to what a C expression names: a number or a text, as it is asked for by `guest.writable()`, or of any machine.
    fn store(
        &self,
        py: Python<'_>,
        expression: &str,
        value: &Bound<'_, PyAny>,
        attached: bool,
    ) -> PyResult<()> {
        let value = match value.extract::<i128>() {
            Ok(number) => NewValue::Number(number),
            Err(_) => NewValue::Text(value.extract::<String>()?),
        };
        let write = || {
            let writable = match attached {
                true => self.guest.writable_attached()?,
                false => self.guest.writable()?,
            };
            // While it stands nobody resets it, and what the object's address means stays.
            self.guest.paused(|_| {
                if !self.is_current()? {
                    return Err(probes::Error::Absent(
                        "the guest was reset or started anew since this program was made: `klab.program(..)` makes one of what it is now"
                            .to_owned(),
                    ));
                }
                writable.set(expression, value)
            })
        };
        py.detach(write).map(drop).map_err(fault)
    }

    /// Lets a guest go on that stands still for being read, by its gdbstub. A reader that drgn has never ends.
    fn let_go(&self, py: Python<'_>) -> PyResult<()> {
        let memory = self.kernel.space().memory();
        py.detach(|| memory.hold(false)).map(drop).map_err(fault)
    }

    /// The VMCOREINFO text, as the kernel wrote it.
    fn vmcoreinfo<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let info = self.kernel.vmcoreinfo().map_err(fault)?;
        Ok(PyBytes::new(py, info.text().as_bytes()))
    }

    /// The RAM there is: start and length of each range, physical.
    fn ranges(&self) -> Vec<(u64, u64)> {
        let ranges = self.kernel.space().memory().ranges();
        ranges
            .iter()
            .map(|range| (range.start.0, range.len))
            .collect()
    }

    /// The address of the C callback.
    #[staticmethod]
    fn callback() -> usize {
        callback()
    }

    /// The callback's `arg`; `create_fault` is the address of drgn's function of that name.
    fn reader(&self, create_fault: usize) -> PyResult<usize> {
        Reader::leak(self.kernel.space().clone(), create_fault)
            .ok_or_else(|| PyValueError::new_err("drgn_error_create_fault is at 0"))
    }

    /// `count` bytes at `address`, for a drgn without the C callback.
    fn read<'py>(
        &self,
        py: Python<'py>,
        address: u64,
        count: usize,
        physical: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        PyBytes::new_with(py, count, |buf| {
            let space = self.kernel.space();
            let done = if physical {
                space.memory().read(GuestPhys(address), buf)
            } else {
                space.read(GuestVirt(address), buf)
            };
            done.map_err(fault)
        })
    }

    /// The place of the type of this kind (`struct`, `union`, `enum`, `typedef`, `int`, `float`) and name.
    fn find_type(&self, py: Python<'_>, kind: &str, name: &str) -> PyResult<Option<Place>> {
        let kinds: &[Kind] = match kind {
            "struct" => &[Kind::Struct],
            "union" => &[Kind::Union],
            "enum" => &[Kind::Enum, Kind::Enum64],
            "typedef" => &[Kind::Typedef],
            "int" => &[Kind::Int],
            "float" => &[Kind::Float],
            _ => return Ok(None),
        };
        let found = self.kernel.find_type(kinds, name).map_err(fault)?;
        if found.is_none() {
            warn(py, &self.btfs().map_err(fault)?.missing)?;
        }
        Ok(found.map(|(btf, id)| self.types().place(&btf, id)))
    }

    /// The type at a place: a tuple that begins with its kind.
    fn describe(&self, py: Python<'_>, place: Place) -> PyResult<Py<PyAny>> {
        self.types().describe(py, place)
    }

    /// The constant of an enumeration: the place of the enumeration, and the value.
    fn find_enumerator(&self, py: Python<'_>, name: &str) -> PyResult<Option<(Place, i64)>> {
        let btfs = self.btfs().map_err(fault)?;
        let found = self.types().enumerator(&btfs, name);
        if found.is_none() {
            warn(py, &btfs.missing)?;
        }
        Ok(found)
    }

    /// The place of the type of a function.
    fn find_function(&self, py: Python<'_>, name: &str) -> PyResult<Option<Place>> {
        self.find_named(py, Kind::Func, name)
    }

    /// The place of the type of a per-CPU variable: BTF has no others.
    fn find_variable(&self, py: Python<'_>, name: &str) -> PyResult<Option<Place>> {
        self.find_named(py, Kind::Var, name)
    }

    /// The declared type of a global variable that BTF has no type for, in C.
    fn declaration(&self, name: &str) -> Option<String> {
        self.kernel.declaration(name)
    }

    /// The names of the variables that are declared.
    #[staticmethod]
    fn declared() -> Vec<&'static str> {
        probes::kernel::Kernel::known_globals().collect()
    }

    /// The address of a symbol; if several have the name, of one that was not freed after the boot.
    fn symbol(&self, name: &str) -> Option<u64> {
        self.kernel.variable(name).ok().map(|at| at.0)
    }

    /// The symbols of this name; all of them if none is given. The kernel's own are left out without `own`; modules' may
    /// be left out if `one` is enough.
    fn symbols(
        &self,
        py: Python<'_>,
        name: Option<&str>,
        own: bool,
        one: bool,
    ) -> PyResult<Vec<Sym>> {
        let mut symbols = Symbols::of(&self.kernel).map_err(fault)?;
        let found = symbols.named(name, own, one).map_err(fault)?;
        if found.is_empty() || !one {
            warn(py, &symbols.missing)?;
        }
        Ok(found)
    }

    /// The symbols that hold an address: several names of one thing, the best first.
    fn symbols_at(&self, py: Python<'_>, address: u64) -> PyResult<Vec<Sym>> {
        let mut symbols = Symbols::of(&self.kernel).map_err(fault)?;
        let found = symbols.at(GuestVirt(address)).map_err(fault)?;
        warn(py, &symbols.missing)?;
        Ok(found)
    }

    /// The modules that are loaded.
    fn modules(&self, py: Python<'_>) -> PyResult<Vec<Loaded>> {
        let modules = py.detach(|| modules::loaded(&self.guest, &self.kernel));
        let modules = modules.map_err(fault)?;
        warn(py, &modules.missing)?;
        Ok(modules.items)
    }

    /// The sections of a module: name and address.
    fn sections(&self, py: Python<'_>, module: &str) -> PyResult<Vec<(String, u64)>> {
        let details = py.detach(|| self.guest.module(module)).map_err(fault)?;
        let sections = details.sections.into_iter();
        Ok(sections.map(|each| (each.name, each.at.0)).collect())
    }
}

impl Kernel {
    fn find_named(&self, py: Python<'_>, kind: Kind, name: &str) -> PyResult<Option<Place>> {
        let btfs = self.btfs().map_err(fault)?;
        for btf in btfs.items {
            let target = btf
                .named(name)
                .find(|ty| ty.kind == kind)
                .and_then(|ty| ty.target());
            if let Some(id) = target.filter(|id| *id != TypeId::VOID) {
                return Ok(Some(self.types().place(&btf, id)));
            }
        }
        warn(py, &btfs.missing)?;
        Ok(None)
    }
}
