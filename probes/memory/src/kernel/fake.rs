//! A small kernel made of real page tables, a real VMCOREINFO page and real kallsyms, for tests and doc examples:
//! what reads it cannot tell it from a booted one, and it needs no QEMU.

use std::fmt::Write as _;
use std::sync::Arc;

use super::Kernel;
use crate::memory::{FakeMemory, GuestPhys, GuestVirt, PAGE_SIZE, Paging, PhysMemory};
use crate::{Error, Result};

const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
const RAM: u64 = 16 << 20;
/// The image's part of RAM; the heap is what is left.
const IMAGE: std::ops::Range<u64> = 0x10_0000..0x80_0000;
const PRESENT_RW: u64 = 0x63;
const PRESENT_RW_USER: u64 = 0x67;

/// The form in which a kernel stores the addresses of symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KallsymsStyle {
    /// Each offset counts from its own place (7.0 on).
    Place,
    /// Negative offsets count from a base, others are absolute (`KALLSYMS_ABSOLUTE_PERCPU`).
    AbsolutePercpu,
    /// All offsets count from a base.
    Base,
    /// Plain 64-bit addresses.
    Addresses,
}

/// Builds the kernel. Everything that is written is in guest memory when it is finished.
///
/// ```
/// use klab_memory::kernel::FakeKernel;
/// let mut fake = FakeKernel::new();
/// let at = fake.symbol("jiffies", 'D', &42u64.to_le_bytes())?;
/// let kernel = fake.finish()?;
/// assert_eq!(kernel.symbol("jiffies")?, at);
/// assert_eq!(kernel.read_u64(at)?, 42);
/// # Ok::<(), klab_memory::Error>(())
/// ```
#[derive(Debug)]
pub struct FakeKernel {
    release: String,
    /// Address of the first byte of RAM.
    base: u64,
    ram: Vec<u8>,
    paging: Paging,
    root: GuestPhys,
    kaslr: u64,
    /// Difference between a linked address and its physical address.
    phys_base: u64,
    direct_map: u64,
    image_end: u64,
    heap_end: u64,
    symbols: Vec<(u64, char, String)>,
    style: KallsymsStyle,
    long_names: bool,
}

impl Default for FakeKernel {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeKernel {
    /// A kernel with four levels of page tables, moved by KASLR, with nothing in it but `_stext`.
    #[must_use]
    pub fn new() -> Self {
        Self::with_paging(Paging::FourLevel)
    }

    /// The same with four or five levels.
    #[must_use]
    pub fn with_paging(paging: Paging) -> Self {
        Self::made(paging, 0)
    }

    /// The same in RAM that begins at `base`, whole pages of 2 MiB: beside another kernel.
    #[must_use]
    pub fn with_ram_at(base: u64) -> Self {
        Self::made(Paging::FourLevel, base)
    }

    fn made(paging: Paging, base: u64) -> Self {
        let kaslr = 0x1da0_0000;
        let text = START_KERNEL_MAP + 0x100_0000 + kaslr;
        let direct_map = match paging {
            Paging::FourLevel => 0xffff_9c40_c000_0000,
            Paging::FiveLevel => 0xff2e_bdeb_0000_0000,
        };
        let mut fake = Self {
            release: "7.3.4-fake".to_owned(),
            base,
            ram: vec![0; RAM as usize],
            paging,
            root: GuestPhys(0),
            kaslr,
            phys_base: (base + IMAGE.start).wrapping_sub(text - START_KERNEL_MAP),
            direct_map,
            image_end: base + IMAGE.start,
            heap_end: base + IMAGE.end,
            symbols: vec![(text, 'T', "_stext".to_owned())],
            style: KallsymsStyle::Place,
            long_names: true,
        };
        // The first page of the image is its text; the second its top table.
        fake.image_end += PAGE_SIZE;
        fake.root = GuestPhys(fake.image_end);
        fake.image_end += PAGE_SIZE;
        fake
    }

    /// Stores the symbols' addresses in this style.
    pub fn kallsyms_style(&mut self, style: KallsymsStyle) -> &mut Self {
        self.style = style;
        self
    }

    /// Stores the lengths of names as kernels before 6.1 do: in one byte.
    pub fn short_names(&mut self) -> &mut Self {
        self.long_names = false;
        self
    }

    /// Puts `bytes` into the kernel image, 64-byte aligned, under a symbol with `nm`'s type letter `kind`.
    ///
    /// # Errors
    /// `Invalid` if the image is full.
    pub fn symbol(&mut self, name: &str, kind: char, bytes: &[u8]) -> Result<GuestVirt> {
        let at = self.image(bytes)?;
        self.symbols.push((at.0, kind, name.to_owned()));
        Ok(at)
    }

    /// A symbol of any address: an alias, or a per-CPU offset.
    pub fn symbol_at(&mut self, name: &str, kind: char, at: GuestVirt) {
        self.symbols.push((at.0, kind, name.to_owned()));
    }

    /// Puts BTF where a kernel has it.
    ///
    /// # Errors
    /// As [`Self::symbol`].
    pub fn btf(&mut self, bytes: &[u8]) -> Result<()> {
        let start = self.symbol("__start_BTF", 'R', bytes)?;
        self.symbol_at("__stop_BTF", 'R', start.offset(bytes.len() as u64));
        Ok(())
    }

    /// Zeroed memory of the heap, in the direct map, 64-byte aligned: where a kernel's structures are.
    ///
    /// # Errors
    /// `Invalid` if the heap is full.
    pub fn alloc(&mut self, len: u64) -> Result<GuestVirt> {
        let at = self.heap_end.next_multiple_of(64);
        let end = at.checked_add(len).filter(|end| *end <= self.base + RAM);
        self.heap_end =
            end.ok_or_else(|| Error::Invalid("the fake kernel's heap is full".to_owned()))?;
        Ok(GuestVirt(self.direct_map + at))
    }

    /// A zeroed page of the heap.
    ///
    /// # Errors
    /// As [`Self::alloc`].
    pub fn alloc_page(&mut self) -> Result<GuestPhys> {
        self.heap_end = self.heap_end.next_multiple_of(PAGE_SIZE);
        let page = self.alloc(PAGE_SIZE)?;
        Ok(GuestPhys(page.0 - self.direct_map))
    }

    /// Writes to the image or the heap.
    ///
    /// # Errors
    /// `Unmapped` if the bytes do not all lie in its RAM.
    pub fn write(&mut self, at: GuestVirt, bytes: &[u8]) -> Result<()> {
        let phys = if at.0 >= START_KERNEL_MAP {
            at.0.wrapping_sub(START_KERNEL_MAP)
                .wrapping_add(self.phys_base)
        } else {
            at.0.wrapping_sub(self.direct_map)
        };
        self.write_phys(GuestPhys(phys), bytes)
    }

    /// Writes one word to the image or the heap.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_u64(&mut self, at: GuestVirt, value: u64) -> Result<()> {
        self.write(at, &value.to_le_bytes())
    }

    /// Writes to physical memory: page tables included.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_phys(&mut self, at: GuestPhys, bytes: &[u8]) -> Result<()> {
        let fault = Error::NotRam {
            at,
            len: bytes.len(),
        };
        let from = at.0.checked_sub(self.base).ok_or_else(|| fault.clone())?;
        let from = usize::try_from(from).map_err(|_| fault.clone())?;
        let place = from
            .checked_add(bytes.len())
            .and_then(|to| self.ram.get_mut(from..to));
        place.ok_or(fault)?.copy_from_slice(bytes);
        Ok(())
    }

    /// The root of a new process's page tables: what `mm->pgd` holds is its address in the direct map.
    ///
    /// # Errors
    /// As [`Self::alloc`].
    pub fn process(&mut self) -> Result<GuestPhys> {
        self.alloc_page()
    }

    /// Start of physical memory in the direct map.
    #[must_use]
    pub fn phys_to_virt(&self, at: GuestPhys) -> GuestVirt {
        GuestVirt(self.direct_map.wrapping_add(at.0))
    }

    /// Physical address of the kernel's own top table.
    #[must_use]
    pub fn root(&self) -> GuestPhys {
        self.root
    }

    /// Makes `root`'s tables map the page of `at` to `entry`, a raw entry: its flags, and the page or what a page that
    /// is not present has there. A large page is mapped at the level whose pages have `size` bytes.
    ///
    /// # Errors
    /// `Invalid` if no level has pages of that size, or the heap is full; `Unmapped` if a table lies outside its RAM.
    pub fn map(&mut self, root: GuestPhys, at: GuestVirt, entry: u64, size: u64) -> Result<()> {
        let mut table = root;
        for &(_, shift) in self.paging.levels() {
            let slot = table.offset(((at.0 >> shift) & 0x1ff) * 8);
            if 1 << shift == size {
                return self.write_phys(slot, &entry.to_le_bytes());
            }
            let from = slot.0.wrapping_sub(self.base) as usize;
            let old = self
                .ram
                .get(from..from.saturating_add(8))
                .and_then(|b| b.try_into().ok())
                .map_or(0, u64::from_le_bytes);
            table = if old & 1 == 0 {
                let new = self.alloc_page()?;
                self.write_phys(slot, &(new.0 | PRESENT_RW_USER).to_le_bytes())?;
                new
            } else {
                GuestPhys(old & !0xfff)
            };
        }
        Err(Error::Invalid(format!("there is no page of {size} bytes")))
    }

    fn image(&mut self, bytes: &[u8]) -> Result<GuestVirt> {
        let at = self.image_end.next_multiple_of(64);
        let end = at + bytes.len() as u64;
        if end > self.base + IMAGE.end {
            return Err(Error::Invalid("the fake kernel's image is full".to_owned()));
        }
        self.image_end = end;
        self.write_phys(GuestPhys(at), bytes)?;
        Ok(GuestVirt(
            at.wrapping_sub(self.phys_base)
                .wrapping_add(START_KERNEL_MAP),
        ))
    }

    /// The physical memory, with everything in it.
    ///
    /// # Errors
    /// `Invalid` if the image or the heap has no room for the tables.
    pub fn memory(mut self) -> Result<FakeMemory> {
        let mut uts = vec![0; 2 * 65];
        uts.extend_from_slice(self.release.as_bytes());
        uts.resize(6 * 65, 0);
        let uts = self.symbol("init_uts_ns", 'D', &uts)?;
        let top = GuestVirt(
            self.root
                .0
                .wrapping_sub(self.phys_base)
                .wrapping_add(START_KERNEL_MAP),
        );
        self.symbol_at("swapper_pg_dir", 'D', top);

        let mut info = format!("OSRELEASE={}\nPAGESIZE=4096\n", self.release);
        let mut line = |text: std::fmt::Arguments<'_>| {
            writeln!(info, "{text}").map_err(|e| Error::Invalid(e.to_string()))
        };
        line(format_args!(
            "SYMBOL(init_uts_ns)={:x}\nOFFSET(uts_namespace.name)=0",
            uts.0
        ))?;
        line(format_args!(
            "SYMBOL(swapper_pg_dir)={:x}\nSYMBOL(_stext)={:x}",
            top.0,
            self.text()
        ))?;
        line(format_args!(
            "NUMBER(phys_base)={}\nKERNELOFFSET={:x}",
            self.phys_base.cast_signed(),
            self.kaslr
        ))?;
        line(format_args!(
            "NUMBER(pgtable_l5_enabled)={}",
            u8::from(self.paging == Paging::FiveLevel)
        ))?;
        for (name, at) in self.kallsyms()? {
            line(format_args!("SYMBOL({name})={:x}", at.0))?;
        }
        let page = self.alloc_page()?;
        self.write_phys(page, info.as_bytes())?;

        let base = self.base;
        for phys in (base..base + RAM).step_by(2 << 20) {
            let at = GuestVirt(self.direct_map + phys);
            self.map(self.root, at, phys | PRESENT_RW | 0x80, 2 << 20)?;
        }
        for phys in (base + IMAGE.start..base + IMAGE.end).step_by(PAGE_SIZE as usize) {
            let at = phys
                .wrapping_sub(self.phys_base)
                .wrapping_add(START_KERNEL_MAP);
            self.map(self.root, GuestVirt(at), phys | PRESENT_RW, PAGE_SIZE)?;
        }
        Ok(FakeMemory::new([(GuestPhys(base), self.ram)]))
    }

    /// The kernel, found in that memory as a real one is.
    ///
    /// # Errors
    /// As [`Self::memory`] and [`Kernel::discover`].
    pub fn finish(self) -> Result<Kernel> {
        let memory: Arc<dyn PhysMemory> = Arc::new(self.memory()?);
        Kernel::discover(memory)
    }

    fn text(&self) -> u64 {
        (self.base + IMAGE.start)
            .wrapping_sub(self.phys_base)
            .wrapping_add(START_KERNEL_MAP)
    }

    /// Writes the tables of `scripts/kallsyms.c`; each character is a token of its own.
    fn kallsyms(&mut self) -> Result<Vec<(&'static str, GuestVirt)>> {
        let mut symbols = std::mem::take(&mut self.symbols);
        symbols.sort_by_key(|(at, _, _)| *at);
        let (mut names, mut table, mut index) = (Vec::new(), Vec::new(), Vec::new());
        for (_, kind, name) in &symbols {
            let len = name.len() + 1;
            match (self.long_names, len) {
                (true, 0x80..) => names.extend([len as u8 | 0x80, (len >> 7) as u8]),
                _ => names.push(len as u8),
            }
            names.push(*kind as u8);
            names.extend_from_slice(name.as_bytes());
        }
        for token in 0..=u8::MAX {
            index.extend((table.len() as u16).to_le_bytes());
            table.extend(
                token
                    .is_ascii_graphic()
                    .then_some(token)
                    .into_iter()
                    .chain([0]),
            );
        }
        let count = self.image(&(symbols.len() as u32).to_le_bytes())?;
        let mut places = vec![
            ("kallsyms_num_syms", count),
            ("kallsyms_names", self.image(&names)?),
            ("kallsyms_token_table", self.image(&table)?),
            ("kallsyms_token_index", self.image(&index)?),
        ];
        let base = self.text();
        if self.style == KallsymsStyle::Addresses {
            let words: Vec<u8> = symbols
                .iter()
                .flat_map(|(at, ..)| at.to_le_bytes())
                .collect();
            places.push(("kallsyms_addresses", self.image(&words)?));
            return Ok(places);
        }
        let offsets = self.image(&vec![0; symbols.len() * 4])?;
        for (i, (at, ..)) in symbols.iter().enumerate() {
            let place = offsets.offset(i as u64 * 4);
            let offset = match self.style {
                KallsymsStyle::Place => at.wrapping_sub(place.0) as u32,
                KallsymsStyle::AbsolutePercpu if *at < base => *at as u32,
                KallsymsStyle::AbsolutePercpu => base.wrapping_sub(1).wrapping_sub(*at) as u32,
                KallsymsStyle::Base | KallsymsStyle::Addresses => at.wrapping_sub(base) as u32,
            };
            self.write(place, &offset.to_le_bytes())?;
        }
        places.push(("kallsyms_offsets", offsets));
        if self.style != KallsymsStyle::Place {
            places.push(("kallsyms_relative_base", self.image(&base.to_le_bytes())?));
        }
        Ok(places)
    }
}
