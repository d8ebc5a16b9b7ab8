//! Machines that klab did not start: found by their QMP socket, known by a name in the run folder, left alone otherwise.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};
use crate::folder::{self, FORMAT, Record};
use crate::machine::{Machine, PATIENCE, now};
use crate::memory::Memory;
use crate::paths;
use crate::process::Identity;
use crate::qemu::Accel;
use crate::qmp::Qmp;
use crate::ram::{self, RamFile, RamRange};

/// More of `/proc/PID/maps` than any QEMU has.
const LONGEST_MAPS: usize = 16 << 20;
/// More open files than any QEMU has.
const MOST_FILES: usize = 1 << 16;

/// What is known of a machine that klab did not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Adopted {
    pub(crate) format: u32,
    pub(crate) name: String,
    /// Its control socket, as it was named.
    pub(crate) qmp: PathBuf,
    /// QEMU's process.
    pub(crate) qemu: Identity,
    /// Seconds since 1970 at which it was attached.
    pub(crate) since: u64,
    pub(crate) cpus: u32,
    pub(crate) accel: Accel,
    pub(crate) memory: Memory,
}

impl Machine {
    /// Gives a machine that someone else started a name here, under which it is then found as any other. It goes on as
    /// it is: nothing of klab's ever stops or resets it, and [`Self::down`] only forgets the name.
    ///
    /// `qmp` is QEMU's control socket. Its RAM is mapped where QEMU shares it by a file (`share=on`), and else read from
    /// QEMU's process. With `gdb` (a Unix socket's path or `host:port`) it is read by QEMU's gdbstub instead, for which
    /// the guest stands still while it is read.
    ///
    /// # Errors
    /// When the name is taken, the socket is none of a living QEMU or is busy, or the RAM cannot be read by this user.
    pub fn adopt(name: &str, qmp: &Path, gdb: Option<&str>) -> Result<Self> {
        let folder = folder::of(name)?;
        folder::sweep()?;
        let lock =
            folder::lock(&folder, true, PATIENCE)?.ok_or_else(|| Error::Locked(name.to_owned()))?;
        if let Some(record) = Record::read(&folder)? {
            return Err(Error::NameTaken {
                name: name.to_owned(),
                adopted: matches!(record, Record::Adopted(_)),
            });
        }
        let made = make(name, &folder, qmp, gdb);
        if made.is_err() {
            // The first error is the one to tell.
            let _ = folder::remove(&folder);
        }
        drop(lock);
        made.map(|adopted| Self::of(folder, Record::Adopted(adopted)))
    }
}

fn make(name: &str, folder: &Path, socket: &Path, gdb: Option<&str>) -> Result<Adopted> {
    let socket = fs::canonicalize(socket).at("find", socket)?;
    let link = folder.join("qmp");
    symlink(&socket, &link).at("make", &link)?;
    let mut qmp = Qmp::connect(folder)?;
    let pid = qmp.peer()?.ok_or_else(|| Error::NoQemuThere {
        path: socket.clone(),
        why: "its process is in another pid namespace".to_owned(),
    })?;
    let names = qmp.memory_backends()?;
    let text = qmp.human("info mtree -f")?;
    let wanted = |name: &str| {
        let name = name.strip_prefix("/objects/").unwrap_or(name);
        names.iter().any(|known| known == name)
    };
    let ranges: Vec<RamRange> = ram::blocks(&text, wanted)?
        .into_iter()
        .map(|(_, range)| range)
        .collect();
    let memory = match gdb {
        Some(address) => Memory::Gdb {
            address: gdb_address(address)?,
            ranges,
        },
        None => reach(pid, &in_process(&mut qmp, ranges)?)?,
    };
    let adopted = Adopted {
        format: FORMAT,
        name: name.to_owned(),
        qmp: socket,
        qemu: Identity::of(pid).ok_or(Error::Ended(pid))?,
        since: now(),
        cpus: qmp.cpus()?,
        accel: if qmp.kvm()? { Accel::Kvm } else { Accel::Tcg },
        memory,
    };
    adopted.write(folder)?;
    Ok(adopted)
}

impl Adopted {
    fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        paths::write_whole(&folder.join("adopted.json"), &text)
    }
}

/// A Unix socket is found from wherever klab is started later.
fn gdb_address(address: &str) -> Result<String> {
    let path = Path::new(address);
    if !address.contains('/') && address.contains(':') {
        return Ok(address.to_owned());
    }
    let path = fs::canonicalize(path).at("find", path)?;
    Ok(path.to_string_lossy().into_owned())
}

/// The same ranges by their addresses in QEMU's process.
fn in_process(qmp: &mut Qmp, ranges: Vec<RamRange>) -> Result<Vec<RamRange>> {
    let place = |range: RamRange| {
        let text = qmp.human(&format!("gpa2hva {:#x}", range.gpa))?;
        // Host virtual address for 0x100000 (pc.ram) is 0x7f0123400000
        let hex = text.trim().rsplit_once(" is 0x").map(|(_, hex)| hex);
        let offset = hex.and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let offset = offset.filter(|offset| offset.checked_add(range.len).is_some());
        let offset = offset.ok_or_else(|| Error::Qmp {
            command: "gpa2hva".to_owned(),
            why: text.trim().to_owned(),
        })?;
        Ok(RamRange { offset, ..range })
    };
    ranges.into_iter().map(place).collect()
}

/// The best way to RAM that lies in the process `pid`.
fn reach(pid: u32, ranges: &[RamRange]) -> Result<Memory> {
    let denied = |source: std::io::Error| Error::Unreadable {
        pid,
        why: source.to_string(),
    };
    let path = PathBuf::from(format!("/proc/{pid}/maps"));
    let maps = fs::read(&path).map_err(denied)?;
    let maps = String::from_utf8_lossy(&maps[..maps.len().min(LONGEST_MAPS)]);
    let mappings: Vec<Mapping<'_>> = maps.lines().filter_map(Mapping::parse).collect();
    if let Some(files) = shared(pid, ranges, &mappings) {
        return Ok(Memory::Files(files));
    }
    if let Some(range) = ranges
        .iter()
        .find(|range| !mappings.iter().any(|mapping| mapping.has(range.offset)))
    {
        return Err(Error::Unreadable {
            pid,
            why: format!(
                "it has nothing at {:#x}, where QEMU says that RAM is",
                range.offset
            ),
        });
    }
    let file = RamFile {
        path: format!("/proc/{pid}/mem").into(),
        ranges: ranges.to_vec(),
    };
    let memory = File::open(&file.path).map_err(denied)?;
    for range in ranges {
        memory
            .read_exact_at(&mut [0; 8], range.offset)
            .map_err(denied)?;
    }
    Ok(Memory::Process(file))
}

/// A line of `/proc/PID/maps`.
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    start: u64,
    end: u64,
    shared: bool,
    offset: u64,
    /// Major and minor number of the file system's device, and the inode.
    file: (u64, u64, u64),
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

/// The ranges as parts of files, if each lies in shared mappings of a file that can be opened.
fn shared(pid: u32, ranges: &[RamRange], mappings: &[Mapping<'_>]) -> Option<Vec<RamFile>> {
    let mut files: Vec<((u64, u64, u64), RamFile)> = Vec::new();
    for range in ranges {
        let end = range.offset.checked_add(range.len)?;
        let first = mappings.iter().find(|mapping| mapping.has(range.offset))?;
        let offset = first.offset.checked_add(range.offset - first.start)?;
        // QEMU gives advice on parts of it, which makes several mappings of one.
        let mut at = range.offset;
        while at < end {
            let mapping = mappings.iter().find(|mapping| mapping.has(at))?;
            let here = mapping.offset.checked_add(at - mapping.start)?;
            let follows = here == offset.checked_add(at - range.offset)?;
            if !mapping.shared || mapping.file != first.file || !follows {
                return None;
            }
            at = mapping.end;
        }
        let part = RamRange { offset, ..*range };
        match files.iter_mut().find(|(file, _)| *file == first.file) {
            Some((_, file)) => file.ranges.push(part),
            None => {
                let path = path_of(pid, first)?;
                let ranges = vec![part];
                files.push((first.file, RamFile { path, ranges }));
            }
        }
    }
    Some(files.into_iter().map(|(_, file)| file).collect())
}

/// A path by which the file of a mapping can be opened: its own, else one of QEMU's open files (a memfd has no other).
fn path_of(pid: u32, mapping: &Mapping<'_>) -> Option<PathBuf> {
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
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    open.take(MOST_FILES)
        .filter_map(|entry| Some(entry.ok()?.path()))
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
    fn private_memory_is_no_file() {
        let at = |offset, len| RamRange {
            gpa: 0,
            offset,
            len,
        };
        let shared = |range| shared(std::process::id(), &[range], &mappings());
        assert_eq!(shared(at(0x7f00_0020_0000, 0x1000)), None);
        // Over the end of what is shared, and where nothing is.
        assert_eq!(shared(at(0x7f00_0010_0000, 0x20_0000)), None);
        assert_eq!(shared(at(0x10_0000, 0x1000)), None);
        assert_eq!(shared(at(u64::MAX - 1, 0x1000)), None);
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
