//! The messages: a [`Request`] from the host, [`Reply`]s from the agent with the same id.

use serde::{Deserialize, Serialize};

use crate::{
    proc::{KmsgRecord, PageEntry, Task, Vma},
    workload::{WorkloadInfo, WorkloadKind},
};

/// The most bytes of one piece of a stream or of a file.
pub const CHUNK: usize = 64 * 1024;
/// The most bytes of a run's standard input that go with it; more comes by [`Ask::Stdin`].
pub const MAX_STDIN: usize = 64 * 1024;
/// The most [`Ask::Stdin`]s of a run that may be without an answer.
pub const MAX_FEEDS: usize = 8;

/// The most bytes of an ioctl's argument: its number has 14 bits for them.
pub const MAX_IOCTL: usize = 1 << 14;

/// The most pages that one `Pagemap` reads.
pub const MAX_PAGES: u32 = 1 << 20;

/// A request of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the host; the replies carry it. A connection never uses one twice.
    pub id: u32,
    /// The question.
    pub ask: Ask,
}

/// One of the agent's replies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id, 0 when the agent could not read it.
    pub id: u32,
    /// The reply.
    pub answer: Answer,
}

/// The requests. Each is ended by one [`Answer::Done`], [`Answer::Exit`] or [`Answer::Error`], or by the
/// one answer that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// First on every connection; ends what an earlier connection left on this port. Answer: `Hello`.
    Hello(Hello),
    /// Is anyone there? Answer: `Done`.
    Ping,
    /// Starts a command. Answers: `Started`, `Output`s, then `Exit`.
    Run(Run),
    /// Sends a signal to the process group of a run, or to the process that loads or unloads a module. Answer: `Done`,
    /// an error if no such one is under way.
    Kill {
        /// The id of the `Run`, `LoadModule` or `UnloadModule`.
        run: u32,
        /// The signal's number; 0 only asks.
        signal: i32,
    },
    /// Begins a file; it appears under its name once complete. Followed by `Chunk`s with the same id.
    Push {
        /// Absolute path in the guest; missing folders are made.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// A piece of the file that `Push` with this id began. Answer: only to the last, `Done`.
    Chunk {
        /// At most [`CHUNK`] bytes.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
        /// True if it is the file's end.
        last: bool,
    },
    /// Reads a file, of `/proc` too. Answers: `Output`s, then `Done`.
    Pull {
        /// Absolute path in the guest.
        path: String,
    },
    /// Loads a module and what it depends on, as modprobe does, in a process of its own, to which `Kill` with this id
    /// goes. Answers: a `Loading` for each, then `Loaded`, `Refused` or `Died`. Other requests are served meanwhile.
    LoadModule {
        /// Its name; `-` and `_` are one.
        name: String,
        /// Its parameters, `a=1 b=2`.
        params: String,
    },
    /// Unloads a module, in a process of its own as `LoadModule`. Answer: `Done`, `Refused` or `Died`.
    UnloadModule {
        /// Its name.
        name: String,
    },
    /// Starts a workload. Answer: `Workload`, once all of it is there.
    WorkloadStart(WorkloadKind),
    /// Moves the program break of a `Brk` workload. Answer: `Workload`, as it is then.
    WorkloadStep {
        /// Its id.
        id: u32,
        /// Bytes, negative to shrink.
        bytes: i64,
    },
    /// Ends a workload and all its processes. Answer: `Done`, once they are gone.
    WorkloadStop {
        /// Its id.
        id: u32,
    },
    /// Lists the workloads that run. Answers: `Workload`s, then `Done`.
    WorkloadList,
    /// Reads `/proc`. Answers: `Proc`s, then `Done`.
    Proc(ProcQuery),
    /// Writes back and powers the guest off. Answer: `Done`, just before.
    PowerOff,
    /// Opens `/dev/klab` of klab's module for this connection, which holds it. Answer: `Done`.
    DeviceOpen,
    /// Closes it. Answer: `Done`.
    DeviceClose,
    /// An ioctl on it. Answer: one `Output`, what the argument is afterwards.
    DeviceIoctl {
        /// The ioctl's number.
        request: u32,
        /// The argument, at most [`MAX_IOCTL`] bytes.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// A piece of the standard input of a run that has [`Run::more`]. Answer: `Fed`, once the command's pipe has taken it:
    /// at most [`MAX_FEEDS`] may be without one.
    Stdin {
        /// The id of the `Run`.
        run: u32,
        /// At most [`CHUNK`] bytes.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
        /// True if it is the input's end.
        last: bool,
    },
}

/// The agent's answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To `Hello`.
    Hello(HelloReply),
    /// The request is carried out.
    Done,
    /// A command runs.
    Started {
        /// Its process, and its process group.
        pid: i32,
    },
    /// Bytes that a command wrote, or of a file (then as [`Stream::Stdout`]).
    Output {
        /// Stream that they were written to.
        stream: Stream,
        /// At most [`CHUNK`] bytes.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// A command has ended.
    Exit(Exit),
    /// Modules that were loaded, dependencies first; empty when it was there already or is built in.
    Loaded(Vec<String>),
    /// A workload.
    Workload(WorkloadInfo),
    /// Some of what `Proc` asked for.
    Proc(ProcPart),
    /// The request failed: one sentence.
    Error(String),
    /// To `Stdin`: the piece is in the command's pipe, or dropped.
    Fed {
        /// True if the command may read more.
        open: bool,
    },
    /// The kernel is asked to load this module now: what follows is its init.
    Loading(String),
    /// The kernel does not load or unload a module.
    Refused {
        /// The module.
        module: String,
        /// The error's number.
        errno: i32,
    },
    /// The process in which a module was loaded or unloaded was ended by a signal: an oops of the kernel's, or `Kill`.
    Died {
        /// The signal's number.
        signal: i32,
    },
    /// To nobody's request, over a serial line: so many bytes were taken off it.
    Taken(u32),
}

/// The host's greeting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The host's time, in nanoseconds since the Unix epoch. A guest restored from a snapshot sets its clock by it.
    pub time_ns: u64,
    /// Given back, so that a reply to an earlier connection is not taken for this one's.
    pub nonce: u64,
}

/// The agent's greeting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// The host's.
    pub nonce: u64,
    /// The agent's version.
    pub agent: String,
    /// `uname -r`.
    pub release: String,
    /// `/proc/sys/kernel/random/boot_id`; copies of one snapshot share it.
    pub boot_id: String,
    /// Processors that are online.
    pub cpus: u32,
}

/// A command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The program, looked up in `PATH` when it has no `/`, and its arguments.
    pub argv: Vec<String>,
    /// Variables added to the agent's own.
    pub env: Vec<(String, String)>,
    /// Its working folder; `/` when empty.
    pub cwd: String,
    /// Its standard input, or the beginning of it: at most [`MAX_STDIN`] bytes.
    #[serde(with = "serde_bytes")]
    pub stdin: Vec<u8>,
    /// True if more of it comes by [`Ask::Stdin`].
    pub more: bool,
    /// After so many milliseconds its process group is killed; 0 for never.
    pub timeout_ms: u64,
}

/// One of a command's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// End of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It was killed because its time was up.
    TimedOut,
}

impl Exit {
    /// Tells whether it exited with 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// The code a shell would give: 128 and the signal's number, 124 when its time was up.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128_i32.saturating_add(signal),
            Self::TimedOut => 124,
        }
    }
}

/// Part of `/proc` to read. Text that needs no walk (`kallsyms`, `modules`, ..) is pulled and parsed on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcQuery {
    /// Every thread of every process.
    Tasks,
    /// All areas of a process, in address order.
    Maps {
        /// The process.
        pid: i32,
    },
    /// Page-table facts of a range of a process, one entry a page.
    Pagemap {
        /// The process.
        pid: i32,
        /// First address; rounded down to a page.
        start: u64,
        /// Number of pages, at most [`MAX_PAGES`].
        pages: u32,
    },
    /// Every record of the kernel log, oldest first.
    Kmsg,
}

/// A piece of what [`ProcQuery`] asked for; several pieces add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcPart {
    /// To `Tasks`.
    Tasks(Vec<Task>),
    /// To `Maps`.
    Maps(Vec<Vma>),
    /// To `Pagemap`.
    Pagemap(Vec<PageEntry>),
    /// To `Kmsg`.
    Kmsg(Vec<KmsgRecord>),
}
