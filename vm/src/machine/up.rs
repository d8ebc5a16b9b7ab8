//! Starting a guest: what it is made of, its ready state, and the way back to that.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use super::{Machine, PATIENCE, now};
use crate::accel;
use crate::error::{Error, Result};
use crate::folder::{self, FORMAT, Meta, Record};
use crate::initramfs;
use crate::kernels::{Kernel, KernelChoice};
use crate::launch::{Launch, Owner};
use crate::process::{self, Identity};
use crate::progress::Progress;
use crate::qemu::{Accel, Qemu, Spec};
use crate::snapshot::Ready;
use klab_facts::RamFile;

/// Options of a new guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Its kernel.
    pub kernel: KernelChoice,
    /// RAM in bytes; rounded up to whole MiB.
    pub memory: u64,
    /// CPUs.
    pub cpus: u32,
    /// Lifetime of the guest.
    pub owner: Owner,
    /// Point from which it starts.
    pub start: Start,
}

/// Points from which a guest starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// From the ready state: its agent answers.
    #[default]
    Ready,
    /// Before the kernel's first instruction, held there until [`Machine::resume`].
    Held,
    /// From a ready state, and what runs from then on is recorded, for [`Machine::seek`]. It has one CPU, whose instructions are
    /// counted, no network card, and one port of the agent's: one client at a time.
    Recorded,
}

impl Default for Options {
    /// The default kernel, 512 MiB, two CPUs, until `down`.
    fn default() -> Self {
        Self {
            kernel: KernelChoice::Default,
            memory: 512 << 20,
            cpus: 2,
            owner: Owner::Detached,
            start: Start::Ready,
        }
    }
}
impl Machine {
    /// Starts the guest `name` from the ready state of its kernel, RAM size and CPUs, made first if there is
    /// none. Returns when its agent answers, or with [`Start::Held`] at once. What dead processes left under this name is removed.
    ///
    /// # Errors
    /// [`Error::AlreadyUp`], [`Error::Locked`]; whatever keeps the kernel, the ready state or QEMU from being
    /// had. Nothing is left behind then.
    pub fn up(name: &str, options: &Options, progress: &mut dyn Progress) -> Result<Self> {
        let memory = check(options)?;
        let (folder, lock) = claim(name)?;
        let made = make(name, &folder, options, memory, progress);
        if made.is_err() {
            // The first error is the one to tell.
            let _ = folder::remove(&folder);
        }
        drop(lock);
        let machine = Self::of(folder, Record::Own(made?));
        if options.start == Start::Held {
            machine.pause()?;
        }
        Ok(machine)
    }

    /// Makes what [`Self::up`] with these options needs and starts nothing: the kernel, its initramfs with the agent,
    /// the ready state. Returns at once when all is there; gives the kernel.
    ///
    /// # Errors
    /// As [`Self::up`], but for a guest's own.
    pub fn prepare(options: &Options, progress: &mut dyn Progress) -> Result<Kernel> {
        let memory = check(options)?;
        folder::sweep()?;
        let qemu = Qemu::find()?;
        let (mut spec, kernel) = spec(options, memory, progress)?;
        accel::ready(&mut spec, &qemu, &kernel.release, progress)?;
        Ok(kernel)
    }

    /// Puts the guest back into its ready state, from any other. The RAM file stays the same file and is
    /// refilled, so that processes which have it mapped read the fresh guest; [`Self::generation`] tells them.
    ///
    /// # Errors
    /// [`Error::NotReady`] when its ready state is gone from the cache, [`Error::Locked`], [`Error::Foreign`].
    pub fn reset(&mut self) -> Result<()> {
        let meta = self
            .own("so there is no ready state to put it back into")?
            .clone();
        let _lock = self.lock()?;
        let ready = Ready::find(&meta.ready)?.ok_or_else(|| Error::NotReady(meta.name.clone()))?;
        self.put_back(meta, &ready)
    }

    /// Puts it into a saved state; its folder is locked.
    pub(super) fn put_back(&mut self, mut meta: Meta, ready: &Ready) -> Result<()> {
        let qemu = Qemu::find()?;
        let generation = folder::generation(&self.folder) | 1;
        folder::set_generation(&self.folder, generation)?;
        process::end(&self.folder)?;
        // An owner's own reset binds the new QEMU to it again; after another's, the next command ends a guest
        // whose owner is gone.
        let owner = if meta.owner == Some(Identity::ours()) {
            Owner::ThisProcess
        } else {
            Owner::Detached
        };
        let launch = Launch {
            name: &meta.name,
            folder: &self.folder,
            spec: &meta.spec,
            qemu: &qemu,
            owner,
        };
        (_, meta.recording) = launch.restore(ready)?;
        meta.since = now();
        meta.write(&self.folder)?;
        self.record = Record::Own(meta);
        folder::set_generation(&self.folder, generation.wrapping_add(1))
    }
}

/// The folder of a guest that is to be made, locked; what dead processes left under its name is removed.
pub(super) fn claim(name: &str) -> Result<(PathBuf, Flock<File>)> {
    let folder = folder::of(name)?;
    folder::sweep()?;
    let lock =
        folder::lock(&folder, true, PATIENCE)?.ok_or_else(|| Error::Locked(name.to_owned()))?;
    if let Some(pid) = process::recorded(&folder).filter(|_| !folder::stale(&folder)) {
        return Err(Error::AlreadyUp {
            name: name.to_owned(),
            pid,
        });
    }
    if let Ok(Some(Record::Adopted(_))) = Record::read(&folder) {
        return Err(Error::NameTaken {
            name: name.to_owned(),
            adopted: true,
        });
    }
    let lock = if folder.join("meta.json").exists() {
        // Its QEMU is gone.
        folder::remove(&folder)?;
        drop(lock);
        folder::lock(&folder, true, PATIENCE)?.ok_or_else(|| Error::Locked(name.to_owned()))?
    } else {
        lock
    };
    Ok((folder, lock))
}

/// The memory to give, in bytes.
fn check(options: &Options) -> Result<u64> {
    const MIB: u64 = 1 << 20;
    if options.memory < 128 * MIB || options.memory > 1 << 40 {
        return Err(Error::BadOption(
            "a guest needs 128 MiB to 1 TiB of memory: 512M is a good start".to_owned(),
        ));
    }
    if !(1..=64).contains(&options.cpus) {
        return Err(Error::BadOption(
            "a guest has 1 to 64 CPUs: 2 is a good start".to_owned(),
        ));
    }
    Ok(options.memory.div_ceil(MIB) * MIB)
}

/// Specification of the machine to start, with the kernel that it boots.
fn spec(options: &Options, memory: u64, progress: &mut dyn Progress) -> Result<(Spec, Kernel)> {
    let kernel = Kernel::resolve(&options.kernel, progress)?;
    let recorded = options.start == Start::Recorded;
    let spec = Spec {
        vmlinuz: kernel.vmlinuz.clone(),
        initramfs: initramfs::build(&kernel, progress)?,
        memory,
        cpus: if recorded { 1 } else { options.cpus },
        accel: Accel::Tcg,
        recorded,
    };
    Ok((spec, kernel))
}

fn make(
    name: &str,
    folder: &Path,
    options: &Options,
    memory: u64,
    progress: &mut dyn Progress,
) -> Result<Meta> {
    let qemu = Qemu::find()?;
    let (mut spec, kernel) = spec(options, memory, progress)?;
    let mut ready = accel::ready(&mut spec, &qemu, &kernel.release, progress)?;
    progress.step(&format!("starting the guest `{name}`"));
    let restore = |spec: &Spec, ready: &Ready| {
        let launch = Launch {
            name,
            folder,
            spec,
            qemu: &qemu,
            owner: options.owner,
        };
        match options.start {
            Start::Ready | Start::Recorded => launch.restore(ready),
            Start::Held => Ok((launch.hold()?, None)),
        }
    };
    let (ram, recording) = match restore(&spec, &ready) {
        Err(error) if spec.accel == Accel::Kvm => {
            // It booted with KVM and does not run with it: as good as no KVM.
            progress.step(&format!(
                "KVM does not work here ({error}), going on without it"
            ));
            accel::remember(&qemu, &kernel.release, Accel::Tcg)?;
            process::end(folder)?;
            ready = accel::ready(&mut spec, &qemu, &kernel.release, progress)?;
            restore(&spec, &ready)?
        }
        // Its translator crashes now and then on a busy host.
        Err(error @ Error::QemuEnded(_)) => {
            progress.step(&format!("{error}; starting it once more"));
            process::end(folder)?;
            restore(&spec, &ready)?
        }
        other => other?,
    };
    let owner = (options.owner == Owner::ThisProcess).then(Identity::ours);
    let ram = RamFile {
        path: ram,
        ranges: ready.ranges,
    };
    folder::set_generation(folder, 0)?;
    let meta = Meta {
        format: FORMAT,
        name: name.to_owned(),
        kernel,
        spec,
        qemu: qemu.version,
        since: now(),
        owner,
        ram,
        ready: ready.key,
        recording,
    };
    meta.write(folder)?;
    Ok(meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_options_are_checked() {
        for name in ["", ".x", "a/b", "..", "a b", &"x".repeat(33)] {
            assert!(matches!(folder::of(name), Err(Error::BadName(_))), "{name}");
        }
        assert!(
            check(&Options {
                memory: 1 << 20,
                ..Options::default()
            })
            .is_err()
        );
        assert!(
            check(&Options {
                cpus: 0,
                ..Options::default()
            })
            .is_err()
        );
        assert_eq!(
            check(&Options {
                memory: (256 << 20) + 1,
                ..Options::default()
            })
            .unwrap(),
            257 << 20
        );
    }
}
