//! The page tables of x86-64, four or five levels, read as the processor reads them.
//!
//! Rests on the processor manual's paging chapter and, for entries that are not present, on the kernel's
//! `arch/x86/include/asm/pgtable_64.h` (`__swp_type`, `__swp_offset`) and `pgtable-invert.h`.

use serde::Serialize;

use super::{GuestPhys, GuestVirt, PhysMemory};
use crate::base::ErrorKind;
use crate::{Error, Of as _, Result};

/// Bits 12..51: the physical address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits of a table index.
const INDEX: u64 = 0x1ff;

/// A level of the tables, as the kernel names it. With four levels the `p4d` is folded into the `pgd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Page global directory, the root.
    Pgd,
    /// Fourth-level directory: only with five levels.
    P4d,
    /// Page upper directory; may map 1 GiB.
    Pud,
    /// Page middle directory; may map 2 MiB.
    Pmd,
    /// The last level: 4 KiB pages.
    Pte,
}

impl Level {
    /// The kernel's name: `pgd`, `p4d`, `pud`, `pmd`, `pte`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pgd => "pgd",
            Self::P4d => "p4d",
            Self::Pud => "pud",
            Self::Pmd => "pmd",
            Self::Pte => "pte",
        }
    }
}

/// Depth of the page tables: four levels (48-bit addresses) or five (57-bit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Paging {
    /// 48-bit virtual addresses.
    FourLevel,
    /// 57-bit virtual addresses (LA57).
    FiveLevel,
}

impl Paging {
    /// The levels from the root down, each with the lowest bit of its index in a virtual address.
    pub(crate) const fn levels(self) -> &'static [(Level, u32)] {
        const FIVE: &[(Level, u32)] = &[
            (Level::Pgd, 48),
            (Level::P4d, 39),
            (Level::Pud, 30),
            (Level::Pmd, 21),
            (Level::Pte, 12),
        ];
        const FOUR: &[(Level, u32)] = &[
            (Level::Pgd, 39),
            (Level::Pud, 30),
            (Level::Pmd, 21),
            (Level::Pte, 12),
        ];
        match self {
            Self::FourLevel => FOUR,
            Self::FiveLevel => FIVE,
        }
    }

    /// Bits of a virtual address: 48 or 57.
    #[must_use]
    pub const fn virt_bits(self) -> u32 {
        match self {
            Self::FourLevel => 48,
            Self::FiveLevel => 57,
        }
    }

    /// `at` with its upper bits made copies of the highest translated bit.
    pub(crate) const fn canonical(self, at: u64) -> u64 {
        let unused = 64 - self.virt_bits();
        (((at << unused) as i64) >> unused) as u64
    }
}

/// One raw entry of a page table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Entry(pub u64);

macro_rules! bits {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $label:literal;)*) => {
        impl Entry {
            $(
                $(#[$doc])*
                #[must_use]
                pub const fn $name(self) -> bool {
                    self.0 & (1 << $bit) != 0
                }
            )*

            /// The names of the flags that are set, as the kernel's `_PAGE_*` macros have them, from bit 0 up.
            /// For a present entry; the bits of others mean something else.
            #[must_use]
            pub fn flags(self) -> Vec<&'static str> {
                let mut names = Vec::new();
                $(if self.$name() { names.push($label); })*
                names
            }
        }
    };
}

bits! {
    /// The entry translates.
    present = 0, "PRESENT";
    /// Writes are allowed.
    writable = 1, "RW";
    /// User mode may access.
    user = 2, "USER";
    /// Write-through caching.
    write_through = 3, "PWT";
    /// Caching is off.
    cache_disabled = 4, "PCD";
    /// The processor has used it.
    accessed = 5, "ACCESSED";
    /// The processor has written through it; of leaves only.
    dirty = 6, "DIRTY";
    /// At `pud` and `pmd`: maps a large page. At `pte` the bit is PAT.
    large = 7, "PSE";
    /// Survives a change of address space; of leaves only.
    global = 8, "GLOBAL";
    /// Instruction fetches fault.
    no_execute = 63, "NX";
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Meaning of a page-table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum EntryKind {
    /// Points at the next table.
    Table(GuestPhys),
    /// Maps a page of `size` bytes at this physical address.
    Page {
        /// First byte of the page.
        phys: GuestPhys,
        /// 4 KiB, 2 MiB or 1 GiB.
        size: u64,
    },
    /// Zero: nothing was ever here.
    Empty,
    /// Not present to the processor yet backed by a page (`PROT_NONE`, NUMA hinting); the kernel stores its frame
    /// number inverted. In a process's half of the space the page is there, and is read as `FOLL_FORCE` does
    /// (`mm/gup.c`): that the processor would fault does not say that the kernel has no page.
    ProtNone(GuestPhys),
    /// A swap entry: its type and offset. The kernel's highest types are migration, poison and marker entries.
    Swap {
        /// Swap area, or one of the kernel's special types.
        ty: u8,
        /// Page slot in the area.
        offset: u64,
    },
}

impl Entry {
    /// Decodes the entry as one of `level`, whose indices start at address bit `shift`.
    #[inline]
    #[must_use]
    pub(crate) const fn decode(self, level: Level, shift: u32) -> EntryKind {
        if self.present() {
            let leaf = matches!(level, Level::Pte)
                || (self.large() && matches!(level, Level::Pmd | Level::Pud));
            if !leaf {
                return EntryKind::Table(GuestPhys(self.0 & ADDRESS));
            }
            let size = 1 << shift;
            return EntryKind::Page {
                phys: GuestPhys(self.0 & ADDRESS & !(size - 1)),
                size,
            };
        }
        if self.0 == 0 {
            return EntryKind::Empty;
        }
        // _PAGE_PROTNONE is the bit that is GLOBAL in a present entry.
        if self.global() {
            let size = 1 << shift;
            return EntryKind::ProtNone(GuestPhys(!self.0 & ADDRESS & !(size - 1)));
        }
        EntryKind::Swap {
            ty: (self.0 >> 59) as u8,
            offset: (!self.0 << 5) >> 14,
        }
    }
}

/// One step of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The level.
    pub level: Level,
    /// Physical address of the table.
    pub table: GuestPhys,
    /// Index of the entry in the table, 0..512.
    pub index: u16,
    /// The entry as it stands in memory.
    pub entry: Entry,
    /// Meaning of the entry.
    pub kind: EntryKind,
}

impl Step {
    /// Physical address of the entry itself.
    #[must_use]
    pub const fn entry_at(&self) -> GuestPhys {
        self.table.offset(self.index as u64 * 8)
    }
}

/// A walk from the root to where it ends, level by level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PageWalk {
    /// The address that was translated.
    pub at: GuestVirt,
    /// One step a level that was read, the root first; the last is the one that maps the page, or that ends the walk.
    pub steps: Vec<Step>,
    /// The physical address, or `None` when the address is not mapped.
    pub phys: Option<GuestPhys>,
}

impl PageWalk {
    /// Size in bytes of the page that maps the address: 4 KiB, 2 MiB or 1 GiB.
    #[must_use]
    pub fn page_size(&self) -> Option<u64> {
        match self.steps.last()?.kind {
            EntryKind::Page { size, .. } => Some(size),
            EntryKind::ProtNone(_) if self.phys.is_some() => match self.steps.last()?.level {
                Level::Pte => Some(1 << 12),
                Level::Pmd => Some(1 << 21),
                _ => Some(1 << 30),
            },
            _ => None,
        }
    }
}

/// Walks the tables for `at`, showing each step to `visit`; `word` reads one entry.
///
/// Ends with the physical address, or with the step that does not translate.
#[inline]
pub(crate) fn walk(
    root: GuestPhys,
    paging: Paging,
    at: GuestVirt,
    word: impl Fn(GuestPhys) -> Result<u64>,
    mut visit: impl FnMut(Step),
) -> Result<std::result::Result<GuestPhys, Step>> {
    if paging.canonical(at.0) != at.0 {
        return Err(Error::NotCanonical {
            at,
            bits: paging.virt_bits(),
        });
    }
    let mut tables = [GuestPhys(u64::MAX); 5];
    let mut table = GuestPhys(root.0 & ADDRESS);
    let mut last = None;
    for (depth, &(level, shift)) in paging.levels().iter().enumerate() {
        if tables.contains(&table) {
            let why = format!(
                "the table of the {} level at physical {table} is its own ancestor",
                level.name()
            );
            return Err(Error::Broken {
                what: "page table",
                at,
                why,
            });
        }
        tables[depth] = table;
        let index = ((at.0 >> shift) & INDEX) as u16;
        let entry = word(table.offset(u64::from(index) * 8))
            .map_err(|fault| unreadable(fault, at, table, level.name()))?;
        let entry = Entry(entry);
        let kind = entry.decode(level, shift);
        let step = Step {
            level,
            table,
            index,
            entry,
            kind,
        };
        visit(step);
        match kind {
            EntryKind::Table(next) => table = next,
            EntryKind::Page { phys, size } => return Ok(Ok(phys.offset(at.0 & (size - 1)))),
            EntryKind::ProtNone(phys) if is_user(at) => {
                return Ok(Ok(phys.offset(at.0 & ((1 << shift) - 1))));
            }
            EntryKind::Empty | EntryKind::ProtNone(_) | EntryKind::Swap { .. } => {
                return Ok(Err(step));
            }
        }
        last = Some(step);
    }
    // Not reached: an entry of the last level is never a table.
    let why = "the walk did not end".to_owned();
    last.map_or(
        Err(Error::Broken {
            what: "page table",
            at,
            why,
        }),
        |step| Ok(Err(step)),
    )
}

/// The error about a table that cannot be read: damage where it is not in RAM, else what the source of the memory says.
#[cold]
fn unreadable(fault: Error, at: GuestVirt, table: GuestPhys, level: &str) -> Error {
    if fault.kind() == ErrorKind::Unmapped {
        let why = format!("the table of the {level} level at physical {table} is not in RAM");
        return Error::Broken {
            what: "page table",
            at,
            why,
        };
    }
    Error::In {
        what: format!("the {level} table at physical {table}, which maps {at}"),
        error: Box::new(fault),
    }
}

/// The physical address behind `at`, or `None` where [`walk`] has something to say: the same walk without its story,
/// for the path that every translated read takes.
#[inline]
pub(crate) fn translate(
    root: GuestPhys,
    paging: Paging,
    at: GuestVirt,
    word: impl Fn(GuestPhys) -> Option<u64>,
) -> Option<GuestPhys> {
    if paging.canonical(at.0) != at.0 {
        return None;
    }
    let mut seen = [u64::MAX; 5];
    let mut table = root.0 & ADDRESS;
    for (depth, &(level, shift)) in paging.levels().iter().enumerate() {
        if seen.contains(&table) {
            return None;
        }
        seen[depth] = table;
        let entry = Entry(word(GuestPhys(table + ((at.0 >> shift) & INDEX) * 8))?);
        match entry.decode(level, shift) {
            EntryKind::Table(next) => table = next.0,
            EntryKind::Page { phys, size } => return Some(phys.offset(at.0 & (size - 1))),
            EntryKind::ProtNone(phys) if is_user(at) => {
                return Some(phys.offset(at.0 & ((1 << shift) - 1)));
            }
            EntryKind::Empty | EntryKind::ProtNone(_) | EntryKind::Swap { .. } => return None,
        }
    }
    None
}

/// Tells whether it is an address of a process's half. The kernel's own half has no pages without access: an entry
/// there that looks like one is nothing (`set_memory_np()`).
#[inline]
const fn is_user(at: GuestVirt) -> bool {
    at.0 >> 63 == 0
}

/// A page that is present, or that is there without access (`PROT_NONE`, NUMA hinting).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PresentPage {
    /// First virtual address.
    pub at: GuestVirt,
    /// First physical address.
    pub phys: GuestPhys,
    /// Size in bytes: 4 KiB, 2 MiB or 1 GiB.
    pub size: u64,
    /// The entry that maps it.
    pub entry: Entry,
}

/// The present pages of a range, ascending; made by `AddressSpace::present_pages`.
///
/// Absent upper levels are skipped whole. A table that cannot be read is an error that names the addresses it would have
/// mapped, and the walk goes on behind them. The number of tables read is bounded by the pages of RAM: tables that refer to
/// each other in a circle end it with an error.
pub struct PresentPages<'a> {
    memory: &'a dyn PhysMemory,
    levels: &'static [(Level, u32)],
    stack: Vec<Frame>,
    next: u64,
    last: u64,
    tables_left: u64,
    /// Entries met that say where a page lies in swap, by the type of the entry.
    swapped: [u64; 32],
}

struct Frame {
    table: GuestPhys,
    /// Entries that cover what is still asked for, from `first` on.
    entries: Vec<u8>,
    first: u64,
    index: u64,
    base: u64,
}

impl std::fmt::Debug for PresentPages<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PresentPages")
            .field("next", &GuestVirt(self.next))
            .finish_non_exhaustive()
    }
}

impl<'a> PresentPages<'a> {
    /// Walks the addresses `first..=last` through the tables at `root` of `memory`, reading at most `tables` tables.
    pub(crate) fn new(
        memory: &'a dyn PhysMemory,
        root: GuestPhys,
        paging: Paging,
        first: GuestVirt,
        last: GuestVirt,
        tables: u64,
    ) -> Result<Self> {
        for at in [first, last] {
            if paging.canonical(at.0) != at.0 {
                return Err(Error::NotCanonical {
                    at,
                    bits: paging.virt_bits(),
                });
            }
        }
        let mut pages = Self {
            memory,
            levels: paging.levels(),
            stack: Vec::with_capacity(5),
            next: first.0,
            last: last.0,
            tables_left: tables,
            swapped: [0; 32],
        };
        if first <= last {
            // A table of the root spans the whole space; its base is only used in arithmetic modulo 2^64.
            pages.enter(GuestPhys(root.0 & ADDRESS), 0)?;
        }
        Ok(pages)
    }

    /// Pages of what was walked so far that lie in the swap areas below this number. The kernel's special entries
    /// (migration, poison, markers) have higher ones.
    #[must_use]
    pub fn swapped(&self, areas: u32) -> u64 {
        self.swapped.iter().take(areas as usize).sum()
    }

    fn enter(&mut self, table: GuestPhys, base: u64) -> Result<()> {
        let at = GuestVirt(self.next);
        let Some(left) = self.tables_left.checked_sub(1) else {
            self.stack.clear();
            let why = "more tables than the RAM has pages: they refer to each other";
            return Err(Error::broken("page table", at, why));
        };
        self.tables_left = left;
        if self.stack.iter().any(|frame| frame.table == table) {
            let why = format!("the table at physical {table} is its own ancestor");
            return Err(Error::Broken {
                what: "page table",
                at,
                why,
            });
        }
        let shift = self
            .levels
            .get(self.stack.len())
            .map_or(12, |(_, shift)| *shift);
        let index = (self.next >> shift) & INDEX;
        let whole = shift + INDEX.count_ones();
        let end = if self.next >> whole == self.last >> whole {
            (self.last >> shift) & INDEX
        } else {
            INDEX
        };
        let mut entries = vec![0; (end + 1).saturating_sub(index) as usize * 8];
        self.memory
            .read(table.offset(index * 8), &mut entries)
            .map_err(|fault| {
                let level = self.levels.get(self.stack.len());
                unreadable(
                    fault,
                    at,
                    table,
                    level.map_or("next", |(level, _)| level.name()),
                )
            })?;
        self.stack.push(Frame {
            table,
            entries,
            first: index,
            index,
            base,
        });
        Ok(())
    }

    fn step(&mut self) -> Result<Option<PresentPage>> {
        while let Some(depth) = self.stack.len().checked_sub(1) {
            let (Some(&(level, shift)), Some(frame)) =
                (self.levels.get(depth), self.stack.last_mut())
            else {
                break;
            };
            if frame.index > INDEX {
                self.stack.pop();
                continue;
            }
            let index = frame.index;
            frame.index += 1;
            let mut at = frame.base.wrapping_add(index << shift);
            if depth == 0 {
                let top = self.levels.first().map_or(48, |(_, shift)| shift + 9);
                at = (((at << (64 - top)) as i64) >> (64 - top)) as u64;
            }
            if at > self.last {
                break;
            }
            let from = (index - frame.first) as usize * 8;
            let word = frame
                .entries
                .get(from..from + 8)
                .and_then(|b| b.try_into().ok())
                .map_or(0, u64::from_le_bytes);
            let entry = Entry(word);
            match entry.decode(level, shift) {
                EntryKind::Table(table) => {
                    self.next = self.next.max(at);
                    self.enter(table, at).of(|| {
                        let last = at.wrapping_add((1 << shift) - 1).min(self.last);
                        let (first, last) = (GuestVirt(self.next), GuestVirt(last));
                        format!("the pages from {first} to {last}")
                    })?;
                }
                EntryKind::Page { phys, size } => {
                    return Ok(Some(PresentPage {
                        at: GuestVirt(at),
                        phys,
                        size,
                        entry,
                    }));
                }
                EntryKind::ProtNone(phys) if is_user(GuestVirt(at)) => {
                    return Ok(Some(PresentPage {
                        at: GuestVirt(at),
                        phys,
                        size: 1 << shift,
                        entry,
                    }));
                }
                EntryKind::Swap { ty, .. } if level == Level::Pte => {
                    self.swapped[usize::from(ty & 31)] += 1;
                }
                EntryKind::Empty | EntryKind::ProtNone(_) | EntryKind::Swap { .. } => {}
            }
        }
        self.stack.clear();
        Ok(None)
    }
}

impl Iterator for PresentPages<'_> {
    type Item = Result<PresentPage>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
