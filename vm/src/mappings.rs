//! The mappings of another process by `/proc/PID/maps`, for reading RAM that lies there.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use klab_facts::{Behind, Memory, ProcessPart, ProcessRam};
use klab_facts::{RamFile, RamRange};

/// More of `/proc/PID/maps` than any QEMU has.
const LONGEST: usize = 16 << 20;
/// More open files than any QEMU has.
const MOST_FILES: usize = 1 << 16;

/// The best way to RAM that lies in the process `pid`, each range for itself: offsets are addresses there.
pub(crate) fn reach(pid: u32, ranges: &[RamRange]) -> Result<Memory> {
    let denied = |source: std::io::Error| Error::Unreadable {
        pid,
        why: source.to_string(),
    };
    let maps = fs::read(format!("/proc/{pid}/maps")).map_err(denied)?;
    let maps = String::from_utf8_lossy(&maps[..maps.len().min(LONGEST)]);
    let mappings: Vec<Mapping<'_>> = maps.lines().filter_map(Mapping::parse).collect();
    let memory = ways(pid, ranges, &mappings)?;
    if matches!(memory, Memory::Process { .. }) {
        // The kernel decides at open(2) who may read it (`proc_mem_open`); nothing is touched.
        File::open(format!("/proc/{pid}/mem")).map_err(denied)?;
    }
    Ok(memory)
}

/// The way to each range, by how it is mapped.
fn ways(pid: u32, ranges: &[RamRange], mappings: &[Mapping<'_>]) -> Result<Memory> {
    let (mut files, mut parts): (Vec<(Inode, RamFile)>, _) = (Vec::new(), Vec::new());
    for range in ranges {
        let first = mappings.iter().find(|mapping| mapping.has(range.offset));
        let first = first.ok_or_else(|| Error::Unreadable {
            pid,
            why: format!(
                "it has nothing at {:#x}, where QEMU says that RAM is",
                range.offset
            ),
        })?;
        let one = whole(range, mappings);
        let file = one.and_then(|one| Some((one, path_of(pid, first)?)));
        match file {
            Some((one, path)) if one.shared => {
                let part = RamRange {
                    offset: one.offset,
                    ..*range
                };
                match files.iter_mut().find(|(inode, _)| *inode == first.file) {
                    Some((_, file)) => file.ranges.push(part),
                    None => {
                        let ranges = vec![part];
                        files.push((first.file, RamFile { path, ranges }));
                    }
                }
            }
            file => parts.push(ProcessPart {
                range: *range,
                behind: match (one, file) {
                    (Some(one), Some((_, path))) => Behind::File {
                        path,
                        offset: one.offset,
                    },
                    (Some(Whole { shared: false, .. }), None) if first.file.2 == 0 => Behind::Zeros,
                    _ => Behind::Process,
                },
            }),
        }
    }
    let files = files.into_iter().map(|(_, file)| file).collect();
    if parts.is_empty() {
        return Ok(Memory::Files(files));
    }
    let process = ProcessRam { pid, parts };
    Ok(Memory::Process { files, process })
}

/// Major and minor number of a file system's device, and the inode.
type Inode = (u64, u64, u64);

/// A line of `/proc/PID/maps`.
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    start: u64,
    end: u64,
    shared: bool,
    offset: u64,
    file: Inode,
    path: &'a str,
}

impl<'a> Mapping<'a> {
    /// `7f0000000000-7f0020000000 rw-s 00000000 00:19 1234    /dev/shm/ram`
    fn parse(line: &'a str) -> Option<Self> {
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let shared = words.next()?.ends_with('s');
        let offset = hex(words.next()?)?;
        let (major, minor) = words.next()?.split_once(':')?;
        let inode = words.next()?.parse().ok()?;
        Some(Self {
            start: hex(start)?,
            end: hex(end)?,
            shared,
            offset,
            file: (hex(major)?, hex(minor)?, inode),
            path: words.next().unwrap_or_default().trim_start(),
        })
    }

    fn has(&self, at: u64) -> bool {
        (self.start..self.end).contains(&at)
    }
}

/// Finds how a range is mapped, if it is mapped as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Whole {
    shared: bool,
    /// Offset in the file, in bytes.
    offset: u64,
}

/// Finds how `range` is mapped, if all of it is one file's or none's, and in one way. QEMU gives advice on parts of its RAM,
/// which makes several mappings of one.
fn whole(range: &RamRange, mappings: &[Mapping<'_>]) -> Option<Whole> {
    let end = range.offset.checked_add(range.len)?;
    let first = mappings.iter().find(|mapping| mapping.has(range.offset))?;
    let of_file = first.file.2 != 0;
    let offset = first.offset.checked_add(range.offset - first.start)?;
    let mut at = range.offset;
    while at < end {
        let mapping = mappings.iter().find(|mapping| mapping.has(at))?;
        let here = mapping.offset.checked_add(at - mapping.start)?;
        let follows = !of_file || here == offset.checked_add(at - range.offset)?;
        if mapping.shared != first.shared || mapping.file != first.file || !follows {
            return None;
        }
        at = mapping.end;
    }
    let shared = first.shared;
    Some(Whole { shared, offset })
}

/// A path by which the file of a mapping can be opened: its own, else one of QEMU's open files (a memfd has no other),
/// else the mapping's own link, which is for root alone.
fn path_of(pid: u32, mapping: &Mapping<'_>) -> Option<PathBuf> {
    if mapping.file.2 == 0 {
        return None;
    }
    let is = |path: &Path| {
        fs::metadata(path).is_ok_and(|meta| {
            let device = meta.dev();
            let device = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
            meta.is_file() && (device.0, device.1, meta.ino()) == mapping.file
        }) && File::open(path).is_ok()
    };
    let own = PathBuf::from(mapping.path);
    if own.is_absolute() && is(&own) {
        return Some(own);
    }
    let link = format!(
        "/proc/{pid}/map_files/{:x}-{:x}",
        mapping.start, mapping.end
    );
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok();
    let open = open.into_iter().flatten().take(MOST_FILES);
    open.filter_map(|entry| Some(entry.ok()?.path()))
        .chain([link.into()])
        .find(|path| is(path))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const MAPS: &str = "\
7f0000000000-7f0000100000 rw-s 00001000 00:01 77 /memfd:ram (deleted)
7f0000100000-7f0000200000 rw-s 00101000 00:01 77 /memfd:ram (deleted)
7f0000200000-7f0000300000 rw-p 00000000 00:00 0 
7f0000300000-7f0000400000 rw-s 00000000 00:01 78                         /dev/shm/a b
junk
";

    fn mappings() -> Vec<Mapping<'static>> {
        MAPS.lines().filter_map(Mapping::parse).collect()
    }

    #[test]
    fn lines_of_maps() {
        let all = mappings();
        assert_eq!(all.len(), 4);
        assert!(all[0].shared && !all[2].shared);
        assert_eq!((all[1].offset, all[1].file), (0x10_1000, (0, 1, 77)));
        assert_eq!(all[3].path, "/dev/shm/a b");
        assert_eq!(Mapping::parse(""), None);
        assert_eq!(Mapping::parse("zz-1 rw-p 0 00:00 0"), None);
    }

    #[test]
    fn a_range_is_mapped_in_one_way_or_in_none() {
        let at = |offset, len| RamRange {
            gpa: 0,
            offset,
            len,
        };
        let whole = |range| whole(&range, &mappings()).map(|one| (one.shared, one.offset));
        // Two mappings of one file, and private memory.
        assert_eq!(whole(at(0x7f00_0000_1000, 0x1f_f000)), Some((true, 0x2000)));
        assert_eq!(whole(at(0x7f00_0020_0000, 0x1000)), Some((false, 0)));
        // Over the end of what is shared, and where nothing is.
        assert_eq!(whole(at(0x7f00_0010_0000, 0x20_0000)), None);
        assert_eq!(whole(at(0x10_0000, 0x1000)), None);
        assert_eq!(whole(at(u64::MAX - 1, 0x1000)), None);
    }

    /// One private range does not take the files from the others.
    #[test]
    fn each_range_has_its_own_way() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let meta = file.as_file().metadata().unwrap();
        let (major, minor) = (
            nix::sys::stat::major(meta.dev()),
            nix::sys::stat::minor(meta.dev()),
        );
        let of_file = format!(
            "{major:x}:{minor:x} {} {}",
            meta.ino(),
            file.path().display()
        );
        let maps = format!(
            "1000-2000 rw-p 00000000 00:00 0\n\
             2000-5000 rw-s 00001000 {of_file}\n\
             5000-7000 rw-p 00001000 {of_file}\n\
             7000-8000 rw-s 00000000 00:01 77 /dev/zero (deleted)\n"
        );
        let mappings: Vec<Mapping<'_>> = maps.lines().filter_map(Mapping::parse).collect();
        let range = |gpa, offset, len| RamRange { gpa, offset, len };
        let ranges = [
            range(0, 0x1000, 0x1000),
            range(0x10_0000, 0x3000, 0x2000),
            range(0x20_0000, 0x5000, 0x2000),
            range(0x30_0000, 0x7000, 0x1000),
        ];
        let reached = ways(std::process::id(), &ranges, &mappings).unwrap();
        let Memory::Process { files, process } = reached else {
            panic!("{reached:?}");
        };
        assert_eq!(files.len(), 1);
        assert_eq!(
            (files[0].ranges[0].gpa, files[0].ranges[0].offset),
            (0x10_0000, 0x2000)
        );
        let behind: Vec<_> = process.parts.iter().map(|part| &part.behind).collect();
        assert_eq!(behind[0], &Behind::Zeros);
        assert!(
            matches!(behind[1], Behind::File { offset: 0x1000, .. }),
            "{behind:?}"
        );
    }

    #[test]
    fn a_file_that_has_no_name_is_found_among_the_open_ones() {
        let file = tempfile::tempfile().unwrap();
        let meta = file.metadata().unwrap();
        let device = meta.dev();
        let device = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let mapping = Mapping {
            start: 0,
            end: 0x1000,
            shared: true,
            offset: 0,
            file: (device.0, device.1, meta.ino()),
            path: "/tmp/x (deleted)",
        };
        let path = path_of(std::process::id(), &mapping).unwrap();
        assert_eq!(fs::metadata(path).unwrap().ino(), meta.ino());
    }

    #[test]
    fn memory_that_another_process_has_not_is_told() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let range = RamRange {
            gpa: 0,
            offset: 0x1000,
            len: 0x1000,
        };
        let said = reach(child.id(), &[range]).unwrap_err().to_string();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(said.contains("nothing at 0x1000"), "{said}");
    }
}
