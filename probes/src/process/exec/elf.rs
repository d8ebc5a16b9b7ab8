//! ELF files as they are mapped: header, segments, sections (`include/uapi/linux/elf.h`).

use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::{LittleEndian as Little, Pod};
use serde::Serialize;

use super::dynamic::{self, Dynamic};
use crate::guest::Guest;
use crate::memory::{AddressSpace, GuestVirt, PAGE_SIZE};
use crate::mm::{Vma, Vmas};
use crate::structures::offset_of;
use crate::{Error, Listing, Missing, Result};

/// Program headers and section headers that are read at most.
const HEADERS: u16 = 1024;
/// Bytes of an image that is one mapping, at most: the vDSO has some pages.
const VDSO: u64 = 1 << 20;
/// `VM_EXEC` of `include/linux/mm.h`.
const VM_EXEC: u64 = 0x4;

/// A part of the file that is mapped, or that says something: a program header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ElfSegment {
    /// `PT_*` without `PT_`; the number of one that has no name here.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its rights: `r-x`.
    pub flags: String,
    /// Address in memory.
    pub at: GuestVirt,
    /// Size in memory, in bytes.
    pub mem_size: u64,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Size in the file, in bytes.
    pub file_size: u64,
}

/// A section, of an image whose section headers are mapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ElfSection {
    /// Its name.
    pub name: String,
    /// Address in memory; 0 if it is not loaded.
    pub at: GuestVirt,
    /// Its size in bytes.
    pub size: u64,
}

/// An ELF file that is mapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ElfImage {
    /// The file, or `[vdso]`.
    pub path: String,
    /// Address of its ELF header.
    pub base: GuestVirt,
    /// Difference between its addresses in memory and those in the file; most files are linked to begin at 0.
    pub bias: u64,
    /// `ET_*` without `ET_`: `EXEC` must lie where it was linked to lie, `DYN` need not.
    #[serde(rename = "type")]
    pub kind: String,
    /// Address of its entry point; `None` of a library without one.
    pub entry: Option<GuestVirt>,
    /// The program that loads it.
    pub interpreter: Option<String>,
    /// Its program headers.
    pub segments: Vec<ElfSegment>,
    /// Its sections; none where their headers are not mapped, as they are not in most.
    pub sections: Vec<ElfSection>,
    /// Its dynamic section; `None` of a static program without one.
    pub dynamic: Option<Dynamic>,
    /// Parts that could not be read because their page is not in RAM.
    pub missing: Vec<&'static str>,
}

/// A mapping that may be executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CodeMapping {
    /// First address.
    pub start: GuestVirt,
    /// The address after the last.
    pub end: GuestVirt,
    /// Its rights: `r-xp`.
    pub perms: String,
    /// Its file, or its name in brackets; nothing for anonymous memory.
    pub path: String,
}

/// The ELF files of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ElfImages {
    /// The process.
    pub pid: i32,
    /// Its files, in the order of their addresses.
    pub images: Vec<ElfImage>,
    /// All that it may execute, of these files or not.
    pub code: Vec<CodeMapping>,
    /// Mappings and files that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// The vDSO of a process: the library that the kernel puts there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vdso {
    /// The process.
    pub pid: i32,
    /// Bytes that are mapped of it.
    pub len: u64,
    /// The library, with its symbols.
    pub image: ElfImage,
}

/// The vDSO of the process that `pid` belongs to, read from its pages.
pub(crate) fn vdso(guest: &Guest, pid: i32) -> Result<Vdso> {
    let kernel = guest.kernel()?;
    let (task, mm) = (guest.task(pid)?, guest.mm(pid)?);
    let at = mm
        .at
        .offset(offset_of(&kernel, "struct mm_struct", "context.vdso")?);
    let at = GuestVirt(kernel.read_u64(at)?);
    let (vmas, space) = (guest.vmas(pid)?, guest.user_space(pid)?);
    let none = || Error::Absent(format!("process {pid} has no vDSO"));
    let vma = vmas.at(at).ok_or_else(none)?;
    let image = Image::begin(&space, &vmas, vma)?.ok_or_else(none)?;
    Ok(Vdso {
        pid: task.tgid,
        len: vma.len().min(VDSO),
        image: image.read()?,
    })
}

/// The ELF files that are mapped into the process that `pid` belongs to, read from its pages, and all that it may execute.
pub(crate) fn elf_images(guest: &Guest, pid: i32) -> Result<ElfImages> {
    let task = guest.task(pid)?;
    let (vmas, space) = (guest.vmas(pid)?, guest.user_space(pid)?);
    let mut images = Listing::new();
    for vma in vmas.iter().filter(|vma| vma.offset == 0) {
        if vma.file.is_none() && vma.name != "[vdso]" {
            continue;
        }
        let what = || format!("{} at {}", vma.name, vma.start);
        match Image::begin(&space, &vmas, vma) {
            Ok(Some(image)) => images.take(image.read(), what),
            Ok(None) | Err(Error::NotMapped { .. }) => {}
            Err(error) => images.miss(what(), &error),
        }
    }
    images.missing.extend(vmas.missing.iter().cloned());
    let code = vmas.iter().filter(|vma| vma.flags & VM_EXEC != 0);
    Ok(ElfImages {
        pid: task.tgid,
        images: images.items,
        missing: images.missing,
        code: code
            .map(|vma| CodeMapping {
                start: vma.start,
                end: vma.end,
                perms: vma.perms(),
                path: vma.name.clone(),
            })
            .collect(),
    })
}

/// An image while it is read.
pub(super) struct Image<'a> {
    pub(super) space: &'a AddressSpace,
    pub(super) bias: u64,
    header: FileHeader64<Little>,
    programs: Vec<ProgramHeader64<Little>>,
    vma: &'a Vma,
    vmas: &'a Vmas,
    base: GuestVirt,
    /// Address of the image's end.
    end: GuestVirt,
}

/// A structure of the file.
fn pod<T: Pod + Copy>(space: &AddressSpace, at: GuestVirt) -> Result<T> {
    let mut bytes = vec![0; size_of::<T>()];
    space.read(at, &mut bytes)?;
    let (value, _) = object::pod::from_bytes::<T>(&bytes).map_err(|()| Error::Malformed {
        what: "ELF",
        why: format!("no structure at {at}"),
    })?;
    Ok(*value)
}

impl<'a> Image<'a> {
    /// The image that begins with a mapping; `None` if no ELF file of this machine does.
    fn begin(space: &'a AddressSpace, vmas: &'a Vmas, vma: &'a Vma) -> Result<Option<Self>> {
        let base = vma.start;
        let header: FileHeader64<Little> = pod(space, base)?;
        let ident = &header.e_ident;
        if ident.magic != elf::ELFMAG
            || ident.class != elf::ELFCLASS64
            || ident.data != elf::ELFDATA2LSB
        {
            return Ok(None);
        }
        let count = header.e_phnum.get(Little).min(HEADERS);
        let first = base.offset(header.e_phoff.get(Little));
        let each = size_of::<ProgramHeader64<Little>>() as u64;
        let programs = (0..u64::from(count)).map(|i| pod(space, first.offset(each * i)));
        let programs: Vec<ProgramHeader64<Little>> = programs.collect::<Result<_>>()?;
        let loads = || {
            programs
                .iter()
                .filter(|one| one.p_type.get(Little) == elf::PT_LOAD)
        };
        // The header lies at the page of the first segment, which has the file's beginning.
        let linked = loads().next().map_or(0, |one| {
            let (at, offset) = (one.p_vaddr.get(Little), one.p_offset.get(Little));
            at.wrapping_sub(offset) & !(PAGE_SIZE - 1)
        });
        let bias = base.0.wrapping_sub(linked);
        let ends = loads().map(|one| {
            let end = one
                .p_vaddr
                .get(Little)
                .wrapping_add(one.p_memsz.get(Little));
            end.wrapping_add(bias)
        });
        let end = GuestVirt(ends.max().unwrap_or(base.0));
        // A mapping that begins like an ELF file, of which nothing more is mapped, is data: somebody reads it.
        let mapped = end > base && vmas.at(end.back(1)).is_some();
        Ok(mapped.then_some(Self {
            space,
            bias,
            header,
            programs,
            vma,
            vmas,
            base,
            end,
        }))
    }

    /// Tells whether an address lies in the image.
    pub(super) fn holds(&self, at: GuestVirt) -> bool {
        self.base <= at && at < self.end
    }

    fn read(self) -> Result<ElfImage> {
        let mut missing = Vec::new();
        let entry = self.header.e_entry.get(Little);
        let find = |kind: u32| {
            self.programs
                .iter()
                .find(|one| one.p_type.get(Little) == kind)
        };
        let place =
            |one: &ProgramHeader64<Little>| GuestVirt(one.p_vaddr.get(Little)).offset(self.bias);
        let interpreter = find(elf::PT_INTERP).map(|one| {
            let text = self.space.read_cstr(place(one), 4096)?;
            Ok(crate::text_of(&text))
        });
        let dynamic = find(elf::PT_DYNAMIC)
            .map(|one| dynamic::read(&self, place(one), one.p_memsz.get(Little)));
        Ok(ElfImage {
            path: self.vma.name.clone(),
            base: self.base,
            bias: self.bias,
            kind: match self.header.e_type.get(Little) {
                elf::ET_EXEC => "EXEC".to_owned(),
                elf::ET_DYN => "DYN".to_owned(),
                other => other.to_string(),
            },
            entry: (entry != 0).then(|| GuestVirt(entry).offset(self.bias)),
            interpreter: part(interpreter, "interpreter", &mut missing)?,
            segments: self.programs.iter().map(|one| self.segment(one)).collect(),
            sections: self.sections().unwrap_or_default(),
            dynamic: part(dynamic, "dynamic section", &mut missing)?,
            missing,
        })
    }

    fn segment(&self, one: &ProgramHeader64<Little>) -> ElfSegment {
        let kind = one.p_type.get(Little);
        let name = match kind {
            elf::PT_NULL => "NULL",
            elf::PT_LOAD => "LOAD",
            elf::PT_DYNAMIC => "DYNAMIC",
            elf::PT_INTERP => "INTERP",
            elf::PT_NOTE => "NOTE",
            elf::PT_PHDR => "PHDR",
            elf::PT_TLS => "TLS",
            elf::PT_GNU_EH_FRAME => "GNU_EH_FRAME",
            elf::PT_GNU_STACK => "GNU_STACK",
            elf::PT_GNU_RELRO => "GNU_RELRO",
            elf::PT_GNU_PROPERTY => "GNU_PROPERTY",
            _ => "",
        };
        let flags = one.p_flags.get(Little);
        let flag = |bit: u32, letter| if flags & bit != 0 { letter } else { '-' };
        let flags = [
            flag(elf::PF_R, 'r'),
            flag(elf::PF_W, 'w'),
            flag(elf::PF_X, 'x'),
        ];
        ElfSegment {
            kind: match name {
                "" => format!("{kind:#x}"),
                name => name.to_owned(),
            },
            flags: flags.iter().collect(),
            at: GuestVirt(one.p_vaddr.get(Little)).offset(self.bias),
            mem_size: one.p_memsz.get(Little),
            offset: one.p_offset.get(Little),
            file_size: one.p_filesz.get(Little),
        }
    }

    /// Finds the address of a byte of the file, in whichever of its mappings.
    fn mapped(&self, offset: u64) -> Option<GuestVirt> {
        let same = |vma: &&Vma| {
            let of_file =
                (vma.dev, vma.inode, &vma.name) == (self.vma.dev, self.vma.inode, &self.vma.name);
            of_file && (vma.offset..vma.offset.saturating_add(vma.len())).contains(&offset)
        };
        let vma = self.vmas.iter().find(same)?;
        Some(vma.start.offset(offset - vma.offset))
    }

    /// The sections, if their headers are mapped: they lie at the end of the file, where the last segment may have been
    /// filled up with zeros over them. `None` if what lies there is none.
    fn sections(&self) -> Option<Vec<ElfSection>> {
        let (offset, count) = (
            self.header.e_shoff.get(Little),
            self.header.e_shnum.get(Little),
        );
        let each = size_of::<SectionHeader64<Little>>() as u64;
        if offset == 0 || count > HEADERS {
            return None;
        }
        let header = |i: u16| -> Option<SectionHeader64<Little>> {
            let at = offset.checked_add(each * u64::from(i))?;
            pod(self.space, self.mapped(at)?).ok()
        };
        let names = header(self.header.e_shstrndx.get(Little))?;
        if names.sh_type.get(Little) != elf::SHT_STRTAB {
            return None;
        }
        let names = self.mapped(names.sh_offset.get(Little))?;
        let section = |i| {
            let one = header(i)?;
            // Filled up with zeros from here on.
            if one.sh_type.get(Little) == elf::SHT_NULL {
                return None;
            }
            let name = names.offset(one.sh_name.get(Little).into());
            let name = self.space.read_cstr(name, 256).ok()?;
            let at = one.sh_addr.get(Little);
            Some(ElfSection {
                name: Some(crate::text_of(&name)).filter(|name| !name.is_empty())?,
                at: match at {
                    0 => GuestVirt(0),
                    at => GuestVirt(at).offset(self.bias),
                },
                size: one.sh_size.get(Little),
            })
        };
        (1..count).map(section).collect()
    }
}

/// A part of an image that may not be in RAM.
fn part<T>(
    read: Option<Result<T>>,
    what: &'static str,
    missing: &mut Vec<&'static str>,
) -> Result<Option<T>> {
    match read.transpose() {
        Err(Error::NotMapped { .. }) => {
            missing.push(what);
            Ok(None)
        }
        read => read,
    }
}
