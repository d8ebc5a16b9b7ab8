//! Machines that klab did not start: found by their QMP socket, known by a name in the run folder, left alone otherwise.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::error::{At, Error, Result};
use crate::folder::{self, FORMAT, Record};
use crate::lease;
use crate::machine::{BRIEF, Machine, PATIENCE, now};
use crate::mappings::reach;
use crate::paths;
use crate::process::Identity;
use crate::qemu::Accel;
use crate::qmp::Qmp;
use crate::ram;
use klab_facts::Memory;
use klab_facts::RamRange;

/// Record of a machine that klab did not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Adopted {
    pub(crate) format: u32,
    pub(crate) name: String,
    /// Its control socket, as it was named.
    pub(crate) qmp: PathBuf,
    /// QEMU's process.
    pub(crate) qemu: Identity,
    /// The name that this QEMU had here first, if this is another one: its folder has the record of the holders of the
    /// guest.
    #[serde(default)]
    pub(crate) first: Option<String>,
    /// Seconds since 1970 at which it was attached.
    pub(crate) since: u64,
    pub(crate) accel: Accel,
    /// QEMU's last answer.
    pub(crate) shape: Shape,
}

/// The parts of a machine that may change: memory and CPUs are added, moved and taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) cpus: u32,
    pub(crate) memory: Memory,
    /// Ranges where QEMU says that its RAM is: offsets are addresses in its process. Empty for one that is read by its
    /// gdbstub.
    places: Vec<RamRange>,
}

impl Machine {
    /// Gives a machine that someone else started a name here, under which it is then found as any other. It goes on as
    /// it is: nothing of klab's ever stops or resets it, and [`Self::down`] only forgets the name.
    ///
    /// `qmp` is QEMU's control socket, by its path or as QEMU spells it (`unix:PATH,server=on,wait=off`). Its RAM is mapped where QEMU shares it by a file (`share=on`), and else read from
    /// QEMU's process. With `gdb` (a Unix socket's path or `host:port`, also in QEMU's spelling) it is read by QEMU's gdbstub instead, for which
    /// the guest stands still while it is read.
    ///
    /// # Errors
    /// When the name is taken, the socket is none of a living QEMU or is busy, or the RAM cannot be read by this user.
    pub fn adopt(name: &str, qmp: &Path, gdb: Option<&str>) -> Result<Self> {
        let folder = folder::of(name)?;
        let others = folder::sweep()?;
        let lock =
            folder::lock(&folder, true, PATIENCE)?.ok_or_else(|| Error::Locked(name.to_owned()))?;
        if let Some(record) = Record::read(&folder)? {
            return Err(Error::NameTaken {
                name: name.to_owned(),
                adopted: matches!(record, Record::Adopted(_)),
            });
        }
        let made = make(name, &folder, &others, qmp, gdb);
        if made.is_err() {
            // The first error is the one to tell.
            let _ = folder::remove(&folder);
        }
        drop(lock);
        made.map(|adopted| Self::of(folder, Record::Adopted(adopted)))
    }
}

fn make(
    name: &str,
    folder: &Path,
    others: &[PathBuf],
    socket: &Path,
    gdb: Option<&str>,
) -> Result<Adopted> {
    let socket = match Address::parse(socket) {
        Address::Unix(path) => fs::canonicalize(&path).at("find", &path)?,
        Address::Tcp(address) => return Err(Error::QmpByTcp(address)),
    };
    let gdb = gdb.map(gdb_address).transpose()?;
    let link = folder.join("qmp");
    symlink(&socket, &link).at("make", &link)?;
    let mut qmp = Qmp::connect(folder)?;
    let pid = qmp.peer()?.ok_or_else(|| Error::NoQemuThere {
        path: socket.clone(),
        why: "its process is in another pid namespace".to_owned(),
    })?;
    let qemu = Identity::of(pid).ok_or(Error::Ended(pid))?;
    let adopted = Adopted {
        format: FORMAT,
        name: name.to_owned(),
        qmp: socket,
        qemu,
        first: lease::first_name(others, qemu),
        since: now(),
        accel: if qmp.kvm()? { Accel::Kvm } else { Accel::Tcg },
        shape: Shape::ask(&mut qmp, pid, gdb.as_deref())?,
    };
    adopted.write(folder)?;
    Ok(adopted)
}

impl Adopted {
    fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        paths::write_whole(&folder.join("adopted.json"), &text)
    }

    /// QEMU's answer now. Where another client has its socket, what it said before, if QEMU's mappings still agree with
    /// it.
    pub(crate) fn ask(&self, folder: &Path) -> Result<Shape> {
        match Qmp::connect_within(folder, BRIEF) {
            Ok(mut qmp) => self.ask_by(&mut qmp),
            Err(Error::Busy { .. }) if self.shape.still(self.qemu.pid()) => Ok(self.shape.clone()),
            Err(error) => Err(error),
        }
    }

    /// Address at which QEMU's gdbstub listens: a Unix socket's path, or `host:port`. QEMU calls its character device
    /// `gdb`, unless a user has made one of another name for it.
    pub(crate) fn gdbstub(&self, folder: &Path) -> Result<String> {
        if matches!(self.shape.memory, Memory::Gdb { .. }) {
            return Err(Error::GdbstubReads(self.name.clone()));
        }
        let said = Qmp::connect_within(folder, PATIENCE)?.human("info chardev")?;
        let found = gdb_chardev(&said).ok_or_else(|| Error::NoGdbstub(self.name.clone()))?;
        Ok(match Address::parse(Path::new(found)) {
            Address::Tcp(address) => address
                .replace("0.0.0.0:", "127.0.0.1:")
                .replace("[::]:", "[::1]:"),
            // A path is relative to where QEMU was started.
            Address::Unix(path) => {
                let folder = format!("/proc/{}/cwd", self.qemu.pid());
                let path = fs::canonicalize(Path::new(&folder).join(&path)).at("find", &path)?;
                path.to_string_lossy().into_owned()
            }
        })
    }

    /// Asks QEMU at this connection.
    pub(crate) fn ask_by(&self, qmp: &mut Qmp) -> Result<Shape> {
        let pid = self.qemu.pid();
        if let Some(other) = qmp.peer()?.filter(|peer| *peer != pid) {
            return Err(Error::NoQemuThere {
                path: self.qmp.clone(),
                why: format!(
                    "process {other} has it now, and `{}` was attached to process {pid}",
                    self.name
                ),
            });
        }
        let gdb = match &self.shape.memory {
            Memory::Gdb { address, .. } => Some(address.as_str()),
            _ => None,
        };
        Shape::ask(qmp, pid, gdb)
    }

    /// Writes down another shape, for the next command that finds QEMU's socket held. Nothing is lost where that fails:
    /// each command asks.
    pub(crate) fn note(&mut self, folder: &Path, shape: Shape) {
        self.shape = shape;
        let lock = folder::lock(folder, false, Duration::ZERO);
        let same = |record: &Self| record.qemu == self.qemu && record.since == self.since;
        if let (Ok(Some(_lock)), Ok(Some(Record::Adopted(known)))) = (lock, Record::read(folder))
            && same(&known)
        {
            let _ = self.write(folder);
        }
    }
}

impl Shape {
    fn ask(qmp: &mut Qmp, pid: u32, gdb: Option<&str>) -> Result<Self> {
        let names = qmp.memory_backends()?;
        let text = qmp.human("info mtree -f")?;
        let wanted = |name: &str| {
            let name = name.strip_prefix("/objects/").unwrap_or(name);
            names.iter().any(|known| known == name)
        };
        let ranges = ram::blocks(&text, wanted)?;
        let ranges: Vec<RamRange> = ranges.into_iter().map(|(_, range)| range).collect();
        let (memory, places) = match gdb {
            Some(address) => {
                let address = address.to_owned();
                (Memory::Gdb { address, ranges }, Vec::new())
            }
            None => {
                let places = in_process(qmp, ranges)?;
                (reach(pid, &places)?, places)
            }
        };
        Ok(Self {
            cpus: qmp.cpus()?,
            memory,
            places,
        })
    }

    /// Tells whether the process still has its memory where it had it.
    fn still(&self, pid: u32) -> bool {
        match &self.memory {
            Memory::Gdb { .. } => true,
            memory => reach(pid, &self.places).is_ok_and(|now| now == *memory),
        }
    }
}

/// The address in a line as `gdb: filename=disconnected:unix:/run/gdb,server=on`.
fn gdb_chardev(said: &str) -> Option<&str> {
    let mut lines = said.lines().map(str::trim);
    let name = lines.find_map(|line| line.strip_prefix("gdb: filename="))?;
    let name = name.strip_prefix("disconnected:").unwrap_or(name);
    // If one is connected, the other end is told, too.
    let name = name.split(" <-> ").next()?;
    (name.starts_with("unix:") || name.starts_with("tcp:")).then_some(name)
}

/// A Unix socket is found from wherever klab is started later.
fn gdb_address(address: &str) -> Result<String> {
    match Address::parse(Path::new(address)) {
        Address::Tcp(address) => Ok(address),
        Address::Unix(path) => {
            let path = fs::canonicalize(&path).at("find", &path)?;
            Ok(path.to_string_lossy().into_owned())
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gdbstub_is_found_in_what_qemu_prints() {
        for (said, is) in [
            (
                "qmp: filename=unix:qmp,server=on\r\ngdb: filename=disconnected:unix:gdb,server=on\r\n",
                Some("unix:gdb,server=on"),
            ),
            (
                "gdb: filename=disconnected:tcp:0.0.0.0:1234,server=on",
                Some("tcp:0.0.0.0:1234,server=on"),
            ),
            (
                "gdb: filename=tcp:127.0.0.1:1234,server=on <-> 127.0.0.1:5",
                Some("tcp:127.0.0.1:1234,server=on"),
            ),
            ("gdb: filename=pty:/dev/pts/3", None),
            ("serial: filename=null", None),
        ] {
            assert_eq!(gdb_chardev(said), is, "{said}");
        }
    }
}
