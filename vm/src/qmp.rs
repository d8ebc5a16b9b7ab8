//! QEMU's control socket: the commands that klab gives, as JSON lines (`docs/interop/qmp-spec.rst` of QEMU), with a bound on
//! every wait and every answer. What an answer has beyond what is asked for, and an event, is passed over.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::Flock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

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
/// Time limit for the answer to a question.
const QUERY: Duration = Duration::from_secs(5);
/// Time limit for the answer to a command.
const COMMAND: Duration = Duration::from_secs(10);
/// Time limit for a machine's state to be written.
const SAVING: Duration = Duration::from_secs(120);
/// Interval between two looks at its holder.
const LOOK: Duration = Duration::from_millis(50);

/// State of a machine (`RunState` of QEMU's `qapi/run-state.json`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RunState {
    Running,
    Paused,
    Debug,
    Prelaunch,
    Inmigrate,
    Postmigrate,
    RestoreVm,
    Shutdown,
    Suspended,
    GuestPanicked,
    InternalError,
    IoError,
    Watchdog,
    Colo,
    /// One in which the CPUs stand still for some other reason.
    #[serde(other)]
    Other,
}

impl RunState {
    /// The state in plain words.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Debug => "debug",
            Self::Prelaunch => "prelaunch",
            Self::Inmigrate => "inmigrate",
            Self::Postmigrate => "postmigrate",
            Self::RestoreVm => "restore vm",
            Self::Shutdown => "shutdown",
            Self::Suspended => "suspended",
            Self::GuestPanicked => "guest panicked",
            Self::InternalError => "internal error",
            Self::IoError => "io error",
            Self::Watchdog => "watchdog",
            Self::Colo => "colo",
            Self::Other => "standing still",
        }
    }
}

/// One client of QEMU's control socket; QEMU serves one at a time, so it is held under a lock and briefly.
#[derive(Debug)]
pub(crate) struct Qmp {
    lines: Lines,
    _lock: Flock<File>,
}

/// The answer to a command.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer<T> {
    Return(T),
    Error { desc: String },
}

#[derive(Deserialize)]
struct Greeting {
    #[serde(rename = "QMP")]
    _qmp: IgnoredAny,
}

#[derive(Deserialize)]
struct StatusInfo {
    status: RunState,
}

/// `ReplayInfo` of `qapi/replay.json`.
#[derive(Deserialize)]
struct ReplayInfo {
    mode: String,
    icount: i64,
}

#[derive(Deserialize)]
struct Memdev {
    id: Option<String>,
}

#[derive(Deserialize)]
struct KvmInfo {
    enabled: bool,
}

/// `MigrationInfo` of `qapi/migration.json`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MigrationInfo {
    status: Option<String>,
    error_desc: Option<String>,
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
        let lines = Lines {
            stream,
            read: Vec::new(),
            end: 0,
            until: Instant::now() + GREETING,
        };
        let mut qmp = Self { lines, _lock: lock };
        match qmp.handshake() {
            Ok(()) => Ok(qmp),
            // No greeting: QEMU has another client, one that is not ours.
            Err(error) if is_timeout(&error) => Err(busy(folder, real())),
            Err(error) => Err(Error::NoQmp {
                path: real(),
                why: match error.kind() {
                    io::ErrorKind::UnexpectedEof => "it hung up".to_owned(),
                    _ => error.to_string(),
                },
            }),
        }
    }

    fn handshake(&mut self) -> io::Result<()> {
        serde_json::from_slice::<Greeting>(self.lines.next()?)?;
        self.ask::<IgnoredAny>("qmp_capabilities", &Value::Null)?
            .map(drop)
            .map_err(io::Error::other)
    }

    /// Gives a command and takes its answer: a value, or what QEMU says against it.
    fn ask<T: DeserializeOwned>(
        &mut self,
        command: &str,
        arguments: &Value,
    ) -> io::Result<Result<T, String>> {
        let mut line = json!({ "execute": command });
        if !arguments.is_null() {
            line["arguments"] = arguments.clone();
        }
        self.lines.write(format!("{line}\n").as_bytes())?;
        Ok(match serde_json::from_slice(self.lines.next()?)? {
            Answer::Return(value) => Ok(value),
            Answer::Error { desc } => Err(desc),
        })
    }

    /// The process at the other end, which called `listen` on the socket (unix(7), `SO_PEERCRED`); `None` for one of
    /// another pid namespace.
    pub(crate) fn peer(&mut self) -> Result<Option<u32>> {
        let stream = &self.lines.stream;
        let credentials = getsockopt(stream, PeerCredentials).map_err(|errno| Error::Qmp {
            command: "SO_PEERCRED".to_owned(),
            why: errno.to_string(),
        })?;
        Ok(u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 0))
    }

    /// Runs a command, waiting at most `patience` for its answer.
    fn run<T: DeserializeOwned>(
        &mut self,
        command: &str,
        arguments: &Value,
        patience: Duration,
    ) -> Result<T> {
        self.lines.until = Instant::now() + patience;
        let why = match self.ask(command, arguments) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(why)) => why,
            Err(error) if is_timeout(&error) => format!("no answer in {} s", patience.as_secs()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => "QEMU ended".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(Error::Qmp {
            command: command.to_owned(),
            why,
        })
    }

    /// Asks what takes no arguments.
    fn query<T: DeserializeOwned>(&mut self, command: &str) -> Result<T> {
        self.run(command, &Value::Null, QUERY)
    }

    /// Gives a command whose answer says nothing.
    fn tell(&mut self, command: &str, arguments: &Value) -> Result<()> {
        self.run::<IgnoredAny>(command, arguments, COMMAND)
            .map(drop)
    }

    /// `query-status`.
    pub(crate) fn status(&mut self) -> Result<RunState> {
        Ok(self.query::<StatusInfo>("query-status")?.status)
    }

    /// `stop`: the CPUs stand still when it returns.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.tell("stop", &Value::Null)
    }

    /// `cont`.
    pub(crate) fn cont(&mut self) -> Result<()> {
        self.tell("cont", &Value::Null)
    }

    /// `query-replay`: how many instructions were executed since the boot; `None` where nothing is recorded.
    pub(crate) fn instruction(&mut self) -> Result<Option<u64>> {
        let replay: ReplayInfo = self.query("query-replay")?;
        Ok((replay.mode != "none").then_some(u64::try_from(replay.icount).unwrap_or(0)))
    }

    /// Tells whether it writes a record.
    pub(crate) fn records(&mut self) -> Result<bool> {
        Ok(self.query::<ReplayInfo>("query-replay")?.mode == "record")
    }

    /// Has a record tell how many instructions were executed. QEMU writes that with the next thing that it records, but leaves
    /// it out with its own end (`replay_shutdown_request`, replay/replay.c@v7.2.0), behind which nothing is replayed. The host's
    /// clock is such a thing; the time of the guest's RTC rests on it.
    pub(crate) fn record_up_to_here(&mut self) -> Result<()> {
        let arguments = json!({ "path": "/machine", "property": "rtc-time" });
        self.tell("qom-get", &arguments)
    }

    /// `replay-break`: a replay stops before it executes more instructions.
    pub(crate) fn replay_break(&mut self, instruction: u64) -> Result<()> {
        let icount = i64::try_from(instruction).unwrap_or(i64::MAX);
        self.tell("replay-break", &json!({ "icount": icount }))
    }

    /// `replay-delete-break`; nothing where there is none.
    pub(crate) fn no_replay_break(&mut self) {
        let _ = self.tell("replay-delete-break", &Value::Null);
    }

    /// The names of the memory backends (`query-memdev`): of the machine's RAM, and of nothing else.
    pub(crate) fn memory_backends(&mut self) -> Result<Vec<String>> {
        let all: Vec<Memdev> = self.query("query-memdev")?;
        Ok(all.into_iter().filter_map(|backend| backend.id).collect())
    }

    /// Number of CPUs.
    pub(crate) fn cpus(&mut self) -> Result<u32> {
        let all: Vec<IgnoredAny> = self.query("query-cpus-fast")?;
        Ok(u32::try_from(all.len()).unwrap_or(u32::MAX))
    }

    /// Tells whether KVM runs them.
    pub(crate) fn kvm(&mut self) -> Result<bool> {
        Ok(self.query::<KvmInfo>("query-kvm")?.enabled)
    }

    /// `quit`; QEMU may end before it answers.
    pub(crate) fn quit(&mut self) {
        let _ = self.query::<IgnoredAny>("quit");
    }

    /// A command of the human monitor, its text.
    pub(crate) fn human(&mut self, line: &str) -> Result<String> {
        self.monitor(line, COMMAND)
    }

    fn monitor(&mut self, line: &str, patience: Duration) -> Result<String> {
        let arguments = json!({ "command-line": line });
        self.run("human-monitor-command", &arguments, patience)
    }

    /// Saves the machine with its RAM, under a name, on the one disk that can hold that; it stands still meanwhile.
    pub(crate) fn save(&mut self, name: &str) -> Result<()> {
        let command = format!("savevm {name}");
        // It is silent if all went well.
        match self.monitor(&command, SAVING)?.trim() {
            "" => Ok(()),
            why => Err(Error::Qmp {
                command,
                why: why.to_owned(),
            }),
        }
    }

    /// Leaves RAM that is shared with us out of migration: it is in its file already.
    fn ignore_shared(&mut self) -> Result<()> {
        let capability = json!({ "capability": "x-ignore-shared", "state": true });
        self.tell(
            "migrate-set-capabilities",
            &json!({ "capabilities": [capability] }),
        )
    }

    /// Ends a migration whose other end was killed: no other begins before.
    fn no_migration(&mut self) -> Result<()> {
        let until = Instant::now() + QUERY;
        let mut told = false;
        loop {
            let info: MigrationInfo = self.query("query-migrate")?;
            match info.status.as_deref() {
                None | Some("none" | "completed" | "failed" | "cancelled") => return Ok(()),
                // What it says is that it does not end.
                _ if Instant::now() > until => return Ok(()),
                _ if !told => {
                    self.tell("migrate_cancel", &Value::Null)?;
                    told = true;
                }
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Sends the device state to the Unix socket `to`.
    pub(crate) fn migrate(&mut self, to: &Path) -> Result<()> {
        self.no_migration()?;
        self.ignore_shared()?;
        let uri = format!("unix:{}", to.display());
        self.tell("migrate", &json!({ "uri": uri }))
    }

    /// Makes QEMU (started with `-incoming defer`) listen for a device state on the Unix socket `at`.
    pub(crate) fn migrate_incoming(&mut self, at: &Path) -> Result<()> {
        self.ignore_shared()?;
        let uri = format!("unix:{}", at.display());
        self.tell("migrate-incoming", &json!({ "uri": uri }))
    }

    /// Waits until a migration is over.
    pub(crate) fn migrated(&mut self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(30);
        let failed = |why: String| Error::Qmp {
            command: "migrate".to_owned(),
            why,
        };
        loop {
            let info: MigrationInfo = self.query("query-migrate")?;
            match info.status.as_deref() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    let why = info.error_desc;
                    return Err(failed(
                        why.unwrap_or_else(|| "the migration failed".to_owned()),
                    ));
                }
                _ if Instant::now() > until => return Err(failed("it does not end".to_owned())),
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

/// The socket as lines, without events.
#[derive(Debug)]
struct Lines {
    stream: UnixStream,
    /// Bytes that were read; up to `end` they are the line that was given out last.
    read: Vec<u8>,
    end: usize,
    until: Instant,
}

#[derive(Deserialize)]
struct Message {
    event: Option<IgnoredAny>,
}

impl Lines {
    /// The next line that is no event.
    fn next(&mut self) -> io::Result<&[u8]> {
        loop {
            self.read.drain(..self.end);
            self.end = 0;
            let mut looked = 0;
            self.end = loop {
                let fresh = self.read.get(looked..).unwrap_or_default();
                if let Some(at) = fresh.iter().position(|&byte| byte == b'\n') {
                    break looked + at + 1;
                }
                looked = self.read.len();
                if looked > LONGEST {
                    let why = "the answer is too long";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
                let left = self.left()?;
                self.stream.set_read_timeout(Some(left))?;
                let mut some = [0; 4096];
                match self.stream.read(&mut some)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    len => self.read.extend_from_slice(&some[..len]),
                }
            };
            let event = serde_json::from_slice::<Message>(&self.read[..self.end])
                .is_ok_and(|message| message.event.is_some());
            if !event {
                return Ok(&self.read[..self.end]);
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = self.left()?;
        self.stream.set_write_timeout(Some(left))?;
        self.stream.write_all(bytes)
    }

    /// Time that is left; none is an error.
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(left),
        }
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
            RunState::Paused
        );
        served.join().unwrap();
    }

    #[test]
    fn a_state_from_the_future_is_no_running_one() {
        let rest =
            b"\n{\"return\": {}}\n{\"return\": {\"status\": \"hibernated\", \"running\": false}}\n";
        let (folder, served) = answers(&[HELLO, rest].concat());
        let state = Qmp::connect(folder.path()).unwrap().status().unwrap();
        assert_eq!(state, RunState::Other);
        served.join().unwrap();
    }

    #[test]
    fn what_qemu_says_against_a_command_is_told() {
        let rest = b"\n{\"return\": {}}\n{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}}\n";
        let (folder, served) = answers(&[HELLO, rest].concat());
        let said = Qmp::connect(folder.path()).unwrap().stop().unwrap_err();
        assert!(said.to_string().contains("no such thing"), "{said}");
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
