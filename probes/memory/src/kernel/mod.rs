//! The kernel in guest RAM: its page tables, symbols and types, all read from there.

pub mod btf;
mod btf_modules;
mod cache;
mod demangle;
mod fake;
mod functions;
mod kallsyms;
mod layout;
mod module_symbols;
mod names;
mod running;
mod search;
#[cfg(test)]
mod tests;
mod torn;
mod view;
mod vmcoreinfo;

use std::sync::{Arc, OnceLock};

use btf::Btf;
pub use btf_modules::{ModuleBtf, TypeNamed};
pub use demangle::{demangled, place, readable, shown};
pub use fake::{FakeKernel, KallsymsStyle};
pub use functions::Function;
pub use functions::Functions;
pub use kallsyms::{Kallsyms, Symbol, SymbolAt};
use layout::Layout;
pub use module_symbols::{ElfSymbol, ModuleSymbols};
pub use names::{Definition, Spelling};
pub use running::choose;
pub use vmcoreinfo::VmcoreInfo;

use crate::base::Of as _;
use crate::memory::{AddressSpace, GuestPhys, GuestVirt, PhysMemory};
use crate::{Error, Result, text_of};

/// More CPUs than any x86-64 kernel supports (`CONFIG_NR_CPUS` is at most 8192).
const MAX_CPUS: u32 = 8192;
/// More bytes than any kernel's BTF has: that of a distribution kernel has 4 to 8 MiB.
const MAX_BTF: u64 = 128 << 20;

/// A kernel found in guest memory. Clones share what was decoded.
#[derive(Debug, Clone)]
pub struct Kernel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    release: String,
    space: AddressSpace,
    layout: Option<Layout>,
    symbols: OnceLock<Result<Kallsyms>>,
    btf: OnceLock<Result<Arc<Btf>>>,
    cache: cache::Cache,
}

impl Kernel {
    /// Finds the kernel in `memory`: VMCOREINFO by a scan, then its page tables, its symbols and its types. The first that
    /// has all of them is taken: [`Self::discover_all`] finds the others.
    ///
    /// # Errors
    /// `Absent`, with what each candidate lacks, if there is no kernel; as [`PhysMemory::read`].
    pub fn discover(memory: Arc<dyn PhysMemory>) -> Result<Self> {
        Self::discover_noted(memory, None)
    }

    /// As [`Self::discover`], in memory that came with the text of VMCOREINFO: a dump with a note. Where the note is not
    /// of this memory, it is searched.
    ///
    /// # Errors
    /// As [`Self::discover`].
    pub fn discover_noted(memory: Arc<dyn PhysMemory>, noted: Option<&[u8]>) -> Result<Self> {
        search::Search::new(memory, noted).first()
    }

    /// All kernels in `memory`, each whole: one that crashed and the one that was started to dump it, one that another
    /// booted. All of RAM is searched.
    ///
    /// # Errors
    /// As [`PhysMemory::read`]. No kernel is an empty list.
    pub fn discover_all(memory: Arc<dyn PhysMemory>) -> Result<Vec<Self>> {
        search::Search::new(memory, None).all()
    }

    /// The kernel whose VMCOREINFO is the page at `at`.
    ///
    /// # Errors
    /// When that page is none, or is of no kernel in this memory.
    pub fn discover_at(memory: &Arc<dyn PhysMemory>, at: GuestPhys) -> Result<Self> {
        let info = VmcoreInfo::read(memory.as_ref(), at)
            .of(|| format!("the page at physical {at}, as VMCOREINFO"))?;
        Ok(Self::of_layout(Layout::of(memory, info)?))
    }

    fn of_layout(layout: Layout) -> Self {
        let (release, space) = (layout.info.release().to_owned(), layout.space.clone());
        Self::of(release, space, Some(layout), OnceLock::new())
    }

    /// Reads what everything else rests on: symbols, and types where it has them.
    fn try_all(&self) -> Result<()> {
        self.symbols()?;
        match self.btf() {
            Ok(_) | Err(Error::Unsupported(_)) => Ok(()),
            Err(fault) => Err(fault.clone()),
        }
    }

    /// Tells whether both are one kernel: they have their page tables in the same place.
    fn is_same(&self, other: &Self) -> bool {
        self.space().root() == other.space().root()
    }

    /// A kernel of known parts: for tests.
    #[must_use]
    pub fn from_parts(release: &str, space: AddressSpace) -> Self {
        Self::of(release.to_owned(), space, None, OnceLock::new())
    }

    /// A kernel of known parts with types: for tests.
    #[must_use]
    pub fn with_btf(release: &str, space: AddressSpace, btf: Btf) -> Self {
        Self::of(
            release.to_owned(),
            space,
            None,
            OnceLock::from(Ok(Arc::new(btf))),
        )
    }

    fn of(
        release: String,
        space: AddressSpace,
        layout: Option<Layout>,
        btf: OnceLock<Result<Arc<Btf>>>,
    ) -> Self {
        let (symbols, cache) = (OnceLock::new(), cache::Cache::default());
        Self {
            inner: Arc::new(Inner {
                release,
                space,
                layout,
                symbols,
                btf,
                cache,
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

    /// Tells whether this is still what its memory holds: its VMCOREINFO stands where it stood, and its page tables map
    /// themselves. A machine that rebooted has neither.
    pub fn is_there(&self) -> bool {
        let Some(layout) = &self.inner.layout else {
            return true;
        };
        let Some(at) = layout.info.at() else {
            return true;
        };
        let text = layout.info.text().as_bytes();
        let mut now = vec![0; text.len()];
        let same = self.space().memory().read(at, &mut now).is_ok() && now == text;
        let top = layout.info.symbol("swapper_pg_dir");
        // By the tables: the linear rule would not look.
        same && top.is_some_and(|top| {
            let walk = self.space().walk(top);
            walk.is_ok_and(|walk| walk.phys.is_some() && walk.phys == self.space().root())
        })
    }

    fn layout(&self) -> Result<&Layout> {
        let absent = || {
            Error::Unsupported(format!(
                "{} is made of parts: it has no VMCOREINFO",
                self.release()
            ))
        };
        self.inner.layout.as_ref().ok_or_else(absent)
    }

    /// The note of the kernel for crash tools.
    ///
    /// # Errors
    /// `Unsupported` for a kernel [made of parts](Self::from_parts).
    pub fn vmcoreinfo(&self) -> Result<&VmcoreInfo> {
        Ok(&self.layout()?.info)
    }

    /// The kernel's symbols; decoded at the first call.
    ///
    /// # Errors
    /// As [`Self::vmcoreinfo`] and [`Kallsyms::read`].
    pub fn symbols(&self) -> Result<&Kallsyms> {
        let read = || Kallsyms::read(&self.inner.space, &self.layout()?.info);
        self.inner
            .symbols
            .get_or_init(read)
            .as_ref()
            .map_err(Clone::clone)
    }

    /// The address of a symbol, for code that knows its name: the kernel's own, which no module that is loaded hides or
    /// changes; else that of the one module that has it. No similar name is searched for when there is none: code asks one
    /// kernel for another's symbols again and again.
    ///
    /// Names that people write are for [`resolve`](Self::resolve): there a module's symbol counts as much as the kernel's.
    ///
    /// # Errors
    /// `Absent` if none has this name; `Invalid` if several modules have; as [`Self::symbols`].
    pub fn symbol(&self, name: &str) -> Result<GuestVirt> {
        match self.find_symbol(name)? {
            Some(at) => Ok(at),
            None => Err(self.unknown_symbol(name)?),
        }
    }

    /// As [`symbol`](Self::symbol), for one that may well be missing.
    ///
    /// # Errors
    /// When the table of symbols cannot be read.
    pub fn find_symbol(&self, name: &str) -> Result<Option<GuestVirt>> {
        let mut own = self.symbols()?.lookup_all(name);
        if let Some(first) = own.next()
            && own.all(|other| other == first)
        {
            return Ok(Some(first));
        }
        Ok(self.find_exact(name)?.map(|found| found.symbol.at))
    }

    /// The kernel's types; copied from its memory at the first call.
    ///
    /// # Errors
    /// `Unsupported` if the kernel was built without BTF; `Unmapped` if it is not in RAM; `Broken` if it is damaged.
    pub fn btf(&self) -> Result<&Arc<Btf>> {
        self.inner
            .btf
            .get_or_init(|| self.read_btf().map(Arc::new))
            .as_ref()
            .map_err(Clone::clone)
    }

    fn read_btf(&self) -> Result<Btf> {
        let none = || {
            let release = self.release();
            Error::Unsupported(format!(
                "{release} has no BTF: boot a kernel built with CONFIG_DEBUG_INFO_BTF"
            ))
        };
        if self.inner.layout.is_none() {
            return Err(none());
        }
        let bound = |name| self.symbols().map(|symbols| symbols.lookup(name));
        let (start, stop) = bound("__start_BTF")?
            .zip(bound("__stop_BTF")?)
            .ok_or_else(none)?;
        let len = stop
            .0
            .checked_sub(start.0)
            .filter(|len| *len <= MAX_BTF)
            .and_then(|len| usize::try_from(len).ok());
        let len = len.ok_or_else(|| Error::Malformed {
            what: "BTF",
            why: format!("it lies from {start} to {stop}"),
        })?;
        let mut bytes = vec![0; len];
        self.read(start, &mut bytes)?;
        Btf::parse(bytes)
    }

    /// Fills `buf` from the kernel address `at`.
    ///
    /// # Errors
    /// As [`AddressSpace::read`].
    #[inline]
    pub fn read(&self, at: GuestVirt, buf: &mut [u8]) -> Result<()> {
        self.inner.space.read(at, buf)
    }

    /// Reads a byte at the kernel address `at`.
    ///
    /// # Errors
    /// As [`Self::read`].
    #[inline]
    pub fn read_u8(&self, at: GuestVirt) -> Result<u8> {
        self.inner.space.read_u8(at)
    }

    /// Reads a 16-bit word at the kernel address `at`.
    ///
    /// # Errors
    /// As [`Self::read`].
    #[inline]
    pub fn read_u16(&self, at: GuestVirt) -> Result<u16> {
        self.inner.space.read_u16(at)
    }

    /// Reads a 32-bit word at the kernel address `at`.
    ///
    /// # Errors
    /// As [`Self::read`].
    #[inline]
    pub fn read_u32(&self, at: GuestVirt) -> Result<u32> {
        self.inner.space.read_u32(at)
    }

    /// Reads a 64-bit word at the kernel address `at`.
    ///
    /// # Errors
    /// As [`Self::read`].
    #[inline]
    pub fn read_u64(&self, at: GuestVirt) -> Result<u64> {
        self.inner.space.read_u64(at)
    }

    /// Reads a C string at the kernel address `at`, at most `max` bytes; as text ([`text_of`]).
    ///
    /// # Errors
    /// As [`AddressSpace::read_cstr`].
    pub fn read_cstr(&self, at: GuestVirt, max: usize) -> Result<String> {
        Ok(text_of(&self.inner.space.read_cstr(at, max)?))
    }

    /// Distance by which KASLR moved the kernel image, in bytes.
    ///
    /// # Errors
    /// As [`Self::vmcoreinfo`].
    pub fn kaslr_offset(&self) -> Result<u64> {
        Ok(self.layout()?.info.kaslr_offset())
    }

    /// `phys_base`: what the physical load address adds to the linked one; may wrap below zero.
    ///
    /// # Errors
    /// As [`Self::vmcoreinfo`].
    pub fn phys_base(&self) -> Result<u64> {
        Ok(self.layout()?.phys_base)
    }

    /// Start of the direct map of physical memory (`page_offset_base`).
    ///
    /// # Errors
    /// As [`Self::vmcoreinfo`].
    pub fn page_offset_base(&self) -> Result<GuestVirt> {
        Ok(self.layout()?.direct_map.virt)
    }

    /// Start of the array of `struct page` (`vmemmap_base`).
    ///
    /// # Errors
    /// As [`Self::symbol`] and [`Self::read`], where VMCOREINFO does not say it.
    pub fn vmemmap_base(&self) -> Result<GuestVirt> {
        match self.layout()?.info.symbol("vmemmap") {
            Some(base) => Ok(base),
            None => self.read_u64(self.symbol("vmemmap_base")?).map(GuestVirt),
        }
    }

    /// The physical address behind a kernel address.
    ///
    /// # Errors
    /// As [`AddressSpace::translate`].
    pub fn virt_to_phys(&self, at: GuestVirt) -> Result<GuestPhys> {
        self.inner.space.translate(at)
    }

    /// The address of physical memory in the direct map (`__va`).
    ///
    /// # Errors
    /// `Unmapped` if the address lies behind the end of the direct map; as [`Self::vmcoreinfo`].
    pub fn phys_to_virt(&self, at: GuestPhys) -> Result<GuestVirt> {
        let direct = self.layout()?.direct_map;
        if at.0 >= direct.len {
            return Err(Error::NotRam { at, len: 1 });
        }
        Ok(direct.virt.offset(at.0))
    }

    /// Number of possible CPU numbers (`nr_cpu_ids`), which count from 0.
    ///
    /// # Errors
    /// As [`Self::symbol`] and [`Self::read`]; `Broken` if it is 0 or more than any kernel has.
    pub fn nr_cpus(&self) -> Result<u32> {
        let count = self.read_u32(self.symbol("nr_cpu_ids")?)?;
        if count == 0 || count > MAX_CPUS {
            return Err(Error::Malformed {
                what: "nr_cpu_ids",
                why: format!("it is {count}"),
            });
        }
        Ok(count)
    }

    /// Difference between `cpu`'s copy of a per-CPU variable and the variable's own address (`__per_cpu_offset[cpu]`).
    ///
    /// # Errors
    /// `Absent` if there is no such CPU; as [`Self::nr_cpus`].
    pub fn per_cpu_offset(&self, cpu: u32) -> Result<u64> {
        let count = self.nr_cpus()?;
        if cpu >= count {
            return Err(Error::Absent(format!(
                "there is no CPU {cpu}: they are 0 to {}",
                count - 1
            )));
        }
        self.read_u64(self.symbol("__per_cpu_offset")?.offset(u64::from(cpu) * 8))
    }

    /// The address of `cpu`'s copy of the per-CPU variable at `at` (`per_cpu_ptr`).
    ///
    /// # Errors
    /// As [`Self::per_cpu_offset`].
    pub fn per_cpu(&self, at: GuestVirt, cpu: u32) -> Result<GuestVirt> {
        Ok(at.offset(self.per_cpu_offset(cpu)?))
    }
}
