//! QEMU's control socket: typed commands by the `qapi` crate, with a bound on every wait and every answer.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::Flock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use qapi::qmp;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{Error, Result};
use crate::{holder, paths, unix};

/// The longest answer taken; `info mtree -f` of a big machine is some 50 KB.
const LONGEST: usize = 4 << 20;
/// Time limit for another command of ours on the socket.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time limit for QEMU's greeting; it does not greet a client while it has another.
const GREETING: Duration = Duration::from_secs(5);
/// Time that one and the same client may have the socket before that is said: a command has it for some milliseconds, on a
/// busy host for longer.
const TAKEN: Duration = Duration::from_secs(1);
/// Time limit for a machine's state to be written.
const SAVING: Duration = Duration::from_secs(120);
/// Interval between two looks at its holder.
const LOOK: Duration = Duration::from_millis(50);

/// One client of QEMU's control socket; QEMU serves one at a time, so it is held under a lock and briefly.
#[allow(missing_debug_implementations)] // `qapi::Qmp` has none.
pub(crate) struct Qmp {
    inner: qapi::Qmp<Lines>,
    _lock: Flock<File>,
}

impl Qmp {
    /// Connects to `qmp` in a guest's run folder.
    pub(crate) fn connect(folder: &Path) -> Result<Self> {
        Self::connect_within(folder, PATIENCE)
    }

    /// Connects, waiting at most `patience` for other commands of ours, and as long for QEMU's greeting.
    pub(crate) fn connect_within(folder: &Path, patience: Duration) -> Result<Self> {
        let path = folder.join("qmp");
        let real = || std::fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        let lock =
            paths::lock(&folder.join("qmp.lock"), patience)?.ok_or_else(|| busy(folder, real()))?;
        let until = Instant::now() + patience.min(GREETING);
        let stream = match unix::connect(&path, patience.min(TAKEN)) {
            Ok(stream) => stream,
            // Its queue is full.
            Err(error) if is_timeout(&error) => return Err(busy(folder, real())),
            Err(error) => {
                return Err(Error::NoQmp {
                    path: real(),
                    why: error.to_string(),
                });
            }
        };
        if !greeted(&stream, &real(), until) {
            return Err(busy(folder, real()));
        }
        let mut inner = qapi::Qmp::new(Lines {
            stream,
            read: Vec::new(),
            at: 0,
            end: 0,
            until: Instant::now() + GREETING,
        });
        match inner.handshake() {
            Ok(_) => Ok(Self { inner, _lock: lock }),
            // No greeting: QEMU has another client, one that is not ours.
            Err(qapi::ExecuteError::Io(error)) if is_timeout(&error) => Err(busy(folder, real())),
            Err(error) => Err(Error::NoQmp {
                path: real(),
                why: match &error {
                    qapi::ExecuteError::Io(error)
                        if error.kind() == io::ErrorKind::UnexpectedEof =>
                    {
                        "it hung up".to_owned()
                    }
                    other => other.to_string(),
                },
            }),
        }
    }

    /// The process at the other end, which called `listen` on the socket (unix(7), `SO_PEERCRED`); `None` for one of
    /// another pid namespace.
    pub(crate) fn peer(&mut self) -> Result<Option<u32>> {
        let stream = &self.inner.inner_mut().stream;
        let credentials = getsockopt(stream, PeerCredentials).map_err(|errno| Error::Qmp {
            command: "SO_PEERCRED".to_owned(),
            why: errno.to_string(),
        })?;
        Ok(u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 0))
    }

    /// Runs a command, waiting at most `patience` for its answer.
    fn run<C: qapi::Command>(&mut self, command: &C, patience: Duration) -> Result<C::Ok> {
        self.inner.inner_mut().until = Instant::now() + patience;
        self.inner.execute(command).map_err(|error| {
            let why = match &error {
                qapi::ExecuteError::Io(error) if is_timeout(error) => {
                    format!("no answer in {} s", patience.as_secs())
                }
                qapi::ExecuteError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    "QEMU ended".to_owned()
                }
                other => other.to_string(),
            };
            Error::Qmp {
                command: C::NAME.to_owned(),
                why,
            }
        })
    }

    /// `query-status`.
    pub(crate) fn status(&mut self) -> Result<qmp::RunState> {
        Ok(self
            .run(&qmp::query_status {}, Duration::from_secs(5))?
            .status)
    }

    /// `stop`: the CPUs stand still when it returns.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.run(&qmp::stop {}, Duration::from_secs(10)).map(drop)
    }

    /// `cont`.
    pub(crate) fn cont(&mut self) -> Result<()> {
        self.run(&qmp::cont {}, Duration::from_secs(10)).map(drop)
    }

    /// `query-replay`: how many instructions were executed since the boot; `None` where nothing is recorded.
    pub(crate) fn instruction(&mut self) -> Result<Option<u64>> {
        let replay = self.run(&qmp::query_replay {}, Duration::from_secs(5))?;
        let mode = replay.mode;
        Ok((mode != qmp::ReplayMode::none).then_some(u64::try_from(replay.icount).unwrap_or(0)))
    }

    /// Tells whether it writes a record.
    pub(crate) fn records(&mut self) -> Result<bool> {
        let replay = self.run(&qmp::query_replay {}, Duration::from_secs(5))?;
        Ok(replay.mode == qmp::ReplayMode::record)
    }

    /// `replay-break`: a replay stops before it executes more instructions.
    pub(crate) fn replay_break(&mut self, instruction: u64) -> Result<()> {
        let icount = i64::try_from(instruction).unwrap_or(i64::MAX);
        self.run(&qmp::replay_break { icount }, Duration::from_secs(5))
            .map(drop)
    }

    /// `replay-delete-break`; nothing where there is none.
    pub(crate) fn no_replay_break(&mut self) {
        let _ = self.run(&qmp::replay_delete_break {}, Duration::from_secs(5));
    }

    /// The names of the memory backends (`query-memdev`): of the machine's RAM, and of nothing else.
    pub(crate) fn memory_backends(&mut self) -> Result<Vec<String>> {
        let all = self.run(&qmp::query_memdev {}, Duration::from_secs(5))?;
        Ok(all.into_iter().filter_map(|backend| backend.id).collect())
    }

    /// Number of CPUs.
    pub(crate) fn cpus(&mut self) -> Result<u32> {
        let all = self.run(&qmp::query_cpus_fast {}, Duration::from_secs(5))?;
        Ok(u32::try_from(all.len()).unwrap_or(u32::MAX))
    }

    /// Tells whether KVM runs them.
    pub(crate) fn kvm(&mut self) -> Result<bool> {
        Ok(self
            .run(&qmp::query_kvm {}, Duration::from_secs(5))?
            .enabled)
    }

    /// `quit`; QEMU may end before it answers.
    pub(crate) fn quit(&mut self) {
        let _ = self.run(&qmp::quit {}, Duration::from_secs(5));
    }

    /// A command of the human monitor, its text.
    pub(crate) fn human(&mut self, line: &str) -> Result<String> {
        let command = qmp::human_monitor_command {
            cpu_index: None,
            command_line: line.to_owned(),
        };
        self.run(&command, Duration::from_secs(10))
    }

    /// Saves the machine with its RAM, under a name, on the one disk that can hold that; it stands still meanwhile.
    pub(crate) fn save(&mut self, name: &str) -> Result<()> {
        let command_line = format!("savevm {name}");
        let command = qmp::human_monitor_command {
            cpu_index: None,
            command_line: command_line.clone(),
        };
        // It is silent if all went well.
        match self.run(&command, SAVING)?.trim() {
            "" => Ok(()),
            why => Err(Error::Qmp {
                command: command_line,
                why: why.to_owned(),
            }),
        }
    }

    /// Leaves RAM that is shared with us out of migration: it is in its file already.
    fn ignore_shared(&mut self) -> Result<()> {
        let capability = qmp::MigrationCapability::x_ignore_shared;
        let capabilities = vec![qmp::MigrationCapabilityStatus {
            capability,
            state: true,
        }];
        self.run(
            &qmp::migrate_set_capabilities { capabilities },
            Duration::from_secs(5),
        )
        .map(drop)
    }

    /// Sends the device state to the Unix socket `to`.
    pub(crate) fn migrate(&mut self, to: &Path) -> Result<()> {
        self.ignore_shared()?;
        let uri = Some(format!("unix:{}", to.display()));
        self.run(
            &qmp::migrate {
                uri,
                channels: None,
                detach: None,
                resume: None,
            },
            Duration::from_secs(10),
        )
        .map(drop)
    }

    /// Makes QEMU (started with `-incoming defer`) listen for a device state on the Unix socket `at`.
    pub(crate) fn migrate_incoming(&mut self, at: &Path) -> Result<()> {
        self.ignore_shared()?;
        let uri = Some(format!("unix:{}", at.display()));
        let command = qmp::migrate_incoming {
            uri,
            channels: None,
            exit_on_error: None,
        };
        self.run(&command, Duration::from_secs(10)).map(drop)
    }

    /// Waits until a migration is over.
    pub(crate) fn migrated(&mut self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let info = self.run(&qmp::query_migrate {}, Duration::from_secs(10))?;
            match info.status {
                Some(qmp::MigrationStatus::completed) => return Ok(()),
                Some(qmp::MigrationStatus::failed | qmp::MigrationStatus::cancelled) => {
                    let why = info
                        .error_desc
                        .unwrap_or_else(|| "the migration failed".to_owned());
                    return Err(Error::Qmp {
                        command: "migrate".to_owned(),
                        why,
                    });
                }
                _ if Instant::now() > until => {
                    return Err(Error::Qmp {
                        command: "migrate".to_owned(),
                        why: "it does not end".to_owned(),
                    });
                }
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

/// Tells whether something has come from QEMU by then. One that has another client greets nobody: that is not waited
/// for, once the kernel says that the same one has it for longer than a command of ours takes.
fn greeted(stream: &UnixStream, path: &Path, until: Instant) -> bool {
    let began = Instant::now();
    let mut before = None;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let wait = PollTimeout::try_from(left.min(LOOK)).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, wait) {
            Ok(0) | Err(nix::Error::EINTR) => {}
            // The handshake says what is wrong.
            Ok(_) | Err(_) => return true,
        }
        let now = holder::clients(path).filter(|clients| !clients.is_empty());
        if now.is_some() && now == before && began.elapsed() >= TAKEN {
            return false;
        }
        before = now;
    }
}

/// The sentence about a socket that another client has.
fn busy(folder: &Path, path: PathBuf) -> Error {
    let clients = holder::clients(&path).unwrap_or_default();
    let holders = clients.into_iter().filter_map(holder::process_of).collect();
    let own = folder.join("qmp2");
    let cure = if own.exists() && !path.ends_with("qmp2") {
        format!("{} is there for other programs", own.display())
    } else {
        "QEMU serves one at a time, so start it with a second `-qmp unix:PATH,server=on,wait=off` for klab, or try again \
         when that client has left"
            .to_owned()
    };
    Error::Busy {
        path,
        holders,
        cure,
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// The socket as lines without events: `qapi` fails on an event that its QEMU did not know, waits without an
/// end, takes answers of any length and panics at the end of the stream.
struct Lines {
    stream: UnixStream,
    /// Bytes that were read; `at..end` is the line that is being given out.
    read: Vec<u8>,
    at: usize,
    end: usize,
    until: Instant,
}

#[derive(Deserialize)]
struct Message {
    event: Option<IgnoredAny>,
}

impl Lines {
    fn next(&mut self) -> io::Result<()> {
        loop {
            self.read.drain(..self.end);
            (self.at, self.end) = (0, 0);
            while !self.read.contains(&b'\n') {
                let left = self.until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                if self.read.len() > LONGEST {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the answer is too long",
                    ));
                }
                self.stream.set_read_timeout(Some(left))?;
                let mut some = [0; 4096];
                match self.stream.read(&mut some)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    len => self.read.extend_from_slice(&some[..len]),
                }
            }
            self.end = self
                .read
                .iter()
                .position(|&byte| byte == b'\n')
                .map_or(0, |at| at + 1);
            let event = serde_json::from_slice::<Message>(&self.read[..self.end])
                .is_ok_and(|message| message.event.is_some());
            if !event {
                return Ok(());
            }
        }
    }
}

impl Read for Lines {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let len = from.len().min(to.len());
        to[..len].copy_from_slice(&from[..len]);
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for Lines {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.end {
            self.next()?;
        }
        Ok(&self.read[self.at..self.end])
    }

    fn consume(&mut self, len: usize) {
        self.at = self.at.saturating_add(len).min(self.end);
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        self.stream
            .set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(bytes: &[u8]) -> (tempfile::TempDir, std::thread::JoinHandle<()>) {
        let folder = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(folder.path().join("qmp")).unwrap();
        let bytes = bytes.to_vec();
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&bytes).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_millis(50)))
                .unwrap();
            let _ = stream.read(&mut [0; 4096]);
            std::thread::sleep(Duration::from_millis(50));
        });
        (folder, served)
    }

    const HELLO: &[u8] =
        br#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 99}, "package": ""}, "capabilities": []}}"#;

    #[test]
    fn unknown_events_are_passed_over() {
        let event = b"\n{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"FROM_THE_FUTURE\", \"data\": {}}\n";
        let rest =
            b"{\"return\": {}}\n{\"return\": {\"status\": \"paused\", \"running\": false}}\n";
        let (folder, served) = answers(&[HELLO, event, rest].concat());
        assert_eq!(
            Qmp::connect(folder.path()).unwrap().status().unwrap(),
            qmp::RunState::paused
        );
        served.join().unwrap();
    }

    #[test]
    fn an_end_and_nonsense_are_errors() {
        for bytes in [&b""[..], b"\xff\xff\n", b"{}\n", HELLO] {
            let (folder, served) = answers(bytes);
            assert!(Qmp::connect(folder.path()).is_err());
            served.join().unwrap();
        }
    }
}
