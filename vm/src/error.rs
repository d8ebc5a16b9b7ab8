//! Errors of a machine: one sentence each, with the cure.

use std::io;
use std::path::{Path, PathBuf};

use crate::halt::Halt;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One sentence for the user, with the cure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {what} {}: {why}", path.display())]
    Io {
        /// The operation, as a verb.
        what: &'static str,
        /// Its object.
        path: PathBuf,
        /// The system's message. No `source`: the sentence has it, and a program that prints the chain would print it
        /// twice.
        why: io::Error,
    },
    /// A file that the user named.
    #[error("cannot write {}: {why}", path.display())]
    NotWritable {
        /// As it was named.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file system has no room left.
    #[error("the disk that holds {} is full ({need} needed): free some space there, or set {variable} to a folder with room", path.display())]
    DiskFull {
        /// A path on that file system.
        path: PathBuf,
        /// Room that the step needs, in words.
        need: String,
        /// The environment variable that moves it.
        variable: &'static str,
    },
    /// A folder of ours belongs to someone else.
    #[error("{} belongs to another user (uid {uid}): remove it, or set {variable} to a folder of your own", path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// The environment variable that moves it.
        variable: &'static str,
    },
    /// What should be a folder of ours is none.
    #[error("{} is no folder: remove it, or set {variable} to a folder of your own", path.display())]
    NoFolder {
        /// Its path.
        path: PathBuf,
        /// The environment variable that moves it.
        variable: &'static str,
    },
    /// The run folder's path leaves no room for a Unix socket's name (108 bytes).
    #[error("the run folder {} is too long a path for Unix sockets: set KLAB_RUN to a shorter one", .0.display())]
    PathTooLong(PathBuf),
    /// A guest's name that cannot be a folder's name.
    #[error(
        "`{0}` is no name for a guest: use at most 32 letters, digits, `-`, `_` and `.`, a letter or digit first"
    )]
    BadName(String),
    /// No such guest.
    #[error("there is no guest `{name}` ({}): `klab up {name}` starts it", names(.known))]
    UnknownGuest {
        /// The name asked for.
        name: String,
        /// The guests there are.
        known: Vec<String>,
    },
    /// The guest exists already.
    #[error(
        "the guest `{name}` is already up (QEMU is process {pid}): use it, or `klab down {name}` first"
    )]
    AlreadyUp {
        /// Its name.
        name: String,
        /// QEMU's process.
        pid: u32,
    },
    /// The name is another guest's.
    #[error("there is a guest `{name}` already: `klab {} {name}` first, or choose another name", if *.adopted { "detach" } else { "down" })]
    NameTaken {
        /// The name.
        name: String,
        /// True if that one was attached, not started.
        adopted: bool,
    },
    /// Something that is there only in a guest that klab started.
    #[error("klab did not start the guest `{name}`, {why}")]
    Foreign {
        /// Its name.
        name: String,
        /// Thing that it lacks, or that klab does not do to it.
        why: &'static str,
    },
    /// `detach` of a guest that klab started.
    #[error("klab started the guest `{0}`: `klab down {0}` stops it")]
    Own(String),
    /// The QEMU of a guest that klab did not start is gone.
    #[error("QEMU (process {0}), which ran the guest, has ended: `klab detach` forgets the guest")]
    Ended(u32),
    /// A socket at whose other end is not the QEMU that was looked for.
    #[error("no QEMU can be found behind the socket {}: {why}", path.display())]
    NoQemuThere {
        /// The socket.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A socket that does not speak QMP.
    #[error("the socket {} is no QMP socket of a QEMU ({why}): start QEMU with `-qmp unix:PATH,server=on,wait=off`", path.display())]
    NoQmp {
        /// The socket.
        path: PathBuf,
        /// The result.
        why: String,
    },
    /// RAM that this user may not read.
    #[error(
        "the RAM of QEMU (process {pid}) cannot be read ({why}): be root or QEMU's user (kernel.yama.ptrace_scope 0), or name its gdbstub with `--gdb`, or start QEMU with its RAM in a file (`memory-backend-file,share=on`)"
    )]
    Unreadable {
        /// QEMU's process.
        pid: u32,
        /// The system's message.
        why: String,
    },
    /// A gdbstub failed.
    #[error("the gdbstub at {address} cannot be read: {why}")]
    Gdb {
        /// The socket or `host:port`.
        address: String,
        /// The result.
        why: String,
    },
    /// Another command holds the guest's lock.
    #[error(
        "another command is starting, resetting or stopping the guest `{0}`: wait for it to end, then try again"
    )]
    Locked(String),
    /// Another holds the other end of the guest's network cable.
    #[error(
        "another cell or command is on the network cable of the guest `{0}`: drop its `net` first"
    )]
    CableTaken(String),
    /// A guest that is recorded has no network card.
    #[error(
        "the guest `{0}` is recorded and has no network card, since QEMU cannot replay one: `klab up NAME` without --record boots one that has"
    )]
    NoCard(String),
    /// Another process stops the guest at breakpoints.
    #[error(
        "another cell or command waits for the guest `{0}` to reach a place in its kernel: end that first"
    )]
    DebuggerTaken(String),
    /// A machine that was attached has no gdbstub that QEMU tells of.
    #[error(
        "QEMU has no gdbstub for the guest `{0}`: start it with -s or -gdb unix:PATH,server=on,wait=off, or open one with `gdbserver` in its monitor"
    )]
    NoGdbstub(String),
    /// A machine whose memory is read by its gdbstub, which serves one client.
    #[error(
        "the memory of the guest `{0}` is read by its gdbstub, which is needed for breakpoints: `klab detach {0}`, then `klab attach {0} --qmp SOCKET` without --gdb"
    )]
    GdbstubReads(String),
    /// The guest's memory cannot be written to: why, and the cure.
    #[error("{0}")]
    NoWrites(String),
    /// A snapshot of the guest cannot be taken, found or gone back to: why, and the cure.
    #[error("{0}")]
    NoSnapshot(String),
    /// The guest does not run.
    #[error("{0}")]
    Halted(Halt),
    /// A guest that was held still has not stood still all the while.
    #[error(
        "the guest `{0}` was reset or let go on while it was to stand still: what was read of it may not belong together"
    )]
    Moved(String),
    /// The process that ends a hold where its holder cannot.
    #[error(
        "the guest is not held still, since nobody would let it go on if this process were killed: the keeper does not start ({0})"
    )]
    Keeper(String),
    /// QEMU's gdbstub.
    #[error("QEMU's gdbstub does not do as it should ({0}): `klab resume` lets the guest go on")]
    Debugger(String),
    /// The guest's QEMU is gone.
    #[error("the guest `{name}` is dead ({why}): `klab down {name}`, then `klab up {name}`")]
    Dead {
        /// Its name.
        name: String,
        /// Facts about its end.
        why: String,
    },
    /// The guest has no ready state to go back to.
    #[error(
        "the guest `{0}` has no ready state to go back to: `klab down {0}`, then `klab up {0}`"
    )]
    NotReady(String),
    /// No moment was found in which the guest's CPU works, at which a record can begin.
    #[error(
        "the guest's CPU waited each time that it was stopped, and a record cannot begin so: try again when the machine is less busy"
    )]
    NotAtWork,
    /// QEMU is not installed.
    #[error("QEMU is not installed: `sudo apt install qemu-system-x86`")]
    NoQemu,
    /// QEMU is too old.
    #[error(
        "QEMU {found} is too old, 7.2 or later is needed: `sudo apt install qemu-system-x86` on Debian 12 or later"
    )]
    OldQemu {
        /// The version found.
        found: String,
    },
    /// QEMU ended while it was being started.
    #[error("QEMU ended before the guest was ready: {0}")]
    QemuEnded(String),
    /// The guest did not get ready.
    #[error("the guest did not get ready within {seconds} s; its console ends with: {console}")]
    NotAnswering {
        /// Time that was waited, in seconds.
        seconds: u64,
        /// The console's last line.
        console: String,
    },
    /// The guest stopped by itself while it was being started.
    #[error("the guest stopped while it was starting ({state}); its console says: {console}")]
    Stopped {
        /// QEMU's run state.
        state: String,
        /// The line of the console that says why, or its last one.
        console: String,
    },
    /// QMP failed.
    #[error("QEMU did not do `{command}`: {why}")]
    Qmp {
        /// The QMP command.
        command: String,
        /// QEMU's message.
        why: String,
    },
    /// A socket of QEMU's is held by another client.
    #[error("QEMU's socket {} is busy with another client{}: {cure}", path.display(), held_by(.holders))]
    Busy {
        /// The socket.
        path: PathBuf,
        /// The clients, as far as this user may know them.
        holders: Vec<String>,
        /// The cure, which ends nobody.
        cure: String,
    },
    /// A QMP socket that is not of this machine.
    #[error(
        "QMP over TCP ({0}) is not read, since klab reads the memory of QEMU's process on this machine: start QEMU with `-qmp unix:PATH,server=on,wait=off` (a second one beside that is fine) and name PATH"
    )]
    QmpByTcp(String),
    /// A tool that is part of every Debian is missing.
    #[error("`{tool}` is missing: `sudo apt install {package}`")]
    NoTool {
        /// The program.
        tool: &'static str,
        /// Its package.
        package: &'static str,
    },
    /// The machine's apt knows no Debian mirror.
    #[error(
        "this machine's apt settings name no Debian mirror: add one to /etc/apt/sources.list.d, or give a kernel by path (`--kernel PATH`)"
    )]
    NoMirror,
    /// No network.
    #[error(
        "packages cannot be fetched ({0}): check the network and run the command again, it carries on where it stopped"
    )]
    NoNetwork(String),
    /// apt said no.
    #[error("{what} failed: {why}")]
    Apt {
        /// The step.
        what: String,
        /// apt's words.
        why: String,
    },
    /// No such kernel.
    #[error("there is no kernel `{asked}` ({known}): name one of these or a path to a vmlinuz")]
    UnknownKernel {
        /// The name asked for.
        asked: String,
        /// Names that there are.
        known: String,
    },
    /// A kernel given by path is not whole.
    #[error("{} {why}", path.display())]
    BadKernel {
        /// The path.
        path: PathBuf,
        /// The fault, and the cure.
        why: String,
    },
    /// The agent's client failed.
    #[error(transparent)]
    Agent(#[from] crate::agent::Error),
    /// Something that belongs into the initramfs is not as it must be.
    #[error("{} {why}", path.display())]
    Initramfs {
        /// The file or folder that it is about.
        path: PathBuf,
        /// The fault, and the cure.
        why: String,
    },
    /// The kernel has no Rust.
    #[error(
        "linux {0} was built without Rust (CONFIG_RUST), so it can load no module of klab's: everything else works on it, and `klab up --kernel default` boots a kernel with Rust"
    )]
    NoRust(String),
    /// A step of a build failed.
    #[error("{what} failed (all of it is in {}):\n{why}", log.display())]
    Step {
        /// The step.
        what: String,
        /// The compiler's words.
        why: String,
        /// All of its output.
        log: PathBuf,
    },
    /// Kernel, compiler, source or module do not belong together: one sentence with the cure.
    #[error("{0}")]
    Mismatch(String),
    /// Ended early, as the user wanted: what was done until then.
    #[error("{0}")]
    Interrupted(String),
    /// A step that needs a record, in a guest without one.
    #[error(
        "the run of the guest `{0}` is not recorded, so there is no way back: `klab up NAME --record` boots one that is"
    )]
    NotRecorded(String),
    /// A step that needs a guest that runs, in a replay.
    #[error(
        "the guest `{0}` is a replay, in which all has happened: its memory can be read, `klab replay {0} --at INSTRUCTION` goes to another moment, and `klab reset {0}` begins a new record"
    )]
    Replayed(String),
    /// A step that needs a replay, in a guest that is still recorded.
    #[error(
        "the guest `{0}` runs and is recorded; to go back ends that, which `klab replay {0}` does"
    )]
    NotReplayed(String),
    /// A moment that is not in the record.
    #[error("the record has the instructions {first} to {last}, and not {instruction}")]
    OutsideRecord {
        /// The instruction asked for.
        instruction: u64,
        /// First instruction of the record.
        first: u64,
        /// Last instruction of the record.
        last: u64,
    },
    /// A replay that does not get on.
    #[error(
        "the replay of the guest `{name}` gets no further than instruction {at}: the record ends there, or QEMU cannot replay what came then; `klab replay {name} --at INSTRUCTION` goes to an earlier one"
    )]
    ReplayStands {
        /// The guest's name.
        name: String,
        /// Instruction at which it stands.
        at: u64,
    },
    /// An option is out of range.
    #[error("{0}")]
    BadOption(String),
    /// A file of ours cannot be read.
    #[error("{} is damaged ({why}): {cure}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        why: String,
        /// The cure.
        cure: String,
    },
}

fn held_by(holders: &[String]) -> String {
    if holders.is_empty() {
        String::new()
    } else {
        format!(", {}", holders.join(", "))
    }
}

fn names(names: &[String]) -> String {
    if names.is_empty() {
        "none is up".to_owned()
    } else {
        format!("up: {}", names.join(", "))
    }
}

/// Gives an [`io::Error`] its operation and path.
pub(crate) trait At<T> {
    /// `what` is a verb, as in "cannot `what` `path`".
    fn at(self, what: &'static str, path: &Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull {
                path: path.to_owned(),
                need: "more".to_owned(),
                variable: "KLAB_CACHE or KLAB_RUN",
            },
            _ => Error::Io {
                what,
                path: path.to_owned(),
                why: source,
            },
        })
    }
}

impl<T> At<T> for nix::Result<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T> {
        self.map_err(io::Error::from).at(what, path)
    }
}

impl klab_facts::MachineError for Error {}
