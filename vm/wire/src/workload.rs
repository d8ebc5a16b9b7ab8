//! Workloads: processes of a known shape, for lessons and tests to look at.

use serde::{Deserialize, Serialize};

use crate::proc::Task;

/// A shape of processes. Each is a process group of its own; `comm` is at most 15 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkloadKind {
    /// One process of this name that sleeps.
    Sleep {
        /// Its name.
        comm: String,
    },
    /// A tree: every process down to `depth` has `width` children.
    Tree {
        /// Levels below the first process.
        depth: u8,
        /// Children of each.
        width: u8,
        /// The name of all of them.
        comm: String,
    },
    /// One process with threads that sleep, named `comm-0`, `comm-1`, ..
    Threads {
        /// Threads beside the main one.
        count: u16,
        /// Beginning of their names.
        comm: String,
    },
    /// One process with mappings of every kind, and `count` small ones more, of which the answer has the first 1000.
    Maps {
        /// Separate areas of one page.
        count: u32,
    },
    /// One process whose program break moves on `WorkloadStep`.
    Brk,
    /// A parent with dead children that it does not wait for.
    Zombies {
        /// Number of children.
        count: u16,
    },
    /// Processes in pid, network, mount, UTS and IPC namespaces of their own; the first is their pid 1.
    Namespaces {
        /// Processes inside.
        count: u8,
    },
    /// Processes that fork, exit, allocate and free without end.
    Busy {
        /// Number of processes that do.
        count: u8,
    },
    /// One process with a socket, which reads and forgets what comes.
    Socket {
        /// Kind of the socket.
        kind: SocketKind,
        /// A network namespace that `ip netns` knows; the first one when empty.
        netns: String,
    },
    /// One process with two BPF maps, a socket filter that uses one of them, and an XDP program, linked to `lo`.
    Bpf,
    /// One process that is not what processes are by default: users, groups, capabilities, securebits, limits, signals
    /// that are blocked and wait, no new privileges; and a thread that may only read and write.
    Confined,
    /// One process with three threads at one lock of the kernel's that knows its owner, the first of which has it, and two
    /// that lock a file.
    Contended,
    /// A process that runs with a deadline, half of the time of a processor.
    Deadline,
}

/// Socket that a [`WorkloadKind::Socket`] opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketKind {
    /// Listens for TCP connections on every IPv4 address, takes them and reads each to its end.
    Tcp {
        /// Its port.
        port: u16,
    },
    /// Receives UDP datagrams on every IPv4 address.
    Udp {
        /// Its port.
        port: u16,
    },
    /// A raw socket (raw(7)): gets a copy of every ICMP packet, from its IPv4 header on.
    RawIcmp,
    /// A raw socket that gets a copy of every TCP packet.
    RawTcp,
    /// A packet socket (packet(7)): gets a copy of every frame of every device, in both directions.
    Packet,
    /// An MPTCP socket that listens on 127.0.0.1, and one that is connected to it.
    Mptcp {
        /// Its port.
        port: u16,
    },
    /// A datagram socket of ICMP (icmp(7)): what `ping` without privileges has. Its port is the echo request's identifier.
    Ping {
        /// Its port.
        port: u16,
    },
    /// An XDP socket that is not bound to a device yet.
    Xdp,
}

impl WorkloadKind {
    /// The word a user types.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sleep { .. } => "sleep",
            Self::Tree { .. } => "tree",
            Self::Threads { .. } => "threads",
            Self::Maps { .. } => "maps",
            Self::Brk => "brk",
            Self::Zombies { .. } => "zombies",
            Self::Namespaces { .. } => "namespaces",
            Self::Busy { .. } => "busy",
            Self::Confined => "confined",
            Self::Contended => "contended",
            Self::Deadline => "deadline",
            Self::Socket { .. } => "socket",
            Self::Bpf => "bpf",
        }
    }
}

/// A workload that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadInfo {
    /// Its id, for `WorkloadStep` and `WorkloadStop`.
    pub id: u32,
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its first process and process group, in the first pid namespace.
    pub pid: i32,
    /// Every thread of it, read from `/proc` when it was complete; those of `Busy` come and go.
    pub tasks: Vec<Task>,
    /// Other things that it made.
    pub made: Vec<Made>,
}

/// Something that a workload made, said by the workload itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Made {
    /// An area of the address space.
    Mapping {
        /// First byte.
        start: u64,
        /// First byte after it.
        end: u64,
        /// `rw-p`, as in `/proc/PID/maps`.
        perms: String,
        /// The mapped file, or nothing.
        path: String,
        /// Purpose: `anonymous`, `file`, `PROT_NONE`, ..
        what: String,
    },
    /// The program break: where it is now.
    Break {
        /// Its address.
        at: u64,
    },
    /// A dead child that nobody waits for.
    Zombie {
        /// Its pid.
        pid: i32,
    },
    /// A process in namespaces of its own.
    Namespace {
        /// Its pid in the first pid namespace.
        pid: i32,
        /// Its pid in its own.
        inner: i32,
    },
}
