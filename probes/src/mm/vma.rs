//! `struct vm_area_struct`: one mapping.

use serde::Serialize;

use super::{MmStruct, user_space_of};
use crate::Listing;
use crate::fs::d_path;
use crate::kernel::Kernel;
use crate::memory::{AddressSpace, GuestVirt, PAGE_SIZE};
use crate::object::{Mirror, Plan};
use crate::structures::{MapleEntry, MapleLayout, mt_for_each, offset_of, settle_all};
use crate::{Error, Missing, Of as _, Result, Span};

// include/linux/mm.h
const VM_READ: u64 = 0x1;
const VM_WRITE: u64 = 0x2;
const VM_EXEC: u64 = 0x4;
const VM_MAYSHARE: u64 = 0x80;

/// Mappings that a process may have at most, as far as we read: `vm.max_map_count` is 65530 by default, and a
/// machine's owner may raise it.
const VMA_BOUND: usize = 4 << 20;

/// Purpose of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum VmaKind {
    /// Executable, of a file.
    Code,
    /// Writable, of a file.
    Data,
    /// Read-only, of a file.
    ReadOnly,
    /// The heap: around `start_brk` to `brk`.
    Heap,
    /// The stack.
    Stack,
    /// Made by the kernel: `[vdso]`, `[vvar]`.
    Special,
    /// Anonymous memory.
    Anonymous,
}

/// A mapping, with what `/proc/PID/maps` says of it and how much of it is resident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vma {
    /// Address of the `struct vm_area_struct`.
    pub at: GuestVirt,
    /// First address.
    pub start: GuestVirt,
    /// The address after the last.
    pub end: GuestVirt,
    /// `vm_flags`: `VM_*`.
    pub flags: u64,
    /// Offset in the file, in bytes; 0 without one.
    pub offset: u64,
    /// Device of the file: major and minor number.
    pub dev: (u32, u32),
    /// Inode number of the file.
    pub inode: u64,
    /// The file's path, or a name in brackets, or nothing.
    pub name: String,
    /// Its purpose.
    pub kind: VmaKind,
    /// Base pages that are in RAM by the page tables, those without access among them; `Rss` of `/proc/PID/smaps`
    /// leaves out pages of hugetlbfs, which are in here. `None` if the page tables could not be read.
    pub resident: Option<u64>,
    /// Base pages that lie in a swap area: `Swap` of `/proc/PID/smaps`. `None` as `resident`.
    pub swapped: Option<u64>,
    /// The `file`, if it has one.
    pub file: Option<GuestVirt>,
}

impl Vma {
    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end.0.wrapping_sub(self.start.0)
    }

    /// Tells whether it has no bytes, which no sound mapping has.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its rights as `/proc/PID/maps` prints them: `r-xp`.
    #[must_use]
    pub fn perms(&self) -> String {
        let flag = |bit, yes, no| if self.flags & bit != 0 { yes } else { no };
        [
            flag(VM_READ, 'r', '-'),
            flag(VM_WRITE, 'w', '-'),
            flag(VM_EXEC, 'x', '-'),
            flag(VM_MAYSHARE, 's', 'p'),
        ]
        .iter()
        .collect()
    }
}

/// The mappings of an address space, ascending.
pub type Vmas = Listing<Vma>;

impl Span for Vma {
    fn start(&self) -> GuestVirt {
        self.start
    }

    fn end(&self) -> GuestVirt {
        self.end
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Mirror)]
#[mirror(c = "struct vm_area_struct")]
struct VmArea {
    vm_start: u64,
    vm_end: u64,
    vm_mm: GuestVirt,
    #[mirror(member = "vm_flags", or = "__vm_flags")]
    vm_flags: u64,
    vm_pgoff: u64,
    vm_file: GuestVirt,
    vm_ops: GuestVirt,
    vm_private_data: GuestVirt,
    /// Absent without CONFIG_ANON_VMA_NAME.
    anon_name: Option<GuestVirt>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct file")]
struct File {
    f_inode: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct inode")]
struct Inode {
    i_ino: u64,
    i_sb: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct super_block")]
struct SuperBlock {
    s_dev: u32,
}

/// All mappings of an address space. One that cannot be read hides no other.
pub(super) fn read(kernel: &Kernel, mm: &MmStruct) -> Result<Vmas> {
    let symbols = kernel.symbols()?;
    let symbol = |name: &str| symbols.lookup(name);
    let reader = Reader {
        kernel,
        mm,
        area: Plan::new(kernel)?,
        space: user_space_of(kernel, mm)?,
        special: ["special_mapping_vmops", "legacy_special_mapping_vmops"].map(symbol),
        // Not there without CONFIG_SWAP.
        swap_areas: match symbol("nr_swapfiles") {
            Some(at) => kernel.read_u32(at)?,
            None => 0,
        },
    };
    let tree = mm
        .at
        .offset(offset_of(kernel, "struct mm_struct", "mm_mt")?);
    settle_all(
        &format!("the mappings of the mm_struct at {}", mm.at),
        || reader.all(tree),
    )
}

struct Reader<'k> {
    kernel: &'k Kernel,
    mm: &'k MmStruct,
    area: Plan<VmArea>,
    space: AddressSpace,
    special: [Option<GuestVirt>; 2],
    swap_areas: u32,
}

impl Reader<'_> {
    /// `None` if a mapping changed under the walk. The number of mappings is held against `map_count`.
    fn all(&self, tree: GuestVirt) -> Result<Option<Vmas>> {
        let mut vmas = Vmas::new();
        let mut met = 0;
        let mut end = GuestVirt(0);
        for entry in mt_for_each(self.kernel, tree, MapleLayout::of(self.kernel)?) {
            if met == VMA_BOUND {
                return Err(Error::TooLong {
                    what: "list of mappings",
                    at: self.mm.at,
                    bound: VMA_BOUND,
                });
            }
            met += 1;
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    vmas.miss(format!("the mappings from {end} on, mm_mt"), &error);
                    break;
                }
            };
            end = GuestVirt(entry.last.wrapping_add(1));
            match self.vma(entry, &mut vmas.missing) {
                Ok(Some(vma)) => vmas.items.push(vma),
                Ok(None) => return Ok(None),
                Err(error) => vmas.miss(name(&entry), &error),
            }
        }
        let count = offset_of(self.kernel, "struct mm_struct", "map_count")?;
        let count = self.kernel.read_u32(self.mm.at.offset(count))? as usize;
        if vmas.is_whole() && count != met {
            let why = format!("{met} mappings are in mm_mt, map_count says {count}");
            let (what, at) = ("mm_struct", self.mm.at);
            vmas.miss("mappings", &Error::Broken { what, at, why });
        }
        Ok(Some(vmas))
    }

    fn vma(&self, entry: MapleEntry, missing: &mut Vec<Missing>) -> Result<Option<Vma>> {
        let at = GuestVirt(entry.entry);
        let area = self.area.load(at)?;
        let (start, end) = (GuestVirt(area.vm_start), GuestVirt(area.vm_end));
        let in_place = area.vm_start == entry.first && area.vm_end == entry.last.wrapping_add(1);
        if !in_place || area.vm_mm != self.mm.at {
            let why = format!(
                "it says {start}-{end} of the mm_struct {}, and is in mm_mt of {} for {}",
                area.vm_mm,
                self.mm.at,
                name(&entry)
            );
            let what = "vm_area_struct";
            return Err(Error::Broken { what, at, why });
        }
        let file = (!area.vm_file.is_null()).then_some(area.vm_file);
        let pages = self.pages(start, end);
        let pages = pages.or_miss(missing, || format!("the pages of {}", name(&entry)));
        let (resident, swapped) = pages.unzip();
        let mut vma = Vma {
            at,
            start,
            end,
            flags: area.vm_flags,
            offset: 0,
            dev: (0, 0),
            inode: 0,
            name: String::new(),
            kind: VmaKind::Anonymous,
            resident,
            swapped,
            file,
        };
        let named = match file {
            Some(file) => self
                .of_file(&mut vma, file, area.vm_pgoff)
                .of(|| format!("its vm_file {file}")),
            None => self.without_file(&area).map(|(kind, name)| {
                (vma.kind, vma.name) = (kind, name);
            }),
        };
        if named.or_miss(missing, || name(&entry)).is_none() {
            "?".clone_into(&mut vma.name);
        }
        let after = self.area.load(at)?;
        Ok((after == area).then_some(vma))
    }

    fn of_file(&self, vma: &mut Vma, file: GuestVirt, pgoff: u64) -> Result<()> {
        let kernel = self.kernel;
        let inode: Inode = kernel.load(kernel.load::<File>(file)?.f_inode)?;
        let dev = kernel.load::<SuperBlock>(inode.i_sb)?.s_dev;
        vma.offset = pgoff.wrapping_mul(PAGE_SIZE);
        // MAJOR() and MINOR() of include/linux/kdev_t.h.
        vma.dev = (dev >> 20, dev & 0xf_ffff);
        vma.inode = inode.i_ino;
        vma.name = d_path(
            kernel,
            file.offset(offset_of(kernel, "struct file", "f_path")?),
        )?;
        vma.kind = match vma.flags {
            flags if flags & VM_EXEC != 0 => VmaKind::Code,
            flags if flags & VM_WRITE != 0 => VmaKind::Data,
            _ => VmaKind::ReadOnly,
        };
        Ok(())
    }

    /// The name of a mapping without a file, in the order of `get_vma_name()` of `fs/proc/task_mmu.c`.
    fn without_file(&self, area: &VmArea) -> Result<(VmaKind, String)> {
        let kernel = self.kernel;
        if !area.vm_ops.is_null() && self.special.contains(&Some(area.vm_ops)) {
            let name = area.vm_private_data.offset(offset_of(
                kernel,
                "struct vm_special_mapping",
                "name",
            )?);
            let name = GuestVirt(kernel.read_u64(name)?);
            return Ok((VmaKind::Special, kernel.read_cstr(name, 64)?));
        }
        let (start, end) = (area.vm_start, area.vm_end);
        if start < self.mm.brk.0 && end > self.mm.start_brk.0 {
            return Ok((VmaKind::Heap, "[heap]".to_owned()));
        }
        if start <= self.mm.start_stack.0 && end >= self.mm.start_stack.0 {
            return Ok((VmaKind::Stack, "[stack]".to_owned()));
        }
        let name = match area.anon_name.filter(|name| !name.is_null()) {
            Some(name) => {
                let name = name.offset(offset_of(kernel, "struct anon_vma_name", "name")?);
                format!("[anon:{}]", kernel.read_cstr(name, 80)?)
            }
            None => String::new(),
        };
        Ok((VmaKind::Anonymous, name))
    }

    /// Base pages of the range that are in RAM, and those that are in a swap area.
    fn pages(&self, start: GuestVirt, end: GuestVirt) -> Result<(u64, u64)> {
        if start >= end {
            return Ok((0, 0));
        }
        let mut bytes = 0u64;
        let mut pages = self.space.present_pages(start, end.back(1))?;
        for page in &mut pages {
            let page = page?;
            let from = page.at.max(start).0;
            let to = page.at.0.saturating_add(page.size).min(end.0);
            bytes = bytes.saturating_add(to.saturating_sub(from));
        }
        Ok((bytes / PAGE_SIZE, pages.swapped(self.swap_areas)))
    }
}

/// A mapping by its place in the tree.
fn name(entry: &MapleEntry) -> String {
    let end = entry.last.wrapping_add(1);
    format!("the mapping {:#x}-{end:#x}", entry.first)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A mapping of which only the place, the rights and the name matter.
    pub(crate) fn vma(start: u64, end: u64, flags: u64, name: &str, kind: VmaKind) -> Vma {
        Vma {
            at: GuestVirt(0xffff_8880_0000_0000 | start),
            start: GuestVirt(start),
            end: GuestVirt(end),
            flags,
            offset: 0,
            dev: (0, 0),
            inode: 0,
            name: name.to_owned(),
            kind,
            resident: Some(1),
            swapped: Some(0),
            file: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::vma;
    use super::*;

    #[test]
    fn rights_are_those_of_proc_maps() {
        let perms = |flags| vma(0, 0x1000, flags, "", VmaKind::Anonymous).perms();
        assert_eq!([0, 5, 3, 0x83].map(perms), ["---p", "r-xp", "rw-p", "rw-s"]);
    }

    #[test]
    fn an_address_finds_its_mapping_and_a_gap_finds_none() {
        let vmas = Listing::from(vec![
            vma(0x1000, 0x3000, 5, "a", VmaKind::Code),
            vma(0x3000, 0x4000, 3, "b", VmaKind::Data),
            vma(0x8000, 0x9000, 3, "c", VmaKind::Stack),
        ]);
        let name = |at| vmas.at(GuestVirt(at)).map(|vma| &*vma.name);
        assert_eq!(
            [0xfff, 0x1000, 0x2fff, 0x3000, 0x4000, 0x8fff, 0x9000].map(name),
            [None, Some("a"), Some("a"), Some("b"), None, Some("c"), None]
        );
    }
}
