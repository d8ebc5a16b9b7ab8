//! Writing into a guest's memory, and the note of it in the run folder, `written`: until the guest is reset, what is read of it is
//! not the kernel's work alone.
//!
//! ```text
//! qemu PID START    the QEMU whose memory it was: of another, as after a reset, the file says nothing
//! LINE              a write, in words
//! ```

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::error::{At, Error, Result};
use crate::lease;
use crate::machine::Machine;
use klab_facts::Memory;
use klab_facts::RamFile;

const NAME: &str = "written";
/// Number of its bytes that are read.
const LONGEST: u64 = 1 << 20;

/// Bytes for a guest-physical address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The first byte's address; all lie in one range of RAM.
    pub gpa: u64,
    /// Bytes to write.
    pub bytes: Vec<u8>,
}

impl Machine {
    /// Writes into its RAM, which is a file that QEMU shares. Code that QEMU has translated it goes on to run as it was. The caller holds
    /// the guest still. `what` is noted before anything is written: a writer that is killed in between leaves a guest
    /// that is said to be changed.
    ///
    /// # Errors
    /// [`Error::NoWrites`] where its RAM is no such file, or not at these addresses; [`Error::Dead`].
    pub fn write(&self, what: &str, parts: &[Part]) -> Result<()> {
        self.alive()?;
        let Memory::Files(files) = self.memory() else {
            return Err(Error::NoWrites(format!(
                "the memory of the guest `{}` is QEMU's own, not a file that it shares: start QEMU with -object memory-backend-memfd,share=on",
                self.name()
            )));
        };
        let places = parts.iter().map(|part| place(&files, part));
        let places = places.collect::<Option<Vec<_>>>();
        let places = places
            .ok_or_else(|| Error::NoWrites("no RAM is at all of these addresses".to_owned()))?;
        note(self.run_dir(), what)?;
        for (part, (file, offset)) in parts.iter().zip(places) {
            let ram = File::options()
                .write(true)
                .open(&file.path)
                .at("open", &file.path)?;
            ram.write_all_at(&part.bytes, offset)
                .at("write", &file.path)?;
        }
        Ok(())
    }

    /// Values that were written into its memory since it was started or reset, the first write first.
    #[must_use]
    pub fn writes(&self) -> Vec<String> {
        of(self.run_dir())
    }
}

/// The file, and where in it the part lies.
fn place<'a>(files: &'a [RamFile], part: &Part) -> Option<(&'a RamFile, u64)> {
    let len = u64::try_from(part.bytes.len()).ok()?;
    files.iter().find_map(|file| {
        let range = file.ranges.iter().find(|range| {
            let at = part.gpa.checked_sub(range.gpa);
            at.and_then(|at| at.checked_add(len))
                .is_some_and(|end| end <= range.len)
        })?;
        Some((file, range.offset.checked_add(part.gpa - range.gpa)?))
    })
}

/// The writes to the guest in `folder`, the first one first.
pub(crate) fn of(folder: &Path) -> Vec<String> {
    let (path, mut bytes) = (lease::home(folder).join(NAME), Vec::new());
    match File::open(&path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        // The file's mere existence says that something was written.
        Err(error) => {
            return vec![format!(
                "what cannot be read from {}: {error}",
                path.display()
            )];
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    match head(folder) {
        Some(head) if lines.next() == Some(&head) => lines.map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn head(folder: &Path) -> Option<String> {
    let qemu = lease::qemu_of(folder)?;
    Some(format!("qemu {} {}", qemu.pid, qemu.start))
}

/// Notes a write to the guest in `folder`.
pub(crate) fn note(folder: &Path, what: &str) -> Result<()> {
    // A QEMU with several names has one such file.
    let path = lease::home(folder).join(NAME);
    let head = head(folder).unwrap_or_default();
    let mut first = String::new();
    let known = match File::open(&path)
        .and_then(|file| BufReader::new(file.take(LONGEST)).read_line(&mut first))
    {
        Ok(_) => first.trim_end() == head,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error).at("read", &path),
    };
    let line: String = what.chars().filter(|c| !c.is_control()).collect();
    let mut options = File::options();
    match known {
        true => options.append(true),
        false => options.create(true).write(true).truncate(true),
    };
    let mut file = options.open(&path).at("write", &path)?;
    let text = match known {
        true => format!("{line}\n"),
        false => format!("{head}\n{line}\n"),
    };
    file.write_all(text.as_bytes()).at("write", &path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use klab_facts::RamRange;

    #[test]
    fn a_part_lies_in_one_range() {
        let range = |gpa, offset, len| RamRange { gpa, offset, len };
        let files = [RamFile {
            path: "ram".into(),
            ranges: vec![range(0, 0, 0x1000), range(0x10_0000, 0x1000, 0x1000)],
        }];
        let at = |gpa, len| {
            let part = Part {
                gpa,
                bytes: vec![0; len],
            };
            place(&files, &part).map(|(_, offset)| offset)
        };
        assert_eq!(at(0xff0, 16), Some(0xff0));
        assert_eq!(at(0xff0, 17), None);
        assert_eq!(at(0x10_0008, 8), Some(0x1008));
        assert_eq!(at(0x1_0000, 1), None);
        assert_eq!(at(u64::MAX, 2), None);
    }
}
