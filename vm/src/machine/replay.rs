//! A recorded run, had again: QEMU replays it from its beginning, instruction by instruction, with the same bytes in its memory.
//!
//! Going back is a new QEMU that begins at the state where the record begins; what has the RAM file mapped goes on to read it.
//! QEMU 7.2 itself could load that state (`replay-seek`), but hangs at the second time.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Machine;
use crate::debugger::Debugger;
use crate::error::{Error, Result};
use crate::folder::{self, Meta, Record};
use crate::launch::{Launch, Owner};
use crate::process::{self, Identity};
use crate::progress::Progress;
use crate::qemu::Qemu;
use crate::qmp::RunState;

/// Interval between two looks at where a replay is.
const LOOK: Duration = Duration::from_millis(5);
/// Time limit for a QEMU that records to write its last and end.
const ENDS: Duration = Duration::from_secs(10);
/// Interval between two looks at whether one under a debugger gets on.
const LOOK_FAR: Duration = Duration::from_secs(1);
/// A replay that gets no further for so long does not go on by itself.
const STANDS: Duration = Duration::from_secs(20);

/// Record of a guest's run. Instructions are counted from the guest's boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// First instruction that can be gone back to: in the ready state.
    pub first: u64,
    /// Last instruction; `None` while it goes on.
    pub last: Option<u64>,
}

/// Position of a guest in its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Instructions executed since its boot.
    pub instruction: u64,
    /// First instruction of its record.
    pub first: u64,
    /// Last instruction; while it is recorded that is here.
    pub last: u64,
}

/// A replay under a debugger, from the beginning of the record to an instruction. Dropped, it stands where it is.
#[derive(Debug)]
pub struct Replay {
    machine: Machine,
    /// To set watchpoints, and to read registers when it stands.
    pub debugger: Debugger,
    to: u64,
    /// The longest that it has got, and since when.
    got: (u64, Instant),
}

impl Machine {
    /// Position at which it stands in its record.
    ///
    /// # Errors
    /// [`Error::NotRecorded`], [`Error::Dead`].
    pub fn position(&self) -> Result<Position> {
        let Recording { first, last } = self.recording()?;
        let not_recorded = || Error::NotRecorded(self.name().to_owned());
        let instruction = self.qmp()?.instruction()?.ok_or_else(not_recorded)?;
        Ok(Position {
            instruction,
            first,
            last: last.unwrap_or(instruction),
        })
    }

    /// Goes to an instruction of the record, or to its end, and stands there. The first time ends the record: what ran in the guest is over, and
    /// its memory is read as it was.
    ///
    /// # Errors
    /// [`Error::NotRecorded`]; [`Error::OutsideRecord`]; [`Error::Interrupted`], when the user has enough: then it stands where it
    /// has come to; when QEMU does not get there.
    pub fn seek(&self, to: Option<u64>, progress: &mut dyn Progress) -> Result<Position> {
        // A record that goes on is not ended for a moment that it has not.
        if let Some(to) = to
            && !self.replays()
        {
            self.within(to)?;
        }
        let meta = self.end_recording()?;
        let to = match to {
            Some(to) => to,
            None => self.position()?.last,
        };
        let here = self.within(to)?;
        let ended = self.qmp()?.status()? == RunState::Shutdown;
        if here.instruction > to || (ended && here.instruction != to) {
            self.relaunch(&meta)?;
        }
        self.forward(to, progress)?;
        self.position()
    }

    /// Ends the record, if it goes on; then the guest stands at its beginning, in a replay.
    ///
    /// # Errors
    /// [`Error::NotRecorded`], [`Error::Dead`].
    pub fn end_record(&self) -> Result<Position> {
        self.end_recording()?;
        self.position()
    }

    /// Goes to the beginning of the record, from where it replays up to an instruction under a debugger.
    ///
    /// # Errors
    /// As [`Self::seek`]; [`Error::DebuggerTaken`].
    pub fn replay(&self, to: u64) -> Result<Replay> {
        let meta = self.end_recording()?;
        let here = self.within(to)?;
        if here.instruction != here.first {
            self.relaunch(&meta)?;
        }
        let mut qmp = self.qmp()?;
        let here = qmp.instruction()?.unwrap_or(0);
        if to > here {
            qmp.replay_break(to)?;
        }
        drop(qmp);
        let stub = self.gdb_socket().to_string_lossy().into_owned();
        let debugger = Debugger::attach_replay(self.run_dir(), self.name(), &stub)?;
        Ok(Replay {
            machine: self.clone(),
            debugger,
            to,
            got: (here, Instant::now()),
        })
    }

    /// Tells whether what runs in it is a record, which nothing can change.
    pub fn replays(&self) -> bool {
        self.recording()
            .is_ok_and(|recording| recording.last.is_some())
    }

    /// An error for what a replay has not.
    pub(crate) fn not_replayed(&self) -> Result<()> {
        match self.replays() {
            true => Err(Error::Replayed(self.name().to_owned())),
            false => Ok(()),
        }
    }

    /// Its record, as it is now: another process may have ended it.
    ///
    /// # Errors
    /// [`Error::NotRecorded`] if it has none; [`Error::Io`] if its run folder cannot be read.
    pub fn recording(&self) -> Result<Recording> {
        let not_recorded = || Error::NotRecorded(self.name().to_owned());
        match Record::read(self.run_dir())? {
            Some(Record::Own(meta)) => meta.recording.ok_or_else(not_recorded),
            _ => Err(not_recorded()),
        }
    }

    fn within(&self, to: u64) -> Result<Position> {
        let here = self.position()?;
        if (here.first..=here.last).contains(&to) {
            return Ok(here);
        }
        Err(Error::OutsideRecord {
            instruction: to,
            first: here.first,
            last: here.last,
        })
    }

    /// As [`Self::end_record`]; gives what the guest is made of.
    fn end_recording(&self) -> Result<Meta> {
        let not_recorded = || Error::NotRecorded(self.name().to_owned());
        let Some(Record::Own(mut meta)) = Record::read(self.run_dir())? else {
            return Err(not_recorded());
        };
        let mut recording = meta.recording.ok_or_else(not_recorded)?;
        if recording.last.is_none() {
            self.alive()?;
            let _lock = self.lock()?;
            let mut qmp = self.qmp()?;
            qmp.stop()?;
            qmp.record_up_to_here()?;
            recording.last = qmp.instruction()?;
            meta.recording = Some(recording);
            meta.write(self.run_dir())?;
        }
        // A process that went back may have been killed on the way: then nothing can be asked of the QEMU that it has
        // started.
        let whole = self.generation().is_multiple_of(2) && self.lives();
        // Also one whose end somebody began, and was killed.
        let records = whole && self.qmp()?.records()?;
        if records {
            let _lock = self.lock()?;
            // A record whose QEMU was killed cannot be replayed.
            self.qmp()?.quit();
            let until = Instant::now() + ENDS;
            while process::any(self.run_dir()) && Instant::now() < until {
                std::thread::sleep(LOOK);
            }
        }
        if records || !whole {
            self.relaunch(&meta)?;
        }
        Ok(meta)
    }

    /// A new QEMU, which stands at the beginning of the record.
    fn relaunch(&self, meta: &Meta) -> Result<()> {
        let folder = self.run_dir();
        let _lock = self.lock()?;
        let qemu = Qemu::find()?;
        let generation = folder::generation(folder);
        folder::set_generation(folder, generation | 1)?;
        process::end(folder)?;
        let owner = match meta.owner == Some(Identity::ours()) {
            true => Owner::ThisProcess,
            false => Owner::Detached,
        };
        let launch = Launch {
            name: &meta.name,
            folder,
            spec: &meta.spec,
            qemu: &qemu,
            owner,
        };
        launch.replay()?;
        // The same kernel at the same place: what is known of it stays true.
        folder::set_generation(folder, generation & !1)
    }

    /// Replays on to an instruction.
    fn forward(&self, to: u64, progress: &mut dyn Progress) -> Result<()> {
        let mut qmp = self.qmp()?;
        let mut got = (qmp.instruction()?.unwrap_or(0), Instant::now());
        if got.0 >= to {
            return Ok(());
        }
        qmp.replay_break(to)?;
        qmp.cont()?;
        loop {
            drop(qmp);
            std::thread::sleep(LOOK);
            qmp = self.qmp()?;
            let stands = qmp.status()? != RunState::Running;
            let here = qmp.instruction()?.unwrap_or(0);
            if stands && here >= to {
                return Ok(());
            }
            if progress.stopped() {
                qmp.stop()?;
                qmp.no_replay_break();
                return Err(Error::Interrupted(format!(
                    "interrupted: the replay stands at instruction {here}"
                )));
            }
            if here > got.0 {
                got = (here, Instant::now());
            }
            if stands || got.1.elapsed() > STANDS {
                return Err(self.stuck(here));
            }
        }
    }

    fn stuck(&self, at: u64) -> Error {
        Error::ReplayStands {
            name: self.name().to_owned(),
            at,
        }
    }
}

impl Replay {
    /// Goes on from a stop to the next one of the debugger, which is given with its instruction; `None` at the end. `look` is
    /// called some times a second.
    ///
    /// # Errors
    /// When it gets no further.
    pub fn next(
        &mut self,
        from: Option<crate::Stop>,
        look: &dyn Fn(),
    ) -> Result<Option<(crate::Stop, u64)>> {
        let position = self.machine.position()?.instruction;
        if position >= self.to {
            return Ok(None);
        }
        self.debugger.run(from)?;
        loop {
            look();
            match self.debugger.wait(Duration::from_millis(20))? {
                Some(stop) => {
                    let here = self.machine.position()?.instruction;
                    if stop.breakpoint {
                        return Ok(Some((stop, here)));
                    }
                    if here >= self.to {
                        return Ok(None);
                    }
                    return Err(self.machine.stuck(here));
                }
                None if self.got.1.elapsed() > LOOK_FAR => {
                    let here = self.machine.position()?.instruction;
                    if here > self.got.0 {
                        self.got = (here, Instant::now());
                    } else if self.got.1.elapsed() > STANDS {
                        return Err(self.machine.stuck(here));
                    }
                }
                None => {}
            }
        }
    }
}
