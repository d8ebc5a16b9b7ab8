//! `Guest`: the handle that cells and commands hold.

#[cfg(test)]
mod cores;
pub mod dump;
mod gdbstub;
mod lazy;
mod memory;
mod objects;
mod snapshots;
mod view;

pub(crate) use objects::list;

pub(crate) use objects::type_of;

pub(crate) use objects::symbols;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use gdbstub::GdbMemory;
pub use lazy::LazyGuest;
pub use memory::of_machine;
pub use snapshots::{Snapshot, Snapshots};
use vm::agent::Client;
use vm::{Hold, Machine, Registers};

use crate::kernel::{Kernel, choose};
use crate::memory::vmcore::Core;
use crate::memory::{GuestPhys, PhysMemory, RamFile, RamRange};
use crate::{Error, Result};
use crate::{base, cell};

/// Time limit of the wait for a reset that is under way.
const RESET: Duration = Duration::from_secs(10);
/// Time for which QEMU's answer about a machine that klab did not start is taken for true. A reading asks what is known
/// many times, and each question to QEMU takes some milliseconds.
const FRESH: Duration = Duration::from_millis(200);

/// A guest whose memory can be read, and whose machine, if there is one, can be paused and asked. Clones are the same
/// guest, and may be sent to other threads.
///
/// It survives a reset of the guest: what was decoded for the kernel before is dropped, and [`Guest::kernel`] finds
/// the one that runs now. A [`Kernel`] kept from before does not notice.
#[derive(Debug, Clone)]
pub struct Guest {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    known: Mutex<Known>,
    pauses: Mutex<Pauses>,
}

/// Facts about the guest that hold for one generation of its RAM.
#[derive(Debug)]
struct Known {
    kernel: Kernel,
    /// Note that there are other kernels in the memory, and which one this is; that the dump was cut off.
    note: Option<String>,
    machine: Option<Running>,
    /// The registers that a dump has.
    registers: Vec<Registers>,
    /// Memory that a machine we do not have may write to.
    bare: bool,
}

#[derive(Debug)]
struct Running {
    machine: Machine,
    memory: Arc<dyn PhysMemory>,
    generation: u64,
    /// True if its RAM has moved since, and no kernel was found in it yet.
    moved: bool,
    /// Time at which QEMU was asked last where its RAM is.
    asked: Instant,
    /// Address of the VMCOREINFO of the kernel to show, if that is not the one that runs.
    wanted: Option<GuestPhys>,
}

/// Number of calls of `paused` that are under way, and the hold for them.
#[derive(Debug, Default)]
struct Pauses {
    depth: u32,
    hold: Option<Hold>,
    /// The hold on the guest, if it is not its machine's.
    held: Option<Arc<dyn PhysMemory>>,
}

impl Guest {
    /// The guest that `klab up NAME` made, or `klab attach NAME` named.
    ///
    /// # Errors
    /// `Machine`, with the cure, if there is no such guest or it does not run; `Absent` if there is no kernel in it.
    pub fn attach(name: &str) -> Result<Self> {
        Ok(Self::of(Known::attach(name, None)?))
    }

    /// As [`Self::attach`], of the kernel whose VMCOREINFO is at `at`, also where the CPUs run another: one that crashed,
    /// while a second one dumps it.
    ///
    /// # Errors
    /// When there is no kernel's VMCOREINFO at `at`.
    pub fn attach_kernel(name: &str, at: GuestPhys) -> Result<Self> {
        Ok(Self::of(Known::attach(name, Some(at))?))
    }

    /// A guest in a QEMU that someone else started, by its QMP socket; from now on it has this name, as after
    /// `klab attach NAME --qmp SOCKET`. Its RAM is mapped, or read from QEMU's process.
    ///
    /// # Errors
    /// As [`Machine::adopt`]; when there is no kernel in it.
    pub fn attach_qmp(name: &str, qmp: impl AsRef<Path>) -> Result<Self> {
        Machine::adopt(name, qmp.as_ref(), None)?;
        Self::attach(name)
    }

    /// A guest that is nothing but its RAM file: no machine to pause, no agent.
    ///
    /// # Errors
    /// As [`RamFile::open`]; `Absent` if there is no kernel in it.
    pub fn open_ram(path: impl AsRef<Path>, ranges: &[RamRange]) -> Result<Self> {
        let ram = RamFile::open(path.as_ref(), ranges)?;
        let kernel = Kernel::discover(Arc::new(ram))?;
        Ok(Self::of(Known {
            kernel,
            note: None,
            machine: None,
            registers: Vec::new(),
            bare: true,
        }))
    }

    /// A guest that was dumped: an ELF core or a kdump file, as `klab dump`, QEMU's `dump-guest-memory` and makedumpfile
    /// write them.
    ///
    /// # Errors
    /// `Io` if it cannot be read, is no dump, or was cut off before its kernel; `Absent` if there is no kernel in it.
    pub fn open_core(path: impl AsRef<Path>) -> Result<Self> {
        let core = Core::open(path.as_ref())?;
        let memory = Arc::clone(&core.memory);
        let cut = core
            .cut
            .map(|cut| format!("{}: {cut}", path.as_ref().display()));
        let found = Kernel::discover_noted(core.memory, core.vmcoreinfo.as_deref());
        let first = match (found, &cut) {
            // If a part of the dump is missing, it cannot be said that it holds no kernel.
            (Err(fault), Some(cut)) => return Err(Error::io(format!("{cut}; so {fault}"))),
            (found, _) => found?,
        };
        // Without CR3 in it a dump is of the kernel that its note names.
        let saved = core.registers.iter().any(|cpu| cpu.cr3.is_some());
        let (kernel, note) = if saved {
            let choice = choose(first, Some(&core.registers), || {
                Kernel::discover_all(memory)
            })?;
            (choice.kernel, choice.note)
        } else {
            (first, None)
        };
        let notes: Vec<String> = cut.into_iter().chain(note).collect();
        Ok(Self::of(Known {
            kernel,
            note: (!notes.is_empty()).then(|| notes.join("; ")),
            machine: None,
            registers: core.registers,
            bare: false,
        }))
    }

    /// As [`Self::open_core`], of the kernel whose VMCOREINFO is at `at`.
    ///
    /// # Errors
    /// When there is no kernel's VMCOREINFO at `at`.
    pub fn open_core_kernel(path: impl AsRef<Path>, at: GuestPhys) -> Result<Self> {
        let core = Core::open(path.as_ref())?;
        Ok(Self::of(Known {
            kernel: Kernel::discover_at(&core.memory, at)?,
            note: None,
            machine: None,
            registers: core.registers,
            bare: false,
        }))
    }

    /// A guest that is nothing but memory: the kernel in it is found as in any other.
    ///
    /// # Errors
    /// As [`Kernel::discover`].
    pub fn from_memory(memory: Arc<dyn PhysMemory>) -> Result<Self> {
        Ok(Self::from_kernel(Kernel::discover(memory)?))
    }

    /// A guest of a kernel that is known: for tests.
    #[must_use]
    pub fn from_kernel(kernel: Kernel) -> Self {
        Self::of(Known {
            kernel,
            note: None,
            machine: None,
            registers: Vec::new(),
            bare: false,
        })
    }

    fn of(known: Known) -> Self {
        let (known, pauses) = (Mutex::new(known), Mutex::default());
        Self {
            inner: Arc::new(Inner { known, pauses }),
        }
    }

    /// The kernel that runs in it now. Costs some microseconds: keep it for as long as one reading takes.
    ///
    /// # Errors
    /// When the guest was reset or started anew since, and no kernel is found in it.
    pub fn kernel(&self) -> Result<Kernel> {
        Ok(self.known()?.kernel.clone())
    }

    /// A remark on all that is read here, `None` as a rule: that there are several kernels in the memory, which
    /// one this is, and how to see the others; that the dump was cut off.
    ///
    /// # Errors
    /// As [`Self::kernel`].
    pub fn note(&self) -> Result<Option<String>> {
        Ok(self.known()?.note.clone())
    }

    /// The registers of its CPUs: of a machine that stands still, or those that were saved with a dump. Only of those that
    /// run its kernel: another kernel's CPUs run none of its tasks.
    ///
    /// # Errors
    /// When the machine runs, the dump has none, or the CPUs run another kernel.
    pub fn registers(&self) -> Result<Vec<Registers>> {
        let kernel = self.kernel()?;
        let mut all = self.all_registers()?;
        all.retain(|registers| kernel.owns(registers));
        if all.is_empty() {
            return Err(Error::Absent(format!(
                "the CPUs run another kernel than {}: their registers are of none of its tasks",
                kernel.place()
            )));
        }
        Ok(all)
    }

    /// The registers of all CPUs, whatever they run.
    fn all_registers(&self) -> Result<Vec<Registers>> {
        let saved = {
            let known = self.known()?;
            known.machine.is_none().then(|| known.registers.clone())
        };
        match saved {
            Some(saved) if saved.is_empty() => Err(Error::Absent(
                "this guest is memory alone, and nobody saved the registers of its CPUs with it"
                    .to_owned(),
            )),
            Some(saved) => Ok(saved),
            None => {
                let machine = self.machine()?;
                if machine.runs()? {
                    return Err(Error::machine(
                        "the guest runs: pause it to read the registers of its CPUs".to_owned(),
                    ));
                }
                Ok(machine.registers()?)
            }
        }
    }

    /// The machine that runs it.
    ///
    /// # Errors
    /// `Machine` if the guest is a dump or a RAM file.
    pub fn machine(&self) -> Result<Machine> {
        let known = self
            .inner
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &known.machine {
            Some(running) => Ok(running.machine.clone()),
            None => Err(Error::machine(
                "this guest is memory alone, without a machine: `klab up` and `Guest::attach` give one that runs".to_owned(),
            )),
        }
    }

    /// A connection to its agent, which does not answer while the guest is paused.
    ///
    /// # Errors
    /// `Machine` if the guest is paused, has no machine, or its agent does not answer or is busy.
    pub fn agent(&self) -> Result<Client> {
        if self.pauses().depth > 0 {
            return Err(Error::machine(
                "the guest is paused, so its agent does not answer: ask it before or after guest.paused(..)".to_owned(),
            ));
        }
        let mut agent = self.machine()?.agent()?;
        if cell::has_front() {
            agent.set_stop(base::interrupt_flag());
        }
        Ok(agent)
    }

    /// State of its machine now.
    ///
    /// # Errors
    /// As [`Self::machine`].
    pub fn status(&self) -> Result<vm::Status> {
        Ok(self.machine()?.status())
    }

    /// Puts the guest back into its ready state.
    ///
    /// # Errors
    /// As [`Self::machine`] and [`Machine::reset`].
    pub fn reset(&self) -> Result<()> {
        Ok(self.machine()?.reset()?)
    }

    /// Runs `work` while the guest's CPUs stand still; they go on afterwards, also after a panic of `work` and when this
    /// process is killed, unless they stood still before. Calls may nest. The guest's memory does not change meanwhile.
    ///
    /// A dump or a fake kernel is still by itself: there `work` just runs.
    ///
    /// # Errors
    /// When the machine does not answer, or the guest is a bare RAM file that something else may write to; when the guest was
    /// reset or let go on while `work` ran.
    pub fn paused<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let pause = Pause::begin(self)?;
        let done = work(self);
        let ended = pause.end();
        // The first error is the one that is told.
        let done = done?;
        ended?;
        Ok(done)
    }

    fn pauses(&self) -> MutexGuard<'_, Pauses> {
        self.inner
            .pauses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the known facts up to date.
    fn known(&self) -> Result<MutexGuard<'_, Known>> {
        self.known_since(FRESH)
    }

    /// Brings the known facts up to date: for a machine that klab did not start, by QEMU's answer of at most `fresh` ago.
    fn known_since(&self, fresh: Duration) -> Result<MutexGuard<'_, Known>> {
        let mut known = self
            .inner
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(running) = &mut known.machine else {
            return Ok(known);
        };
        let wanted = running.wanted;
        if let Ok(file) = running.machine.ram() {
            if !running
                .memory
                .as_ram()
                .is_some_and(|ram| ram.is(&file.path))
            {
                // Taken down, and perhaps started anew under its name.
                *known = Known::attach(running.machine.name(), wanted)?;
            } else if settled(&running.machine)? != running.generation {
                *known = Known::of(running.machine.clone(), wanted)?;
            }
        } else if running.machine.lives() {
            // While it is held by us nothing is asked: a stub that holds it serves no second client.
            let due = running.asked.elapsed() >= fresh && self.pauses().held.is_none();
            if due {
                running.moved |= running.machine.survey()?;
                running.asked = Instant::now();
            }
            // Nobody counts the boots of a machine that klab did not start.
            if running.moved || !known.kernel.is_there() {
                let machine = known
                    .machine
                    .as_ref()
                    .map(|running| running.machine.clone());
                if let Some(machine) = machine {
                    *known = Known::of(machine, wanted)?;
                }
            }
        }
        Ok(known)
    }
}

impl Known {
    fn attach(name: &str, wanted: Option<GuestPhys>) -> Result<Self> {
        let mut machine = Machine::attach(name)?;
        machine.survey()?;
        Self::of(machine, wanted)
    }

    fn of(machine: Machine, wanted: Option<GuestPhys>) -> Result<Self> {
        let memory = of_machine(&machine)?;
        let generation = settled(&machine)?;
        let (kernel, note) = match wanted {
            Some(at) => (Kernel::discover_at(&memory, at)?, None),
            None => {
                let first = Kernel::discover(Arc::clone(&memory))?;
                let (kernel, note) = running_kernel(first, &machine, &memory)?;
                (kernel, note)
            }
        };
        let machine = Some(Running {
            machine,
            memory,
            generation,
            moved: false,
            asked: Instant::now(),
            wanted,
        });
        Ok(Self {
            kernel,
            note,
            machine,
            registers: Vec::new(),
            bare: false,
        })
    }
}

/// The kernel that the machine's CPUs run, and what there is to say of others. A guest of klab's own has one, unless that
/// one says that it has handed the machine over.
fn running_kernel(
    first: Kernel,
    machine: &Machine,
    memory: &Arc<dyn PhysMemory>,
) -> Result<(Kernel, Option<String>)> {
    if machine.is_own() && !first.gave_over() {
        return Ok((first, None));
    }
    // If another client has QEMU's socket, what the kernels say of themselves must do.
    let registers = machine.registers_at_once().ok();
    let all = || Kernel::discover_all(Arc::clone(memory));
    let choice = choose(first, registers.as_deref(), all)?;
    Ok((choice.kernel, choice.note))
}

/// The machine's generation, once no reset is under way.
fn settled(machine: &Machine) -> Result<u64> {
    let began = Instant::now();
    loop {
        let generation = machine.generation();
        if generation.is_multiple_of(2) {
            return Ok(generation);
        }
        if began.elapsed() > RESET {
            let name = machine.name();
            return Err(Error::machine(format!(
                "the guest `{name}` is in the middle of a reset: `klab reset {name}` ends one that was interrupted"
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One call of `paused` that is under way. Dropped without `end` when the work panicked.
pub(crate) struct Pause<'a> {
    guest: &'a Guest,
    open: bool,
}

impl<'a> Pause<'a> {
    pub(crate) fn begin(guest: &'a Guest) -> Result<Self> {
        let (machine, memory, bare) = {
            // All of it may be read while it stands still, as for a dump: the facts must be new.
            let known = guest.known_since(Duration::ZERO)?;
            let machine = known.machine.as_ref();
            (
                machine.map(|running| running.machine.clone()),
                machine.map(|running| Arc::clone(&running.memory)),
                known.bare,
            )
        };
        if bare {
            return Err(Error::machine(
                "this guest is a RAM file alone, there is nobody to pause: `Guest::attach` gives one that can be".to_owned(),
            ));
        }
        let mut pauses = guest.pauses();
        if let (Some(machine), Some(memory), 0) = (&machine, memory, pauses.depth) {
            if memory.hold(true)? {
                pauses.held = Some(memory);
            } else {
                pauses.hold = Some(machine.hold()?);
            }
        }
        pauses.depth += 1;
        drop(pauses);
        Ok(Self { guest, open: true })
    }

    /// The same of a guest that a debugger keeps still: its machine is not asked.
    pub(crate) fn of_debugger(guest: &'a Guest) -> Self {
        guest.pauses().depth += 1;
        Self { guest, open: true }
    }

    pub(crate) fn end(mut self) -> Result<()> {
        self.open = false;
        self.leave()
    }

    fn leave(&self) -> Result<()> {
        let mut pauses = self.guest.pauses();
        pauses.depth = pauses.depth.saturating_sub(1);
        if pauses.depth > 0 {
            return Ok(());
        }
        if let Some(memory) = pauses.held.take() {
            return memory.hold(false).map(drop);
        }
        pauses.hold.take().map_or(Ok(()), |hold| Ok(hold.end()?))
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        if self.open {
            // The panic that brought us here is what is told.
            let _ = self.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::FakeKernel;

    #[test]
    fn memory_alone_can_be_read_and_has_no_machine() {
        let guest = Guest::from_kernel(FakeKernel::new().finish().unwrap());
        let release =
            guest.paused(|guest| guest.paused(|guest| Ok(guest.kernel()?.release().to_owned())));
        assert_eq!(release.unwrap(), "7.3.4-fake");
        assert!(
            guest
                .agent()
                .unwrap_err()
                .to_string()
                .contains("without a machine")
        );
        let panicked =
            std::panic::catch_unwind(|| guest.paused(|_| -> Result<()> { panic!("in the work") }));
        assert!(panicked.is_err());
        assert_eq!(guest.pauses().depth, 0);
    }

    #[test]
    fn a_bare_ram_file_cannot_be_paused() {
        let mut ram = vec![0; 16 << 20];
        FakeKernel::new()
            .memory()
            .unwrap()
            .read(crate::memory::GuestPhys(0), &mut ram)
            .unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &ram).unwrap();
        let range = RamRange {
            gpa: 0,
            offset: 0,
            len: ram.len() as u64,
        };
        let guest = Guest::open_ram(file.path(), &[range]).unwrap();
        assert_eq!(guest.kernel().unwrap().release(), "7.3.4-fake");
        assert!(
            guest
                .paused(|_| Ok(()))
                .unwrap_err()
                .to_string()
                .contains("nobody to pause")
        );
    }

    #[test]
    fn an_unknown_guest_is_told_with_the_cure() {
        let fault = Guest::attach("no-such-guest-here").unwrap_err().to_string();
        assert!(fault.contains("klab up no-such-guest-here"), "{fault}");
    }
}
