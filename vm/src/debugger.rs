//! QEMU's gdbstub: stops the guest where one of its CPUs reaches an address, or has written to one.
//!
//! It speaks only as much of the remote serial protocol as that needs. Its breakpoints are in QEMU (the translator's, or the
//! processor's own under KVM): nothing is written into the guest. QEMU keeps them when its client dies, so the client stands in
//! the record of the processes that stop the guest, and its breakpoints are taken away when it is gone.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::Flock;

use crate::error::{At, Error, Result};
use crate::lease::{self, Stopper, book::clear};
use crate::paths;
use crate::rsp::{Rsp, Stream, packet};
use klab_facts::Registers;

/// The longest packet: the registers of one CPU are 1 KiB.
const LONGEST: usize = 64 << 10;
/// Time limit for QEMU's answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time limit for a running guest to stop.
const STOPS: Duration = Duration::from_secs(2);
/// Steps after which a CPU whose registers are the same stands in an instruction that changes none: one that jumps to itself.
const STEPS: u32 = 3;
/// Byte that asks the stub to stop the guest.
const BREAK: u8 = 3;
/// `GDB_SIGNAL_TRAP`: a breakpoint, or one step.
const TRAP: u8 = 5;
/// In the gdbstub's order, which is gdb's, where in `struct user_regs_struct` each register is, and its bytes: `rax`, `rbx`, `rcx`,
/// `rdx`, `rsi`, `rdi`, `rbp`, `rsp`, `r8` to `r15`, `rip`, `eflags`, `cs`, `ss`, `ds`, `es`, `fs`, `gs`, the bases of the last two
/// (`x86_cpu_gdb_read_register()`, target/i386/gdbstub.c@v7.2.0).
const ORDER: [(usize, usize); 26] = [
    (10, 8),
    (5, 8),
    (11, 8),
    (12, 8),
    (13, 8),
    (14, 8),
    (4, 8),
    (19, 8),
    (9, 8),
    (8, 8),
    (7, 8),
    (6, 8),
    (3, 8),
    (2, 8),
    (1, 8),
    (0, 8),
    (16, 8),
    (18, 4),
    (17, 4),
    (20, 4),
    (23, 4),
    (24, 4),
    (25, 4),
    (26, 4),
    (21, 8),
    (22, 8),
];

/// Place at which the guest stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// Number of the CPU that reached the breakpoint.
    pub cpu: u32,
    /// True if it was a breakpoint or a watchpoint, and not somebody else's pause.
    pub breakpoint: bool,
    /// The watchpoint that was written to, by its address. The instruction that did it is executed.
    pub watch: Option<u64>,
}

/// The one client of a guest's gdbstub. Dropped, it takes its breakpoints away and lets the guest run.
#[derive(Debug)]
pub struct Debugger {
    rsp: Rsp,
    runs: bool,
    /// True if the guest is to run when this ends.
    ran: bool,
    stopper: Stopper,
    /// Held for its life.
    _lock: Flock<File>,
}

impl Debugger {
    /// Connects to the gdbstub at `address` of the guest in `folder`.
    pub(crate) fn attach(folder: &Path, guest: &str, address: &str) -> Result<Self> {
        Self::connect(folder, address, taken(folder, guest)?, true)
    }

    /// The same of a replay, which stands when nobody lets it run.
    pub(crate) fn attach_replay(folder: &Path, guest: &str, address: &str) -> Result<Self> {
        Self::connect(folder, address, taken(folder, guest)?, false)
    }

    /// Connecting stops the guest; it runs again in the end, if it `ran`.
    fn connect(folder: &Path, address: &str, lock: Flock<File>, ran: bool) -> Result<Self> {
        let stopper = Stopper::begin(folder, address, ran)?;
        let stream = match Stream::connect(address) {
            Ok(stream) => stream,
            Err(error) => {
                // The first error is the one to tell.
                let _ = stopper.end(|_| Ok(()));
                return Err(error).at("connect to", Path::new(address));
            }
        };
        let mut debugger = Self {
            rsp: Rsp::new(stream, LONGEST),
            runs: false,
            ran,
            stopper,
            _lock: lock,
        };
        // Why it stands; a gdbstub that is asked takes all breakpoints away. Before that it may say that it stopped.
        debugger.send("?")?;
        while debugger
            .stop(PATIENCE)?
            .is_some_and(|stop| !stop.breakpoint)
        {}
        Ok(debugger)
    }

    /// Stops the guest whenever a CPU is about to execute the instruction at an address.
    ///
    /// # Errors
    /// When QEMU refuses: a processor has few breakpoints.
    pub fn set(&mut self, address: u64) -> Result<()> {
        self.done(&format!("Z1,{address:x},1"))
    }

    /// Takes such a breakpoint away.
    ///
    /// # Errors
    /// When there is none.
    pub fn unset(&mut self, address: u64) -> Result<()> {
        self.done(&format!("z1,{address:x},1"))
    }

    /// Stops the guest whenever a CPU has written to one of `len` bytes from a virtual address on. A write by another address
    /// of the same memory is not seen, nor is one of a device.
    ///
    /// # Errors
    /// When QEMU refuses: a processor (KVM) has four, of 1, 2, 4 or 8 bytes each.
    pub fn watch(&mut self, address: u64, len: u64) -> Result<()> {
        self.done(&format!("Z2,{address:x},{len:x}"))
    }

    /// Takes such a watchpoint away.
    ///
    /// # Errors
    /// When there is none.
    pub fn unwatch(&mut self, address: u64, len: u64) -> Result<()> {
        self.done(&format!("z2,{address:x},{len:x}"))
    }

    /// Executes one instruction of a CPU, for which its breakpoints do not count and no interrupt comes; the others stand.
    ///
    /// # Errors
    /// When QEMU does not answer, or somebody holds the guest for longer than a minute.
    pub fn step(&mut self, cpu: u32) -> Result<Stop> {
        let Self { rsp, stopper, .. } = self;
        stopper.run(|| step(rsp, cpu))
    }

    /// Lets the guest run, once nobody else holds it. A CPU that stands at a breakpoint passes it.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn run(&mut self, from: Option<Stop>) -> Result<()> {
        let Self { rsp, stopper, .. } = self;
        stopper.run(|| {
            // After a write the instruction is over.
            if let Some(stop) = from.filter(|stop| stop.breakpoint && stop.watch.is_none()) {
                step(rsp, stop.cpu)?;
            }
            send(rsp, "c")
        })?;
        self.runs = true;
        Ok(())
    }

    /// Tells whether QEMU is still there, of a guest that stands.
    ///
    /// # Errors
    /// When it has ended: the guest was reset, or taken down.
    pub fn check(&mut self) -> Result<()> {
        packet_of(&mut self.rsp, Duration::ZERO).map(drop)
    }

    /// Stops the guest where it is; a breakpoint that is met at that moment is told instead.
    ///
    /// # Errors
    /// When QEMU does not answer, or the guest does not stop in 2 seconds.
    pub fn interrupt(&mut self) -> Result<Stop> {
        let Self { rsp, stopper, .. } = self;
        let stop = stopper.run(|| {
            rsp.send(&[BREAK]).map_err(failed)?;
            stop_of(rsp, STOPS)
        })?;
        self.runs = false;
        stop.ok_or_else(|| Error::Debugger("the guest does not stop".to_owned()))
    }

    /// Notes for all other programs whether the guest stays where it has stopped, until [`run`](Self::run) or the end of this.
    ///
    /// # Errors
    /// When the record in the run folder cannot be written.
    pub fn stays(&mut self, stays: bool) -> Result<()> {
        self.stopper.stays(stays)
    }

    /// Waits for the guest to stop; `None` when it does not within `patience`.
    ///
    /// # Errors
    /// When QEMU ends, as it does when the guest is reset.
    pub fn wait(&mut self, patience: Duration) -> Result<Option<Stop>> {
        let stop = self.stop(patience)?;
        // After another's pause it goes on by itself.
        self.runs = self.runs && !stop.is_some_and(|stop| stop.breakpoint);
        Ok(stop)
    }

    /// The registers of a CPU, while the guest stands.
    ///
    /// # Errors
    /// When QEMU does not tell.
    pub fn registers(&mut self, cpu: u32) -> Result<Registers> {
        let text = words_of(&mut self.rsp, cpu)?;
        registers_of(cpu, &text).ok_or_else(|| Error::Debugger("it gives no registers".to_owned()))
    }

    fn done(&mut self, packet: &str) -> Result<()> {
        done(&mut self.rsp, packet)
    }

    fn stop(&mut self, patience: Duration) -> Result<Option<Stop>> {
        stop_of(&mut self.rsp, patience)
    }

    fn send(&mut self, data: &str) -> Result<()> {
        send(&mut self.rsp, data)
    }
}

/// The lock of the gdbstub, which serves one client.
fn taken(folder: &Path, guest: &str) -> Result<Flock<File>> {
    let lock = paths::lock(&lease::home(folder).join("gdb.lock"), Duration::ZERO)?;
    lock.ok_or_else(|| Error::DebuggerTaken(guest.to_owned()))
}

/// The registers in a gdbstub's answer, each as its bytes lie in memory, two digits a byte.
fn registers_of(cpu: u32, text: &str) -> Option<Registers> {
    let mut words = [0; Registers::USER];
    let mut at = 0;
    for (slot, bytes) in ORDER {
        words[slot] = word(text, at, bytes)?;
        at += bytes * 2;
    }
    // `k_gs_base`, `cr0` and `cr2` come between.
    let cr3 = word(text, at + 3 * 16, 8);
    Some(Registers {
        cr3,
        ..Registers::from_user(cpu, &words)
    })
}

fn word(text: &str, at: usize, bytes: usize) -> Option<u64> {
    let digits = text.get(at..at + bytes * 2)?;
    let word = u64::from_str_radix(digits, 16).ok()?.swap_bytes();
    Some(word >> (64 - bytes * 8))
}

/// One step of a CPU; the others stand. Where two CPUs have stopped at once, what the second one asked for may stop the guest
/// again before anything was executed (`debug_requested` stays set over `vm_stop()`, softmmu/runstate.c@v7.2.0): then the CPU's
/// registers are as they were, and it is asked for its step once more.
fn step(rsp: &mut Rsp, cpu: u32) -> Result<Stop> {
    let ends = || Error::Debugger("a step does not end".to_owned());
    let before = words_of(rsp, cpu)?;
    let mut steps = 0;
    loop {
        send(rsp, &format!("vCont;s:{:x}", cpu + 1))?;
        let stop = stop_of(rsp, PATIENCE)?.ok_or_else(ends)?;
        steps += 1;
        if steps == STEPS || stop.watch.is_some() || words_of(rsp, cpu)? != before {
            return Ok(stop);
        }
    }
}

/// The gdbstub's text of a CPU's registers. A stop makes the CPU that stopped the one that is asked: it is named anew.
fn words_of(rsp: &mut Rsp, cpu: u32) -> Result<String> {
    done(rsp, &format!("Hg{:x}", cpu + 1))?;
    ask(rsp, "g")
}

/// The next stop reply: `T05thread:01;`, `T05thread:02;watch:ffffffff8115d020;`.
fn stop_of(rsp: &mut Rsp, patience: Duration) -> Result<Option<Stop>> {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Some(packet) = packet_of(rsp, left)? else {
            return Ok(None);
        };
        let signal = packet
            .strip_prefix(['T', 'S'])
            .and_then(|rest| u8::from_str_radix(rest.get(..2)?, 16).ok());
        let thread = packet
            .split_once("thread:")
            .and_then(|(_, rest)| u32::from_str_radix(rest.split([';', '.']).next()?, 16).ok());
        if let Some(signal) = signal {
            let watch = packet
                .split_once("watch:")
                .and_then(|(_, rest)| u64::from_str_radix(rest.split(';').next()?, 16).ok());
            return Ok(Some(Stop {
                cpu: thread.unwrap_or(1).saturating_sub(1),
                breakpoint: signal == TRAP,
                watch,
            }));
        }
        if packet.starts_with(['W', 'X']) {
            return Err(Error::Debugger("the guest ended".to_owned()));
        }
    }
}

fn done(rsp: &mut Rsp, packet: &str) -> Result<()> {
    match ask(rsp, packet)?.as_str() {
        "OK" => Ok(()),
        other => Err(Error::Debugger(format!("`{packet}` gives `{other}`"))),
    }
}

fn ask(rsp: &mut Rsp, packet: &str) -> Result<String> {
    send(rsp, packet)?;
    packet_of(rsp, PATIENCE)?.ok_or_else(|| Error::Debugger(format!("no answer to `{packet}`")))
}

fn send(rsp: &mut Rsp, data: &str) -> Result<()> {
    rsp.send(packet(data).as_bytes()).map_err(failed)
}

/// The next packet, acknowledged, since a break would be taken for the acknowledgement; `None` when none comes within
/// `patience`.
fn packet_of(rsp: &mut Rsp, patience: Duration) -> Result<Option<String>> {
    let got = rsp.packet(Instant::now() + patience).map_err(failed)?;
    if got.is_some() {
        rsp.send(b"+").map_err(failed)?;
    }
    Ok(got.map(|data| String::from_utf8_lossy(&data).into_owned()))
}

fn failed(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => gone(),
        _ => Error::Debugger(error.to_string()),
    }
}

fn gone() -> Error {
    Error::Debugger("QEMU ended: the guest was reset or taken down".to_owned())
}

impl Drop for Debugger {
    fn drop(&mut self) {
        let Self {
            rsp,
            runs,
            ran,
            stopper,
            ..
        } = self;
        // Else QEMU is gone, or the keeper does it.
        let _ = stopper.end(|go_on| {
            if *runs {
                rsp.send(&[BREAK]).map_err(failed)?;
                // One that another has paused does not say that it stops.
                stop_of(rsp, STOPS)?;
            }
            // Both take the breakpoints away; the first lets the guest run.
            if go_on && *ran {
                send(rsp, "D")?;
                packet_of(rsp, PATIENCE).map(drop)
            } else {
                clear(&mut |packet, answer| rsp.ask(packet, answer)).map_err(failed)
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A gdbstub that gives these answers, each to one packet; what stands between `$` and `#` is made a packet.
    fn stub(answers: &'static [&'static str]) -> (tempfile::TempDir, std::thread::JoinHandle<()>) {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("gdb")).unwrap();
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                let mut some = [0; 256];
                while !some.contains(&b'#') && !some.contains(&BREAK) {
                    if stream.read(&mut some).unwrap_or(0) == 0 {
                        return;
                    }
                }
                let parts = answer.split('#').map(|part| match part.split_once('$') {
                    Some((before, data)) => format!("{before}{}", packet(data)),
                    None => part.to_owned(),
                });
                let _ = stream.write_all(parts.collect::<String>().as_bytes());
            }
            // The last acknowledgement.
            let _ = stream.read(&mut [0; 256]);
        });
        (folder, served)
    }

    fn attach(folder: &Path) -> Result<Debugger> {
        Debugger::attach(folder, "x", &folder.join("gdb").to_string_lossy())
    }

    #[test]
    fn a_breakpoint_is_set_met_and_taken_away() {
        let (folder, served) = stub(&[
            "+$T02thread:01;#$T05thread:01;#",
            "+$OK#",
            "+",
            "$T05thread:02;#",
            "+$OK#",
        ]);
        let mut debugger = attach(folder.path()).unwrap();
        assert!(matches!(
            attach(folder.path()),
            Err(Error::DebuggerTaken(_))
        ));
        assert!(folder.path().join("holds").exists());
        debugger.set(0xffff_ffff_8100_0000).unwrap();
        debugger.run(None).unwrap();
        assert_eq!(debugger.wait(Duration::from_millis(20)).unwrap(), None);
        drop(debugger);
        served.join().unwrap();
        assert!(!folder.path().join("holds").exists());
    }

    #[test]
    fn nonsense_and_an_end_are_errors() {
        for answers in [&["+$T05#"][..], &["+$T05#", "+$E22#"], &["$xx#"]] {
            let (folder, served) = stub(answers);
            if let Ok(mut debugger) = attach(folder.path()) {
                assert!(debugger.set(1).is_err());
            }
            served.join().unwrap();
        }
    }

    #[test]
    fn a_write_is_told_with_its_watchpoint() {
        let (folder, served) = stub(&[
            "+$T05thread:01;#",
            "+$OK#",
            "+$T05thread:02;watch:ffffffff8115d020;#",
            "+$OK#",
            "+$9c20005181ffffff#",
            // Another CPU's stop: nothing was executed, and the step is asked for again.
            "+$T05thread:01;#",
            "+$OK#",
            "+$9c20005181ffffff#",
            "+$T05thread:02;#",
            "+$OK#",
            "+$9d20005181ffffff#",
            "+$OK#",
        ]);
        let mut debugger = attach(folder.path()).unwrap();
        debugger.watch(0xffff_ffff_8115_d020, 4).unwrap();
        debugger.run(None).unwrap();
        let stop = debugger.wait(PATIENCE).unwrap().unwrap();
        assert_eq!((stop.cpu, stop.watch), (1, Some(0xffff_ffff_8115_d020)));
        assert_eq!(debugger.step(1).unwrap().watch, None);
        drop(debugger);
        served.join().unwrap();
    }

    #[test]
    fn every_register_is_at_its_place() {
        let mut text = String::new();
        for (index, (_, bytes)) in ORDER.into_iter().enumerate() {
            let word = index as u64 + 1;
            text.push_str(&format!("{:016x}", word.swap_bytes())[..bytes * 2]);
        }
        for word in [0, 0, 0, 7_u64] {
            text.push_str(&format!("{:016x}", word.swap_bytes()));
        }
        let is = registers_of(1, &text).unwrap();
        assert_eq!((is.rax, is.rip, is.rflags, is.cs), (1, 17, 18, 19));
        assert_eq!(
            (is.gs, is.fs_base, is.gs_base, is.cr3),
            (24, 25, 26, Some(7))
        );
        assert_eq!(registers_of(1, &text[..300]), None);
    }
}
