//! The commands, defined once for both faces: `klab log` in a shell and `%log` in a cell.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::look::Look;

/// A Jupyter kernel and a command line that look into a live Linux kernel.
#[derive(Debug, Parser)]
#[command(name = "klab", version, after_help = SHELL_NOTE, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Shell {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: ShellCommand,
}

const SHELL_NOTE: &str = "\
The guest that is meant where none is named is $KLAB_GUEST, else `default`.
`klab COMMAND --help` is the command's manual, with an example. In a notebook the same commands
are `%tasks`, `%mm`, ...; `%help` lists them.";

/// What a `%` line of a cell holds.
#[derive(Debug, Parser)]
#[command(
    name = "%",
    no_binary_name = true,
    disable_help_subcommand = true,
    disable_version_flag = true
)]
pub(crate) struct Line {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: LineCommand,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// The commands of the shell.
#[derive(Debug, Subcommand)]
pub(crate) enum ShellCommand {
    #[command(flatten)]
    Look(Look),
    #[command(flatten)]
    Machine(Machine),
    #[command(after_long_help = include_str!("manual/run.txt"))]
    Run(Run),
    #[command(after_long_help = include_str!("manual/cp.txt"))]
    Cp(Cp),
    #[command(after_long_help = include_str!("manual/drgn-shell.txt"))]
    Drgn(DrgnShell),
    /// Build, load and unload klab's kernel module
    #[command(after_long_help = include_str!("manual/kmod.txt"))]
    Kmod {
        #[command(subcommand)]
        command: Kmod,
    },
    /// Fetch the vmlinux with debug information of a guest's kernel, for other tools; klab needs none
    #[command(after_long_help = include_str!("manual/vmlinux.txt"))]
    Vmlinux {
        /// The kernel, as `klab up --kernel` takes it [default: the guest's, else the one that `klab up` boots]
        #[arg(long, value_name = "VERSION")]
        kernel: Option<String>,
    },
    /// List the commands that read, for programs
    #[command(hide = true)]
    Readers,
    /// Print where the guest's agent is, for programs; it is built where it is not there
    #[command(hide = true)]
    Agent,
    /// Say what is there, what is missing and how to get it
    #[command(after_long_help = include_str!("manual/doctor.txt"))]
    Doctor,
    #[command(flatten)]
    Setup(super::setup::Setup),
}

/// The commands of a cell.
#[derive(Debug, Subcommand)]
pub(crate) enum LineCommand {
    #[command(flatten)]
    Look(Look),
    #[command(flatten)]
    Go(super::stopped::Go),
    #[command(after_long_help = include_str!("manual/kmod-cell.txt"))]
    Kmod(KmodCell),
    /// Start, stop, reset or pause a guest
    Guest {
        #[command(subcommand)]
        command: Machine,
    },
    #[command(after_long_help = include_str!("manual/sh.txt"))]
    Sh(Sh),
    #[command(after_long_help = include_str!("manual/drgn.txt"))]
    Drgn(Drgn),
    /// List the variables of the Rust cells, with their types
    #[command(visible_aliases = ["whos", "vars"])]
    Who,
    /// Run the rest of the cell, and say how long it took
    Time,
    /// Run the rest of the cell many times, and say how long it takes
    Timeit,
    /// List the commands of a cell
    Help,
}

/// The commands that start, stop and hold a guest.
#[derive(Debug, Subcommand)]
pub(crate) enum Machine {
    /// Start a guest; from its ready state where there is one
    #[command(after_long_help = include_str!("manual/up.txt"))]
    Up(Up),
    /// Say which guests there are, and how they are
    #[command(after_long_help = include_str!("manual/status.txt"))]
    Status {
        /// Only this guest
        name: Option<String>,
    },
    /// Give a running QEMU that klab did not start a name, under which every command finds it
    #[command(after_long_help = include_str!("manual/attach.txt"))]
    Attach {
        /// The name to give it
        name: String,
        /// QEMU's control socket, by its path or as QEMU spells it (`unix:SOCKET,server=on,wait=off`)
        #[arg(long, value_name = "SOCKET")]
        qmp: PathBuf,
        /// Read its RAM by its gdbstub, a Unix socket or HOST:PORT, also as QEMU spells it [default: map it where QEMU shares it by a file, else
        /// read it from QEMU's process]
        #[arg(long, value_name = "ADDRESS")]
        gdb: Option<String>,
    },
    /// Forget a guest that was attached; it goes on as it is
    Detach {
        /// The guest
        name: String,
    },
    /// Write a guest's memory and registers into a file: an ELF core that drgn, crash and `--core` open
    #[command(after_long_help = include_str!("manual/dump.txt"))]
    Dump {
        /// The guest
        name: String,
        /// The file
        file: PathBuf,
    },
    /// Stop a guest and remove its files; one that was attached is only forgotten
    Down {
        /// The guest [default: $KLAB_GUEST, else `default`]
        name: Option<String>,
        /// Stop all guests
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Put a guest back into its ready state, as just after boot
    Reset {
        /// The guest [default: $KLAB_GUEST, else `default`]
        name: Option<String>,
    },
    /// Save a guest as it is now, to go back to, and to compare with (`--since`)
    #[command(after_long_help = include_str!("manual/snapshot.txt"))]
    Snapshot {
        /// The snapshot's name; one of that name is replaced
        snapshot: String,
        /// Remove it instead
        #[arg(long)]
        forget: bool,
        /// The guest [default: $KLAB_GUEST, else `default`]
        #[arg(long, value_name = "NAME")]
        guest: Option<String>,
    },
    /// List the snapshots of a guest
    Snapshots {
        /// The guest [default: $KLAB_GUEST, else `default`]
        name: Option<String>,
    },
    /// Start another guest that is what a guest is now; from there each goes its own way
    #[command(after_long_help = include_str!("manual/fork.txt"))]
    Fork {
        /// The new guest's name
        name: String,
        /// The guest [default: $KLAB_GUEST, else `default`]
        #[arg(long, value_name = "NAME")]
        guest: Option<String>,
    },
    /// Put a guest back into a snapshot
    Restore {
        /// The snapshot's name
        snapshot: String,
        /// The guest [default: $KLAB_GUEST, else `default`]
        #[arg(long, value_name = "NAME")]
        guest: Option<String>,
    },
    /// Hold a guest's processors; its memory stays readable
    Pause {
        /// The guest [default: $KLAB_GUEST, else `default`]
        name: Option<String>,
    },
    /// End a guest's record, and go to a moment of it: its memory is read as it was then
    Replay {
        /// The guest [default: $KLAB_GUEST, else `default`]
        name: Option<String>,
        /// Instructions since its boot [default: where the record ends]
        #[arg(long, value_name = "INSTRUCTION")]
        at: Option<u64>,
        /// The first moment at which this C expression is not 0, if it stays so to the end of the record
        #[arg(long, value_name = "EXPRESSION", conflicts_with = "at")]
        when: Option<String>,
    },
    /// Let a paused guest run
    Resume {
        /// The guest [default: $KLAB_GUEST, else `default`]
        name: Option<String>,
    },
}

/// What to do with klab's kernel module.
#[derive(Debug, Subcommand)]
pub(crate) enum Kmod {
    /// Build it for the guest's kernel, or for the one that `klab up` boots
    Build {
        /// The guest [default: $KLAB_GUEST, else `default`]
        #[arg(long, value_name = "NAME")]
        guest: Option<String>,
        /// The folder of its sources [default: `kmod/` of the repository that klab was built from]
        #[arg(long, value_name = "FOLDER")]
        source: Option<PathBuf>,
    },
    /// Load it into a guest; build it first where it is not
    Load {
        /// The guest [default: $KLAB_GUEST, else `default`]
        #[arg(long, value_name = "NAME")]
        guest: Option<String>,
    },
    /// Unload it, or another one
    Unload {
        /// The module
        #[arg(default_value = vm::toolchain::NAME)]
        module: String,
        /// The guest [default: $KLAB_GUEST, else `default`]
        #[arg(long, value_name = "NAME")]
        guest: Option<String>,
    },
    /// Say whether its toolchain is made, whether it is built, and whether it is loaded
    Status {
        /// The guest [default: $KLAB_GUEST, else `default`]
        #[arg(long, value_name = "NAME")]
        guest: Option<String>,
    },
}

/// Compile the cell's body as a kernel module in Rust, load it, and show what it logs; or build, load and unload klab's
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct KmodCell {
    #[command(subcommand)]
    pub(crate) command: Option<Kmod>,
    /// The guest [default: $KLAB_GUEST, else `default`]
    #[arg(long, value_name = "NAME")]
    pub(crate) guest: Option<String>,
    /// The module's parameters: `answer=42`, `text="a b"`
    pub(crate) parameters: Vec<String>,
}

/// The shape of a new guest.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The guest's name [default: $KLAB_GUEST, else `default`]
    pub(crate) name: Option<String>,
    /// A version (`6.1`, `6.12+deb13-rt`, `7.3.4+deb13-cloud-amd64`) or a path to a vmlinuz [default: the newest of Debian 13
    /// backports]
    #[arg(long, value_name = "VERSION|PATH")]
    pub(crate) kernel: Option<String>,
    /// The folder of that vmlinuz's modules [default: the one beside it]
    #[arg(long, value_name = "FOLDER", requires = "kernel")]
    pub(crate) modules: Option<PathBuf>,
    /// RAM: `512M`, `1G`
    #[arg(long, default_value = "512M", value_parser = memory)]
    pub(crate) memory: u64,
    /// Virtual processors
    #[arg(long, default_value_t = 2)]
    pub(crate) cpus: u32,
    /// Hold it before the kernel's first instruction, instead of its ready state; `resume` boots it
    #[arg(long)]
    pub(crate) hold: bool,
    /// Record its run, so that `replay`, `last-write` and `history` can go back; it has one CPU and no network card
    #[arg(long, conflicts_with_all = ["hold", "cpus"])]
    pub(crate) record: bool,
}

/// Run a command in a guest, streaming what it writes; exit code is the command's
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The guest
    pub(crate) name: String,
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}

/// Copy a file into a guest or out of it
#[derive(Debug, Args)]
pub(crate) struct Cp {
    /// The file, or `GUEST:PATH`; `-` is the standard input
    pub(crate) from: String,
    /// Where to, the other of the two; `-` is the standard output
    pub(crate) to: String,
}

/// Run the cell's body in the guest by its shell, streaming what it writes
#[derive(Debug, Args)]
pub(crate) struct Sh {
    /// The guest [default: $KLAB_GUEST, else `default`]
    #[arg(long, value_name = "NAME")]
    pub(crate) guest: Option<String>,
    /// One command, instead of a body
    #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
    pub(crate) command: Vec<String>,
}

/// Run the cell's body as Python in drgn, on the guest's memory; `prog` is the guest
#[derive(Debug, Args)]
pub(crate) struct Drgn {
    /// The guest [default: $KLAB_GUEST, else `default`]
    #[arg(long, value_name = "NAME")]
    pub(crate) guest: Option<String>,
    /// Look into a dump of a guest's memory instead
    #[arg(long, value_name = "FILE", conflicts_with = "guest")]
    pub(crate) core: Option<PathBuf>,
    /// One line of Python, instead of a body
    #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
    pub(crate) code: Vec<String>,
}

/// Open drgn's prompt on a guest's memory, or run a drgn script there
#[derive(Debug, Args)]
pub(crate) struct DrgnShell {
    /// The guest [default: $KLAB_GUEST, else `default`]
    #[arg(long, value_name = "NAME")]
    pub(crate) guest: Option<String>,
    /// Look into a dump of a guest's memory instead
    #[arg(long, value_name = "FILE", conflicts_with = "guest")]
    pub(crate) core: Option<PathBuf>,
    /// An expression or statements instead of the prompt
    #[arg(short, value_name = "CODE")]
    pub(crate) execute: Option<String>,
    /// A script and its arguments instead of the prompt
    #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
    pub(crate) script: Vec<String>,
}

/// `512M`, `2G` -> bytes.
fn memory(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['G', 'g']) {
        Some(digits) => (digits, 1 << 30),
        None => (text.trim_end_matches(['M', 'm']), 1_u64 << 20),
    };
    let bytes = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    bytes.ok_or_else(|| "write a size as 512M or 2G".to_owned())
}
