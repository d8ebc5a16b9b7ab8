//! The auxiliary vector: `mm_struct.saved_auxv` (`include/uapi/linux/auxvec.h`, `create_elf_tables()` of
//! `fs/binfmt_elf.c`).

use serde::Serialize;

use crate::Result;
use crate::guest::Guest;
use crate::memory::GuestVirt;
use crate::structures::{array, twice};

/// `AT_*` without `AT_`.
const NAMES: [(u64, &str); 29] = [
    (2, "EXECFD"),
    (3, "PHDR"),
    (4, "PHENT"),
    (5, "PHNUM"),
    (6, "PAGESZ"),
    (7, "BASE"),
    (8, "FLAGS"),
    (9, "ENTRY"),
    (10, "NOTELF"),
    (11, "UID"),
    (12, "EUID"),
    (13, "GID"),
    (14, "EGID"),
    (15, "PLATFORM"),
    (16, "HWCAP"),
    (17, "CLKTCK"),
    (23, "SECURE"),
    (24, "BASE_PLATFORM"),
    (25, "RANDOM"),
    (26, "HWCAP2"),
    (27, "RSEQ_FEATURE_SIZE"),
    (28, "RSEQ_ALIGN"),
    (29, "HWCAP3"),
    (30, "HWCAP4"),
    (31, "EXECFN"),
    (32, "SYSINFO"),
    (33, "SYSINFO_EHDR"),
    (51, "MINSIGSTKSZ"),
    (1, "IGNORE"),
];
const AT_PLATFORM: u64 = 15;
const AT_BASE_PLATFORM: u64 = 24;
const AT_RANDOM: u64 = 25;
const AT_EXECFN: u64 = 31;

/// One thing that the kernel told the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuxEntry {
    /// `AT_*` as a number.
    pub kind: u64,
    /// Its name without `AT_`; the number of one that has no name here.
    pub name: String,
    /// Its value.
    pub value: u64,
    /// Text or random bytes that the value points to, if they are in RAM.
    pub points_to: Option<String>,
}

/// A program's auxiliary vector: the kernel's words to it when it started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Auxv {
    /// The process.
    pub pid: i32,
    /// The entries, without `AT_NULL`, which ends them.
    pub entries: Vec<AuxEntry>,
}

impl Auxv {
    /// The value of the entry of this name: `ENTRY`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        entry.map(|entry| entry.value)
    }
}

/// The auxiliary vector of the process that `pid` belongs to: `/proc/PID/auxv`.
pub(crate) fn auxv(guest: &Guest, pid: i32) -> Result<Auxv> {
    let (kernel, space) = (guest.kernel()?, guest.user_space(pid)?);
    let (task, mm) = (guest.task(pid)?, guest.mm(pid)?);
    let (first, count, stride) = array(&kernel, "struct mm_struct", "saved_auxv")?;
    let words = twice(&format!("the auxiliary vector of task {pid}"), || {
        let word = |i| kernel.read_u64(mm.at.offset(first + stride * i));
        (0..count as u64).map(word).collect::<Result<Vec<u64>>>()
    })?;
    let mut entries = Vec::new();
    for pair in words.chunks_exact(2) {
        let (kind, value) = (pair[0], pair[1]);
        // AT_NULL
        if kind == 0 {
            break;
        }
        let at = GuestVirt(value);
        let points_to = match kind {
            AT_PLATFORM | AT_BASE_PLATFORM | AT_EXECFN => space
                .read_cstr(at, 4096)
                .ok()
                .map(|text| crate::text_of(&text)),
            AT_RANDOM => {
                let mut bytes = [0; 16];
                let read = space.read(at, &mut bytes).is_ok();
                read.then(|| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
            }
            _ => None,
        };
        let name = NAMES.iter().find(|(known, _)| *known == kind);
        entries.push(AuxEntry {
            kind,
            name: name.map_or_else(|| kind.to_string(), |(_, name)| (*name).to_owned()),
            value,
            points_to,
        });
    }
    Ok(Auxv {
        pid: task.tgid,
        entries,
    })
}
