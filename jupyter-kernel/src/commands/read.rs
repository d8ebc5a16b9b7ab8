//! The commands that read one value of the guest and show its faces: a line each.
//!
//! A line says the command's arguments and which method of `Guest` it calls with them; that is all there is to it,
//! so that the Rust cell of `--code` is the call itself.

use anyhow::Result;
use clap::Subcommand;
use probes::guest::Guest;
use probes::memory::GuestVirt;
use probes::page::PageAt;

use super::cli::Source;
use super::look::{address, shown};
use super::output::Output;

/// What a command's argument is to the method that it calls.
pub(super) trait Argument {
    /// What the method takes.
    type Value<'a>
    where
        Self: 'a;

    /// The value.
    fn value<'a>(&'a self, guest: &Guest) -> Result<Self::Value<'a>>;

    /// The same in Rust, where `guest` is the cell's word for the guest.
    fn literal(&self, guest: &str) -> String;
}

impl Argument for i32 {
    type Value<'a> = Self;

    fn value(&self, _: &Guest) -> Result<Self> {
        Ok(*self)
    }

    fn literal(&self, _: &str) -> String {
        self.to_string()
    }
}

impl Argument for String {
    type Value<'a> = &'a str;

    fn value(&self, _: &Guest) -> Result<&str> {
        Ok(self)
    }

    fn literal(&self, _: &str) -> String {
        format!("{self:?}")
    }
}

/// An address as people name it: in hexadecimal, by a symbol, by a C expression.
#[derive(Debug, Clone)]
pub(crate) struct Place(String);

impl From<&str> for Place {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Place {
    /// The address.
    pub(crate) fn resolve(&self, guest: &Guest) -> Result<GuestVirt> {
        Ok(match address(&self.0) {
            Some(at) => at,
            None => guest.place(&self.0)?,
        })
    }
}

impl Argument for Place {
    type Value<'a> = GuestVirt;

    fn value(&self, guest: &Guest) -> Result<GuestVirt> {
        self.resolve(guest)
    }

    fn literal(&self, guest: &str) -> String {
        match address(&self.0) {
            Some(at) => format!("GuestVirt({:#x})", at.0),
            None => format!("{guest}.place({:?})?", self.0),
        }
    }
}

/// A page frame as people name it: by its number, else by an address of the kernel's.
#[derive(Debug, Clone)]
pub(crate) struct Frame(String);

impl From<&str> for Frame {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Frame {
    /// The number, where it is one: in decimal, or in hexadecimal and too low for an address of the kernel's.
    fn pfn(&self) -> Option<u64> {
        let low = |at: GuestVirt| (at.0 >> 52 == 0).then_some(at.0);
        let decimal = self.0.parse().ok();
        decimal.or_else(|| address(&self.0).and_then(low))
    }
}

impl Argument for Frame {
    type Value<'a> = PageAt;

    fn value(&self, guest: &Guest) -> Result<PageAt> {
        Ok(match self.pfn() {
            Some(pfn) => PageAt::Pfn(pfn),
            None => PageAt::Address(Place::from(&*self.0).resolve(guest)?),
        })
    }

    fn literal(&self, guest: &str) -> String {
        match self.pfn() {
            Some(pfn) => format!("{pfn:#x}u64"),
            None => Place::from(&*self.0).literal(guest),
        }
    }
}

/// Defines [`Read`]: a variant a command, whose documentation is the command's one line.
macro_rules! readers {
    ($(
        $(#[$about:meta])*
        $command:ident ( $( $(#[$what:meta])* $argument:ident : $type:ty ),* $(,)? ) => $method:ident
    ),* $(,)?) => {
        /// The commands that read one value and show it.
        #[derive(Debug, Subcommand)]
        pub(crate) enum Read {
            $(
                $(#[$about])*
                $command {
                    $( $(#[$what])* $argument: $type, )*
                    #[command(flatten)]
                    source: Source,
                },
            )*
        }

        impl Read {
            /// Where it looks.
            pub(crate) const fn source(&self) -> &Source {
                match self {
                    $( Self::$command { source, .. } )|* => source,
                }
            }

            /// Reads and shows.
            pub(crate) fn run(&self, guest: &Guest) -> Result<Output> {
                match self {
                    $( Self::$command { $( $argument, )* .. } => {
                        shown(&guest.$method($( Argument::value($argument, guest)? ),*)?)
                    } )*
                }
            }

            /// The Rust that does the same.
            pub(crate) fn code(&self, guest: &str) -> String {
                match self {
                    $( Self::$command { $( $argument, )* .. } => {
                        let arguments: &[String] = &[$( Argument::literal($argument, guest) ),*];
                        format!("{guest}.{}({})?", stringify!($method), arguments.join(", "))
                    } )*
                }
            }
        }
    };
}

readers! {
    /// List the tasks: the kernel's task list, walked in the guest's memory
    #[command(after_long_help = include_str!("manual/ps.txt"))]
    Ps() => tasks,
    /// Draw the tree of processes
    #[command(after_long_help = include_str!("manual/tree.txt"))]
    Tree() => task_tree,
    /// Show the address space of a process: its `mm_struct`, as a table and as a map
    #[command(after_long_help = include_str!("manual/mm.txt"))]
    Mm(
        /// The process
        pid: i32,
    ) => address_map,
    /// List the mappings of a process: its `vm_area_struct`s
    #[command(after_long_help = include_str!("manual/vma.txt"))]
    Vma(
        /// The process
        pid: i32,
    ) => vmas,
    /// List the open files of a task: its `fdtable`, with pipes and sockets told apart
    #[command(after_long_help = include_str!("manual/files.txt"))]
    Files(
        /// The task
        pid: i32,
    ) => files,
    /// List what is mounted in a task's mount namespace
    #[command(after_long_help = include_str!("manual/mounts.txt"))]
    Mounts(
        /// The task
        #[arg(default_value_t = 1)]
        pid: i32,
    ) => mounts,
    /// Show one task in full: arguments, environment, credentials, signals, limits, namespaces, control groups, times
    #[command(after_long_help = include_str!("manual/task.txt"))]
    Task(
        /// The process or thread
        pid: i32,
    ) => process,
    /// Show the trees of control groups, with the processes in them
    #[command(after_long_help = include_str!("manual/cgroups.txt"))]
    Cgroups() => cgroups,
    /// List the namespaces of all kinds, with the processes in them
    #[command(after_long_help = include_str!("manual/namespaces.txt"))]
    Namespaces() => all_namespaces,
    /// Show what the kernel told a program when it started it: its auxiliary vector
    #[command(after_long_help = include_str!("manual/auxv.txt"))]
    Auxv(
        /// The process
        pid: i32,
    ) => auxv,
    /// Show the ELF files that a process has mapped: segments, what runs before and after main, what may be executed
    #[command(after_long_help = include_str!("manual/elf.txt"))]
    Elf(
        /// The process
        pid: i32,
    ) => elf_images,
    /// Show the library that the kernel puts into a process, with its symbols
    #[command(after_long_help = include_str!("manual/vdso.txt"))]
    Vdso(
        /// The process
        pid: i32,
    ) => vdso,
    /// Look a path up in the kernel's cache of names: dentries, mounts, symbolic links, the inode
    #[command(after_long_help = include_str!("manual/path.txt"))]
    Path(
        /// The path
        path: String,
        /// The task whose root and working directory it begins at
        #[arg(default_value_t = 1)]
        pid: i32,
    ) => path_lookup,
    /// Show an inode: what its file is, and how much of it is in the page cache
    #[command(after_long_help = include_str!("manual/inode.txt"))]
    Inode(
        /// The `struct inode`: an address, a symbol, or a C expression that gives an address
        at: Place,
    ) => inode,
    /// List the types of file systems, and the file systems of each
    #[command(after_long_help = include_str!("manual/filesystems.txt"))]
    Filesystems() => filesystems,
    /// List the locks on files, and who waits for them
    #[command(after_long_help = include_str!("manual/locks.txt"))]
    Locks() => file_locks,
    /// Show who waits on a wait queue
    #[command(after_long_help = include_str!("manual/wait.txt"))]
    Wait(
        /// The `wait_queue_head`: an address, a symbol, or a C expression that gives an address
        at: Place,
    ) => wait_queue,
    /// Show who has a mutex, and who waits for it
    #[command(after_long_help = include_str!("manual/mutex.txt"))]
    Mutex(
        /// The `struct mutex`: an address, a symbol, or a C expression that gives an address
        at: Place,
    ) => mutex,
    /// Show who has a semaphore of readers and writers, and who waits for it
    #[command(after_long_help = include_str!("manual/rwsem.txt"))]
    Rwsem(
        /// The `rw_semaphore`: an address, a symbol, or a C expression that gives an address
        at: Place,
    ) => rwsem,
    /// Show who has a mutex with priority inheritance, and who waits for it
    #[command(after_long_help = include_str!("manual/rt-mutex.txt"))]
    RtMutex(
        /// The `rt_mutex_base`: an address, a symbol, or a C expression that gives an address
        at: Place,
    ) => rt_mutex,
    /// Show whether a completion is done, and who waits for it
    #[command(after_long_help = include_str!("manual/completion.txt"))]
    Completion(
        /// The `struct completion`: an address, a symbol, or a C expression that gives an address
        at: Place,
    ) => completion,
    /// Disassemble a function as it lies in memory, with what the kernel has patched in it
    #[command(after_long_help = include_str!("manual/dis.txt"))]
    Dis(
        /// The function, or an address in it: hexadecimal, a symbol, or a C expression that gives an address
        at: Place,
    ) => disassembly,
    /// List the network devices of all network namespaces, with their addresses
    #[command(after_long_help = include_str!("manual/net.txt"))]
    Net() => net_devices,
    /// List TCP, UDP, raw, unix and packet sockets, and who has them open
    #[command(after_long_help = include_str!("manual/sockets.txt"))]
    Sockets() => sockets,
    /// Show the network devices of a name in detail: features, queues, NAPI, counters
    #[command(after_long_help = include_str!("manual/netdev.txt"))]
    Netdev(
        /// The device's name
        name: String,
    ) => net_device,
    /// List the routes of IPv4 and IPv6 of all network namespaces
    #[command(after_long_help = include_str!("manual/routes.txt"))]
    Routes() => routes,
    /// List the neighbours on the networks: addresses, hardware addresses, how much is known
    #[command(after_long_help = include_str!("manual/neigh.txt"))]
    Neigh() => neighbours,
    /// List the functions on netfilter's hooks
    #[command(after_long_help = include_str!("manual/nf-hooks.txt"))]
    NfHooks() => nf_hooks,
    /// List the tables, chains and rules of nftables, expression by expression
    #[command(after_long_help = include_str!("manual/nft.txt"))]
    Nft() => nft_ruleset,
    /// List the connections that netfilter tracks
    #[command(after_long_help = include_str!("manual/conntrack.txt"))]
    Conntrack() => conntrack,
    /// List who gets which packets of a device: the `packet_type`s
    #[command(after_long_help = include_str!("manual/ptype.txt"))]
    Ptype() => packet_types,
    /// List the loaded modules: where they lie, who uses them, what they taint
    #[command(after_long_help = include_str!("manual/modules.txt"))]
    Modules() => modules,
    /// Show one module: its memory, sections, parameters, who needs it
    #[command(after_long_help = include_str!("manual/module.txt"))]
    Module(
        /// The module
        name: String,
    ) => module,
    /// Draw the tree of devices, with the bus, class and driver of each
    #[command(after_long_help = include_str!("manual/devices.txt"))]
    Devices() => devices,
    /// List the buses with their drivers and what these have, and the classes
    #[command(after_long_help = include_str!("manual/buses.txt"))]
    Buses() => buses,
    /// List the PCI devices, with drivers, base address registers and windows
    #[command(after_long_help = include_str!("manual/pci.txt"))]
    Pci() => pci_devices,
    /// List disks and partitions, their request queues, and the requests under way
    #[command(after_long_help = include_str!("manual/block.txt"))]
    Block() => disks,
    /// List who has which device numbers
    #[command(after_long_help = include_str!("manual/majors.txt"))]
    Majors() => majors,
    /// Draw the physical memory map: who has which addresses
    #[command(after_long_help = include_str!("manual/iomem.txt"))]
    Iomem() => iomem,
    /// Draw the map of I/O ports
    #[command(after_long_help = include_str!("manual/ioports.txt"))]
    Ioports() => ioports,
    /// List the interrupts: counts by CPU, affinity, chip, handlers
    #[command(after_long_help = include_str!("manual/irq.txt"))]
    Irq() => irqs,
    /// List the interrupt descriptor table
    #[command(after_long_help = include_str!("manual/idt.txt"))]
    Idt() => idt,
    /// List the softirqs: counts by CPU, what is pending, what is called
    #[command(after_long_help = include_str!("manual/softirq.txt"))]
    Softirq() => softirqs,
    /// List the workqueues and the pools of workers, what these are at and what waits for them
    #[command(after_long_help = include_str!("manual/workqueue.txt"))]
    Workqueue() => workqueues,
    /// List the pending timers of each CPU, of the wheel and high-resolution ones
    #[command(after_long_help = include_str!("manual/timers.txt"))]
    Timers() => timers,
    /// Show the clocks, the clock sources, and what interrupts the CPUs
    #[command(after_long_help = include_str!("manual/clock.txt"))]
    Clock() => clocks,
    /// Show the state of RCU: grace periods, CPUs that are waited for, callbacks
    #[command(after_long_help = include_str!("manual/rcu.txt"))]
    Rcu() => rcu,
    /// List the BPF programs, maps and links
    #[command(after_long_help = include_str!("manual/bpf.txt"))]
    Bpf() => bpf,
    /// Show what is traced: tracers, events, functions hooked by ftrace, kprobes
    #[command(after_long_help = include_str!("manual/trace.txt"))]
    Trace() => tracing,
    /// Check the places where code is hooked into the kernel
    #[command(after_long_help = include_str!("manual/audit.txt"))]
    Audit() => audit,
    /// Print the kernel's command line
    #[command(after_long_help = include_str!("manual/cmdline.txt"))]
    Cmdline() => command_line,
    /// Print the configuration that the kernel was built with, where it is in it
    #[command(after_long_help = include_str!("manual/kconfig.txt"))]
    Kconfig() => kconfig,
    /// Show the run queue of each CPU, and the load average
    #[command(after_long_help = include_str!("manual/runq.txt"))]
    Runq() => run_queues,
    /// Show nodes and zones: sizes, watermarks, what each CPU keeps
    #[command(after_long_help = include_str!("manual/zones.txt"))]
    Zones() => zones,
    /// Count the free blocks of each zone by order and migrate type
    #[command(after_long_help = include_str!("manual/buddy.txt"))]
    Buddy() => buddy,
    /// Print the counters of virtual memory, with what CPUs hold back
    #[command(after_long_help = include_str!("manual/vmstat.txt"))]
    Vmstat() => vmstat,
    /// Add up what memory is used for
    #[command(after_long_help = include_str!("manual/meminfo.txt"))]
    Meminfo() => meminfo,
    /// Show a page frame: its `struct page`, its folio, what it holds
    #[command(after_long_help = include_str!("manual/page.txt"))]
    Page(
        /// The frame's number, or an address: in hexadecimal, a symbol, or a C expression
        frame: Frame,
    ) => page,
    /// List the pages that are cached of a file, with their flags
    #[command(after_long_help = include_str!("manual/pagecache.txt"))]
    Pagecache(
        /// The file's absolute path in the guest
        path: String,
    ) => page_cache,
    /// List the areas of the vmalloc space
    #[command(after_long_help = include_str!("manual/vmalloc.txt"))]
    Vmalloc() => vmalloc_areas,
    /// List the swap areas
    #[command(after_long_help = include_str!("manual/swap.txt"))]
    Swap() => swap_areas,
    /// List the pools of huge pages
    #[command(after_long_help = include_str!("manual/hugetlb.txt"))]
    Hugetlb() => huge_pools,
    /// Print the kernel's log, read from its ring buffer
    #[command(after_long_help = include_str!("manual/log.txt"))]
    Log() => log,
}
