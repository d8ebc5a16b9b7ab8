//! The table of the readers.
//!
//! This file lists all of them: [`define`](super::define) says what an entry is made of, and what comes of it.

use super::define::{dashed, readers};
// Rooms are named as they stand below the crate.
use crate::memory::GuestVirt;
use crate::mm::page::PageAt;
use crate::*;

readers! {
    /// List the tasks: the kernel's task list, walked in the guest's memory
    ///
    /// The list is init_task.tasks, followed by its list_heads as for_each_process() does; threads other than leaders
    /// are not on it. A guest that runs changes while it is read: `klab pause` holds it still.
    tasks | "ps"() -> sched::Tasks = |kernel| sched::tasks(kernel);
    /// Draw the tree of processes
    ///
    /// By real_parent: who started whom. In a notebook it is a picture.
    task_tree | "tree"() -> sched::TaskTree = |guest| sched::task_tree(guest);
    /// Show the address space of a process: its `mm_struct`, as a table and as a map
    ///
    /// The numbers are those of the process's mm_struct. In a notebook it is a map of the address space.
    address_map | "mm"(
        /// The process
        pid: i32,
    ) -> mm::AddressMap = |guest| mm::address_map(guest, pid), try [["1"]];
    /// List the mappings of a process: its `vm_area_struct`s
    ///
    /// The mappings come off mm_struct.mm_mt (a maple tree).
    vmas | "vma"(
        /// The process
        pid: i32,
    ) -> mm::Vmas = |guest| mm::vmas(guest, pid), try [["1"]];
    /// List the open files of a task: its `fdtable`, with pipes and sockets told apart
    ///
    /// The fdtable of the task, descriptor by descriptor, each struct file with its inode and its path.
    files(
        /// The task
        pid: i32,
    ) -> fs::OpenFiles = |guest| fs::files(guest, pid), try [["1"]];
    /// List what is mounted in a task's mount namespace
    ///
    /// The mounts of the mnt_namespace, in the order of /proc/PID/mountinfo, with those that the root of a task hides.
    mounts(
        /// The task
        pid: i32 = "1",
    ) -> fs::Mounts = |guest| fs::mounts(guest, pid), try [["1"]];
    /// Show one task in full: arguments, environment, credentials, signals, limits, namespaces, control groups, times
    ///
    /// The values of /proc/PID, read from what the task_struct of a process or thread points to: who it is, its arguments
    /// and environment (from its own memory), credentials and capability sets, signals with what it does on each,
    /// limits, namespaces, control groups, times.
    process | "task"(
        /// The process or thread
        pid: i32,
    ) -> process::Process = |guest| process::process(guest, pid), try [["1"]];
    /// Show the trees of control groups, with the processes in them
    ///
    /// The hierarchies and their groups, as a tree. MEMORY and PIDS are what the controllers count; GIVES is what a
    /// group lets its children have of controllers. AT is the struct cgroup.
    cgroups() -> cgroup::Hierarchies = |kernel| sched::cgroup::cgroups(kernel);
    /// List the namespaces of all kinds, with the processes in them
    ///
    /// Found by the tasks that are in them. INODE is the number of /proc/PID/ns/KIND, OWNER that of the user namespace
    /// that owns it, IN that of the one around it. AT is the namespace's structure.
    namespaces() -> process::Namespaces = |guest| process::namespaces(guest);
    /// Show what the kernel told a program when it started it: its auxiliary vector
    ///
    /// mm_struct.saved_auxv: what the kernel put above the arguments on the new program's stack. Addresses are followed
    /// where they point to a text, or to the 16 random bytes.
    auxv(
        /// The process
        pid: i32,
    ) -> exec::Auxv = |guest| process::exec::auxv(guest, pid), try [["1"]];
    /// Show the ELF files that a process has mapped: segments, what runs before and after main, what may be executed
    ///
    /// The ELF headers are read from the pages of the process, not from a file: what is not in memory is missing.
    /// BEFORE MAIN are .preinit, .init and .init_array as they were relocated, AFTER MAIN .fini_array and .fini. At the
    /// end stands what may be executed.
    elf_images | "elf"(
        /// The process
        pid: i32,
    ) -> exec::ElfImages = |guest| process::exec::elf_images(guest, pid), try [["1"]];
    /// Show the library that the kernel puts into a process, with its symbols
    ///
    /// The ELF image that the kernel maps into each process, so that time and CPU can be asked without a system call.
    vdso(
        /// The process
        pid: i32,
    ) -> exec::Vdso = |guest| process::exec::vdso(guest, pid), try [["1"]];
    /// Look a path up in the kernel's cache of names: dentries, mounts, symbolic links, the inode
    ///
    /// The path is followed as path_lookupat() does, in the dentry cache alone: a name that nothing has used lately is
    /// not there, though the file may be. `klab path PATH PID` begins at another task's root and working directory.
    path_lookup | "path"(
        /// The path
        path: &str,
        /// The task whose root and working directory it begins at
        pid: i32 = "1",
    ) -> fs::PathLookup = |guest| fs::path_lookup(guest, path, pid), try [["/bin/sh"]];
    /// Show an inode: what its file is, and how much of it is in the page cache
    ///
    /// AT is a struct inode, or an expression for one, such as the f_inode of a FILE that `klab files PID` lists.
    inode(
        /// The `struct inode`: an address, a symbol, or a C expression that gives an address
        at: GuestVirt,
    ) -> fs::Inode = |kernel| fs::inode(kernel, at), try [["init_task.fs->root.dentry->d_inode"]];
    /// List the types of file systems, and the file systems of each
    ///
    /// Every registered file_system_type, each with its super_blocks. BLOCK is the block size in bytes, INODES how many
    /// inodes it has in memory.
    filesystems() -> fs::FileSystems = |kernel| fs::filesystems(kernel);
    /// List the locks on files, and who waits for them
    ///
    /// POSIX, FLOCK, LEASE and open file description locks, those that wait below those that they wait for. TO is `end`
    /// for the rest of the file.
    file_locks | "locks"() -> fs::FileLocks = |kernel| fs::file_locks(kernel);
    /// Show who waits on a wait queue
    ///
    /// The waiters on a wait_queue_head, in the order in which they will be woken. A FUNCTION other than that of a sleeping
    /// task (epoll's, poll's) has no task of its own.
    wait_queue | "wait"(
        /// The `wait_queue_head`: an address, a symbol, or a C expression that gives an address
        at: GuestVirt,
    ) -> locking::WaitQueue = |kernel| core::locking::wait_queue(kernel, at), try [["log_wait"]];
    /// Show who has a mutex, and who waits for it
    ///
    /// The owner is the task that holds it, by the mutex's own word; the waiters are those on its list, in their order.
    mutex(
        /// The `struct mutex`: an address, a symbol, or a C expression that gives an address
        at: GuestVirt,
    ) -> locking::Mutex = |kernel| core::locking::mutex(kernel, at), try [["rtnl_mutex"]];
    /// Show who has a semaphore of readers and writers, and who waits for it
    ///
    /// FOR is what a task has it for, or wants it for: reading or writing. Of several readers the kernel keeps only the
    /// last one's name. A kernel with PREEMPT_RT keeps no reader's name, and of most who wait not what for.
    rwsem(
        /// The `rw_semaphore`: an address, a symbol, or a C expression that gives an address
        at: GuestVirt,
    ) -> locking::RwSem = |kernel| core::locking::rwsem(kernel, at), try [["init_mm.mmap_lock"]];
    /// Show who has a mutex with priority inheritance, and who waits for it
    ///
    /// An rt_mutex lends its owner the priority of the most urgent waiter. The futexes of PTHREAD_PRIO_INHERIT are such
    /// ones; on a kernel with PREEMPT_RT all mutexes and semaphores are.
    rt_mutex(
        /// The `rt_mutex_base`: an address, a symbol, or a C expression that gives an address
        at: GuestVirt,
    ) -> locking::RtMutex = |kernel| core::locking::rt_mutex(kernel, at), try [["*(struct rt_mutex_base *)&empty_zero_page"]];
    /// Show whether a completion is done, and who waits for it
    ///
    /// Whether it is done, and for how many. The one of the example is that which kthread_stop() waits for.
    completion(
        /// The `struct completion`: an address, a symbol, or a C expression that gives an address
        at: GuestVirt,
    ) -> locking::Completion = |kernel| core::locking::completion(kernel, at), try [["((struct device *)&platform_bus)->power.completion"]];
    /// Disassemble a function as it lies in memory, with what the kernel has patched in it
    ///
    /// Code as it lies in memory now, which is not what was linked: PATCHED says what a place is for that the kernel
    /// rewrites while it runs (ftrace, jump labels, static calls, alternatives). Targets are symbols.
    disassembly | "dis"(
        /// The function, or an address in it: hexadecimal, a symbol, or a C expression that gives an address
        at: GuestVirt,
    ) -> text::Disassembly = |kernel| unwind::text::disassembly(kernel, at), try [["schedule"]];
    /// List the network devices of all network namespaces, with their addresses
    ///
    /// Every struct net has its list of devices; their addresses come off in_device and inet6_dev.
    net_devices | "net"() -> net::NetDevices = |kernel| net::net_devices(kernel);
    /// List sockets, and who has them open: TCP, MPTCP, UDP, raw, ping, unix, packet, XDP, netlink
    ///
    /// Walked in the hash tables of the kernel; what is in none of them, the last line names. NETNS is the inode number of
    /// /proc/PID/ns/net; RECV and SEND are bytes that wait, or connections that wait to be accepted.
    sockets() -> net::Sockets = |guest| net::sockets(guest);
    /// Show the network devices of a name in detail: features, queues, NAPI, counters
    ///
    /// All devices of that name, in all network namespaces. COUNTED BY is the driver's function; the counters are added
    /// up as it does, where they lie per CPU.
    net_device | "netdev"(
        /// The device's name
        name: &str,
    ) -> net::AllDeviceDetails = |kernel| net::net_device(kernel, name), try [["lo"]];
    /// List the routes of IPv4 and IPv6 of all network namespaces
    ///
    /// IPv4 from the trie of each table (FIB_INFO is a struct fib_info), IPv6 from its tree (a struct fib6_info). BY is
    /// who made it.
    routes() -> net::Routes = |kernel| net::routes(kernel);
    /// List the neighbours on the networks: addresses, hardware addresses, how much is known
    ///
    /// The tables of ARP and of neighbour discovery. STATE is the NUD_ state: REACHABLE, STALE, PERMANENT, ..
    neighbours | "neigh"() -> net::Neighbours = |kernel| net::neighbours(kernel);
    /// List the functions on netfilter's hooks
    ///
    /// The functions of IPv4, IPv6, ARP and bridges (FAMILY), in the order in which a packet meets them: lower
    /// priorities first. A hook that has no function is not called at all.
    nf_hooks() -> netfilter::HookFunctions = |kernel| net::netfilter::nf_hooks(kernel);
    /// List the tables, chains and rules of nftables, expression by expression
    ///
    /// `nft list ruleset`, but in the steps that the kernel takes for a packet: each expression as `nft
    /// --debug=netlink` writes it, with its counters. A step that says no ends the rule.
    nft_ruleset | "nft"() -> netfilter::NftRuleset = |kernel| net::netfilter::nft_ruleset(kernel);
    /// List the connections that netfilter tracks
    ///
    /// `conntrack -L`. ORIGINAL is the direction in which the connection began; REPLY is the other one, with the
    /// addresses that NAT has put there. JIFFIES is when it is forgotten.
    conntrack() -> netfilter::Conntracks = |kernel| net::netfilter::conntrack(kernel);
    /// List who gets which packets of a device: the `packet_type`s
    ///
    /// The function that gets the packets of each Ethernet type: ip_rcv for IPv4, tpacket_rcv where a capture runs.
    /// LIST_FUNC takes several at once.
    packet_types | "ptype"() -> packet_type::PacketTypes = |kernel| net::packet_type::packet_types(kernel);
    /// List the loaded modules: where they lie, who uses them, what they taint
    ///
    /// The list is `modules`, the last loaded first. SIZE is in bytes, USES how many modules and others hold it.
    modules() -> module::Modules = |kernel| core::module::modules(kernel);
    /// Show one module: its memory, sections, parameters, who needs it
    ///
    /// One module: who uses it and what it needs, its memory, where each of its sections was put, and its parameters
    /// with their values. A parameter with code of its own to print it has the name of that code as its TYPE and no
    /// value.
    module(
        /// The module
        name: &str,
    ) -> module::ModuleDetails = |guest| core::module::module(guest, name), try [["veth"]];
    /// Draw the tree of devices, with the bus, class and driver of each
    ///
    /// The tree is the kset `devices`, which sysfs shows as /sys/devices: a device is indented below the one that it
    /// hangs on. What is between two devices in the path (`wakeup/`, `tty/`) is a folder that holds those of one class
    /// together. DEV is the device's number, where it has a file in /dev.
    devices() -> device::Devices = |kernel| drivers::device::devices(kernel);
    /// List the buses with their drivers and what these have, and the classes
    ///
    /// The buses of /sys/bus, each with how many devices are on it, its drivers, and the devices that each driver has.
    /// MODULE is the module that a driver is in; one without is built into the kernel. Then the classes of /sys/class
    /// with their devices.
    buses() -> device::Buses = |kernel| drivers::device::buses(kernel);
    /// List the PCI devices, with drivers, base address registers and windows
    ///
    /// The devices are found from the root buses on, bus by bus. CLASS is the base class, subclass and interface in
    /// hexadecimal, behind it the base class by name. REGIONS are the base address registers, the ROM and the windows
    /// of bridges that are in use.
    pci_devices | "pci"() -> device::PciDevices = |kernel| drivers::device::pci_devices(kernel);
    /// List disks and partitions, their request queues, and the requests under way
    ///
    /// The disks are the devices of the class `block`. DEPTH is how many requests a queue takes; a driver that takes
    /// bios has no requests. IN FLIGHT is what the driver has; READS and WRITES are requests that are done, and READ
    /// and WRITTEN how much that was. Below, the requests that are under way: those with a tag of the scheduler, or
    /// without one of the driver. A running guest goes on meanwhile: `klab pause` gives one instant.
    disks | "block"() -> device::Disks = |kernel| drivers::device::disks(kernel);
    /// List who has which device numbers
    ///
    /// The owners of device numbers: character devices with their minor numbers (`chrdevs`), block devices
    /// (`major_names`), and the devices of the major number 10, for drivers that need no more than one (`misc_list`).
    /// FILE_OPERATIONS is what answers an open, by the name of its symbol.
    majors() -> device::Majors = |kernel| drivers::device::majors(kernel);
    /// Draw the physical memory map: who has which addresses
    ///
    /// The tree `iomem_resource`: who has which physical addresses. A range is indented below the one that it lies in.
    /// RAM and the kernel's image are there, and what is left for devices.
    iomem() -> device::Resources = |kernel| drivers::device::iomem(kernel);
    /// Draw the map of I/O ports
    ///
    /// The tree `ioport_resource`: who has which I/O ports.
    ioports() -> device::Resources = |kernel| drivers::device::ioports(kernel);
    /// List the interrupts: counts by CPU, affinity, chip, handlers
    ///
    /// An interrupt's descriptor is a struct irq_desc, its handlers are struct irqaction. CPUS is where it goes, of
    /// where it may go. HWIRQ is its number in the chip and how it is signalled. HANDLER is the function of the
    /// handler, and that of its thread with the thread's pid. Below are the interrupts of the CPUs themselves, which
    /// have no descriptor. Descriptors that nobody uses are only in --json.
    irqs | "irq"() -> irq::Irqs = |kernel| core::irq::irqs(kernel);
    /// List the interrupt descriptor table
    ///
    /// The table idt_table: where the CPU goes on an exception or an interrupt. Vectors that lead to places at one
    /// distance are one row. DPL 3 lets user space come here by `int`; IST is the stack that the CPU changes to,
    /// whatever it has. Vectors that cannot come still lead into code of the boot that was freed, as the kernel leaves
    /// them.
    idt() -> irq::Idt = |kernel| core::irq::idt(kernel);
    /// List the softirqs: counts by CPU, what is pending, what is called
    ///
    /// Work that interrupts defer, the most urgent first: how often each ran on each CPU, where it waits now, and
    /// what is called.
    softirqs | "softirq"() -> irq::Softirqs = |kernel| core::irq::softirqs(kernel);
    /// List the workqueues and the pools of workers, what these are at and what waits for them
    ///
    /// The workqueues, with how many works of each may be active at once, how many are, and how many wait for that;
    /// POOLS are the pools of workers that do them. Then the pools: each CPU has one for usual and one for urgent work,
    /// others are for work of no CPU. WORK is what a worker is at, and what waits for one.
    workqueues | "workqueue"() -> workqueue::Workqueues = |kernel| core::workqueue::workqueues(kernel);
    /// List the pending timers of each CPU, of the wheel and high-resolution ones
    ///
    /// Timers of the wheel are due at a tick: LOCAL ones stay on their CPU, GLOBAL ones may be run by another one while
    /// it sleeps, DEF ones do not wake it. FOR is the task that waits, or the work that will be put on a workqueue.
    /// High-resolution timers are those of /proc/timer_list; their times are in seconds of their clock. `klab pause`
    /// gives one instant.
    timers() -> time::Timers = |kernel| core::time::timers(kernel);
    /// Show the clocks, the clock sources, and what interrupts the CPUs
    ///
    /// The time as of the last tick: memory holds no more. BOOTTIME is what /proc/uptime shows, `booted at` is
    /// btime of /proc/stat. A clock source is a counter that time is read from: a count is MULT divided by two to the
    /// SHIFT nanoseconds. A clock event device interrupts a CPU at a time that it is told.
    clocks | "clock"() -> time::Clocks = |kernel| core::time::clocks(kernel);
    /// Show the state of RCU: grace periods, CPUs that are waited for, callbacks
    ///
    /// A grace period is over when each CPU has passed through a quiescent state. KNOWS OF is the one that a CPU knows
    /// of, `waited for` says that the present one waits for it. Callbacks by how far they are: their grace period is
    /// over (DONE), under way (WAIT), the next one, or not known yet (NEW). The kernel counts grace periods from -300,
    /// so that a wrap is met soon.
    rcu() -> rcu::Rcu = |kernel| core::rcu::rcu(kernel);
    /// List the BPF programs, maps and links
    ///
    /// Programs, maps and links by their numbers, as `prog_idr`, `map_idr` and `link_idr` have them. CODE is what is
    /// called to run a program: its compiled instructions.
    bpf() -> bpf::Bpf = |kernel| core::bpf::bpf(kernel);
    /// Show what is traced: tracers, events, functions hooked by ftrace, kprobes
    ///
    /// The instances of the tracer, with their tracers and events; who has hooked functions by ftrace
    /// (`ftrace_ops_list`), by which trampoline, and which functions; the functions that are hooked, and what the call
    /// in each leads to; kprobes.
    tracing | "trace"() -> trace::Tracing = |kernel| core::trace::tracing(kernel);
    /// Check the places where code is hooked into the kernel
    ///
    /// Each place where code is hooked in must lead into the text of the kernel's image or of a module that is listed,
    /// or into code that the kernel made and knows of: IDT, table of system calls, netfilter, ftrace, kprobes,
    /// tracepoints, chains of notifiers, the operations that list processes and sockets. No function there may begin
    /// with a jump to anywhere else, the places that ftrace patches must hold what ftrace says of them, and no module
    /// may be hidden from the list. What breaks a rule is a finding.
    audit() -> audit::Audit = |guest| core::audit::audit(guest), not [dumps];
    /// List the keys and keyrings of the kernel, also those that `/proc/keys` hides from its reader
    ///
    /// The tree key_serial_tree of struct key. FLAGS are I instantiated, R revoked, D dead, Q in its owner's quota, U under
    /// construction, N negative, i invalidated; EXPIRY is in seconds since 1970; LINKS counts the keys of a keyring.
    keyrings() -> security::keys::Keys = |kernel| security::keys::keyrings(kernel);
    /// Print the kernel's command line
    ///
    /// The words that the boot loader gave the kernel: saved_command_line. In a notebook, word by word.
    command_line | "cmdline"() -> init::CommandLine = |kernel| core::init::command_line(kernel);
    /// Print the configuration that the kernel was built with, where it is in it
    ///
    /// The configuration that the kernel was built with, where it was built with CONFIG_IKCONFIG and so has it in its
    /// memory, packed by gzip. The kernels of Debian do not.
    kconfig() -> init::Kconfig = |kernel| core::init::kconfig(kernel);
    /// Show the run queue of each CPU, and the load average
    ///
    /// The tasks on the struct rq of each CPU. VRUNTIME, DEADLINE and SLICE are in milliseconds; a task that sleeps may
    /// stay queued until it has paid for what it ran. A running guest reads its own queues while it is asked: `klab
    /// pause` gives one instant.
    run_queues | "runq"() -> sched::RunQueues = |kernel| sched::run_queues(kernel);
    /// Show nodes and zones: sizes, watermarks, what each CPU keeps
    ///
    /// Read from pglist_data and struct zone, as /proc/zoneinfo; --json has the counters of each node and zone too.
    /// MIN, LOW and HIGH are watermarks with the zone's boost in them; PROTECTION is what each zone keeps from
    /// allocations that would rather have a higher one.
    zones() -> mmzone::Zones = |kernel| mm::mmzone::zones(kernel);
    /// Count the free blocks of each zone by order and migrate type
    ///
    /// The lists of free blocks are walked, as for /proc/buddyinfo and /proc/pagetypeinfo. Pages that CPUs keep are not
    /// on them: see zones.
    buddy() -> mmzone::Buddy = |kernel| mm::mmzone::buddy(kernel);
    /// Print the counters of virtual memory, with what CPUs hold back
    ///
    /// The counters of /proc/vmstat, by the kernel's own names. A CPU adds to a shared counter only once it has counted
    /// some: HELD.
    vmstat() -> vmstat::VmStat = |kernel| mm::vmstat::vmstat(kernel);
    /// Add up what memory is used for
    ///
    /// The values of /proc/meminfo, added up from the same counters.
    meminfo() -> meminfo::MemInfo = |kernel| mm::meminfo::meminfo(kernel);
    /// Show a page frame: its `struct page`, its folio, what it holds
    ///
    /// A frame is meant by its number (decimal, or hexadecimal and low), by an address that the kernel has mapped, or
    /// by its struct page.
    page(
        /// The frame's number, or an address: in hexadecimal, a symbol, or a C expression
        frame: PageAt,
    ) -> page::Page, try [["init_task"], ["0x1000"]];
    /// List the pages that are cached of a file, with their flags
    ///
    /// The path is looked up in the dentry cache, from the root of init, and the inode's i_pages (an xarray) is walked.
    /// A name that nothing has used lately may have been dropped from the dentry cache, and is then not found.
    page_cache | "pagecache"(
        /// The file's absolute path in the guest
        path: &str,
    ) -> filemap::PageCache = |guest| mm::filemap::page_cache(guest, path), try [["/bin/busybox"]];
    /// List the areas of the vmalloc space
    ///
    /// Read from the vmap_areas, as /proc/vmallocinfo; the size has the guard page in it. An unpurged area was freed,
    /// and is still mapped.
    vmalloc_areas | "vmalloc"() -> vmalloc::VmallocAreas = |kernel| mm::vmalloc::vmalloc_areas(kernel);
    /// List the swap areas
    ///
    /// Read from each swap_info_struct, as /proc/swaps. Where a page of a process went, `what --pid` says.
    swap_areas | "swap"() -> swap::SwapAreas = |kernel| mm::swap::swap_areas(kernel);
    /// List the pools of huge pages
    ///
    /// Read from each struct hstate, as /sys/kernel/mm/hugepages. Transparent huge pages are no part of these pools.
    hugetlb() -> hugetlb::HugePools = |kernel| mm::hugetlb::hugetlb(kernel);
    /// Print the kernel's log, read from its ring buffer
    ///
    /// Read record by record from the kernel's ring buffer (prb), without the guest's help: it works after a panic too.
    log() -> printk::Log = |kernel| core::printk::log(kernel);
    /// Print records of the kernel's log from a level up, with their level and their writer
    log_of as "log"(
        /// Only records of this level and of worse ones: emerg, alert, crit, err, warn, notice, info, debug, or 0 to 7
        level: Option<&str>,
        /// What stands before each text: `level` (with the facility, as `dmesg -x`), `caller` (the task or CPU that wrote it),
        /// or both with a comma between them
        show: Option<&str>,
    ) -> printk::Log = |kernel| core::printk::log_of(kernel, level, show), flags [level, show], try [["--level", "warn"], ["--show", "level,caller"]];
    /// Print the kernel stacks of tasks, frame by frame, by the ORC tables
    ///
    /// Frames are found by the ORC tables in the kernel's own memory. A task that sleeps has saved its registers on its
    /// stack; those of a running one QEMU tells, while the guest is paused (`klab pause`). `(interrupted)` is code that
    /// an interrupt, an exception or a probe broke into; where a trace goes over several stacks, `<IRQ>`, `<NMI>` and
    /// `<TASK>` stand around the frames of each.
    stack_traces as "stack"() -> unwind::StackTraces = |guest| unwind::stack_traces(guest);
    /// Print the kernel stack of a task, frame by frame, by the ORC tables
    stack_trace as "stack"(
        /// Only this task [default: all that sleep, and while the guest is paused what its CPUs run]
        pid: i32,
    ) -> unwind::StackTrace = |guest| unwind::stack_trace(guest, pid), try [["1"]];
    /// Say what keeps the kernel from going on: tasks that wait, for what, who holds it, and why that one does not go on
    ///
    /// Every task that sleeps without waking for signals for 5 s or more, or waits for a lock for so long, is followed to
    /// what it waits for (by the waiter on its kernel stack), to the task that holds it, and so on: to a circle, which is
    /// a deadlock at any age, or to the one that all wait for. Beside them a panic, an oops, soft lockups, grace periods
    /// of RCU and pools of workers that last too long, memory that is used up, file systems that are frozen,
    /// and transmit queues that are stopped for as long. SINCE is the time since the task ran last, at least.
    why() -> why::Reasons = |guest| why::why(guest, None);
    /// Say what one task waits for, however short it has
    why_of as "why"(
        /// Only this task [default: all that have waited for long]
        pid: i32,
    ) -> why::Reasons = |guest| why::why(guest, Some(pid)), try [["1"]];
    /// Translate a virtual address, page table by page table
    ///
    /// Reads the tables as the processor does, one line a level. The address is hexadecimal, a symbol, or a C
    /// expression.
    page_walk as "vtop"(
        /// The address: in hexadecimal, a symbol, or a C expression that gives an address
        address: GuestVirt,
    ) -> memory::PageWalk = |kernel| mm::page_walk(kernel, address), try [["init_task"], ["&init_task.tasks"]];
    /// Translate a virtual address of a process, page table by page table
    page_walk_of as "vtop"(
        /// Walk the page tables of this process instead of the kernel's
        pid: i32,
        /// The address: in hexadecimal, a symbol, or a C expression that gives an address
        address: GuestVirt,
    ) -> memory::PageWalk = |guest| mm::page_walk_of(guest, pid, address), flags [pid], try [["--pid", "1", "init_task"]];
    /// Say what is at an address: symbol, stack, slab object, page, mapping, .., the whole chain
    ///
    /// Says the region of the address space, how the address is mapped, and what it lies in: a symbol and its member, a
    /// module, a per-CPU variable, the stack of a task, an area of the vmalloc space, a struct page, the page frame, a
    /// slab object and whose it is, a mapping of a process, a page in a swap area. The kernel's memory has two
    /// addresses: the other one is named, with what is there.
    what(
        /// The address: in hexadecimal, a symbol, or a C expression that gives an address
        address: GuestVirt,
    ) -> what::What = |guest| search::what::what(guest, address), try [["&init_task.comm"]];
    /// Say what is at an address of a process
    what_of as "what"(
        /// It is an address of this process instead of the kernel's
        pid: i32,
        /// The address: in hexadecimal, a symbol, or a C expression that gives an address
        address: GuestVirt,
    ) -> what::What = |guest| search::what::what_of(guest, pid, address), flags [pid], try [["--pid", "1", "0x1000"]];
    /// List the slab caches, or show one with its objects
    ///
    /// Free objects wait on partial slabs of a node (PARTIAL), with a CPU (CPUS: the list that it allocates from, its
    /// partial slabs, since 6.18 its sheaves), or in full sheaves of a node (BARNS). /proc/slabinfo counts those of
    /// CPUs and barns as active. With a cache's name all its objects in use are listed: every slab's own list of free
    /// ones is followed, decoded where the kernel hardens it.
    slab_caches as "slab"() -> slab::SlabCaches = |kernel| mm::slab::slab_caches(kernel);
    /// Show one slab cache with its objects in use
    slab_objects as "slab"(
        /// Only this cache, with what CPUs and nodes keep of it and its objects in use
        cache: &str,
    ) -> slab::SlabObjects = |kernel| mm::slab::slab_objects(kernel, cache), try [["task_struct"]];
    /// Look a symbol up by name, or find the one that holds an address
    ///
    /// Symbols are read from the kernel's own kallsyms and from the modules' own tables, in guest memory. A name may be
    /// that of several: all are listed, each with the spelling that means it alone, and every command takes that
    /// spelling. What a stack prints, `NAME+0xOFF [MODULE]`, is a spelling too. A Rust function is found by its path,
    /// whole or from any :: on.
    symbols | "sym"(
        /// The name, or the address with 0x
        what: &str,
    ) -> object::NamedSymbols = |kernel| guest::symbols(kernel, what), try [["schedule"]];
    /// Print a type as the kernel's BTF has it: members, offsets, sizes, holes
    ///
    /// Offsets and sizes are in bytes, from the BTF in guest memory.
    type_of | "struct"(
        /// The type in C: `task_struct`, `struct list_head`, `pid_t`
        ty: &str,
    ) -> kernel::btf::Declaration = |kernel| guest::type_of(kernel, ty), rest [ty], try [["list_head"], ["pid_type"], ["pid_t"]];
    /// Evaluate a C expression on the kernel's memory and print the value
    ///
    /// Operators, casts, arrays and pointer arithmetic are C's; besides sizeof, offsetof, container_of, per_cpu and the
    /// kernel's enumerators. Nothing is written or called. A name that several symbols or types have is an error that
    /// says how each is written: tun:group_show, name_show@2 (the second by its address), struct tun:foo. What is
    /// printed before the equals sign is an expression too.
    eval | "p"(
        /// The expression: `init_task.mm`, `((struct task_struct *)0xffff...)->comm`
        expression: &str,
    ) -> object::Object, rest [expression], try [["init_task.comm"], ["'a' == 97"]];
    /// Walk the list that starts at a `struct list_head`
    ///
    /// A walk is bounded and notices loops. In a notebook the list is drawn as the ring that it is.
    list(
        /// An expression that gives the list's head: `init_task.tasks`, `modules`
        expression: &str,
        /// Show each node as the structure that holds it, TYPE.MEMBER: `task_struct.tasks`
        of: Option<&str>,
        /// Members of that structure to show, with commas between them: `pid,comm`
        show: Option<&str>,
    ) -> view::ListRing = |guest| guest::list(guest, expression, of, show), flags [of, show], rest [expression], try [["init_task.tasks"], ["--of", "task_struct.tasks", "--show", "pid,comm", "init_task.tasks"]];
}
