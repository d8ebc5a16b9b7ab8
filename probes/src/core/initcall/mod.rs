//! Initcalls: what `fs_initcall(inet_init)` and its like leave behind (`include/linux/init.h`, `init/main.c`).
//!
//! Each puts the address of a function into a section of its level, which the linker lines up between symbols; the kernel
//! calls one after the other while it boots. The table is memory that is given back before the first program runs, so
//! only a guest that is held before has it: [`Guest::held_at_boot`].

mod view;

use std::time::{Duration, Instant};

use serde::Serialize;
use vm::{Machine, Options, Owner, Silent, Start};

use crate::Listing;
use crate::base::check_interrupt;
use crate::guest::Guest;
use crate::kernel::{Functions, Kernel};
use crate::memory::{GuestVirt, RamFile};
use crate::{Error, Result};

/// The levels, in the order of their calls, by the symbols that begin them (`INIT_CALLS`,
/// `include/asm-generic/vmlinux.lds.h`), with the macro that puts a function there.
const LEVELS: [(&str, &str); 10] = [
    ("__initcall_start", "early_initcall"),
    ("__initcall0_start", "pure_initcall"),
    ("__initcall1_start", "core_initcall"),
    ("__initcall2_start", "postcore_initcall"),
    ("__initcall3_start", "arch_initcall"),
    ("__initcall4_start", "subsys_initcall"),
    ("__initcall5_start", "fs_initcall"),
    ("__initcallrootfs_start", "rootfs_initcall"),
    ("__initcall6_start", "device_initcall"),
    ("__initcall7_start", "late_initcall"),
];
/// Initcalls that a kernel may have, as far as we read.
const BOUND: u64 = 1 << 14;
/// Time limit for a guest to reach the point where it is held.
const PATIENCE: Duration = Duration::from_secs(180);

/// An entry of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Initcall {
    /// The macro of its level; one with `_sync` is of the same level, behind the others.
    pub level: &'static str,
    /// Address of its entry in the table.
    pub entry: GuestVirt,
    /// Function that is called.
    pub at: GuestVirt,
    /// Its name.
    pub name: String,
}

/// The table, in the order of the calls.
pub type Initcalls = Listing<Initcall>;

impl Guest {
    /// Boots a guest `name` of the default kernel, and holds it when the kernel has set itself up and before it gives
    /// back the memory of its `__init` parts. It lives as long as this process; `guest.machine()?.resume()?` lets it
    /// go on. Its log has the name of each initcall.
    ///
    /// # Errors
    /// As [`Machine::up`]; when the guest comes too far before it can be read, which a busy host does: try again.
    pub fn held_at_boot(name: &str) -> Result<Self> {
        let options = Options {
            owner: Owner::ThisProcess,
            start: Start::Held,
            ..Options::default()
        };
        let machine = Machine::up(name, &options, &mut Silent)?;
        let held = hold(&machine).and_then(|()| Self::attach(name));
        if held.is_err() {
            // The first error is the one to tell.
            let _ = machine.down();
        }
        held
    }

    /// The table of initcalls.
    ///
    /// # Errors
    /// When the kernel has given its memory back, as every guest that is up has.
    pub fn initcalls(&self) -> Result<Initcalls> {
        read(&self.kernel()?)
    }
}

/// Lets the guest boot, a few milliseconds at a time, until its kernel can be read.
fn hold(machine: &Machine) -> Result<()> {
    let file = machine.ram()?;
    let ram = RamFile::open(&file.path, &file.ranges)?;
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        check_interrupt();
        machine.resume()?;
        std::thread::sleep(Duration::from_millis(20));
        machine.pause()?;
        // Until it has written down its VMCOREINFO (a subsys_initcall), there is no kernel to be found.
        let Ok(kernel) = Kernel::discover(std::sync::Arc::new(ram.clone())) else {
            continue;
        };
        return if has_init_memory(&kernel)? {
            Ok(())
        } else {
            Err(Error::machine(
                "the guest had given its init memory back before it could be held: try again, perhaps with less to do for this machine"
                    .to_owned(),
            ))
        };
    }
    Err(Error::machine(format!(
        "no kernel was found in the guest within {} s of its boot",
        PATIENCE.as_secs()
    )))
}

/// `system_state` says how far the boot is (`include/linux/kernel.h`).
fn has_init_memory(kernel: &Kernel) -> Result<bool> {
    kernel.eval("system_state < SYSTEM_FREEING_INITMEM")?.bool()
}

fn read(kernel: &Kernel) -> Result<Initcalls> {
    if !has_init_memory(kernel)? {
        return Err(Error::Absent(
            "the kernel has given the table of initcalls back, with all of its init memory, before its first program ran: \
             Guest::held_at_boot(\"boot\") boots a guest that still has it"
                .to_owned(),
        ));
    }
    let end = kernel.symbol("__initcall_end")?;
    let mut starts = Vec::new();
    for (symbol, level) in LEVELS {
        starts.push((kernel.symbol(symbol)?, level));
    }
    // A place relative to the entry, or a pointer where CONFIG_HAVE_ARCH_PREL32_RELOCATIONS is not set.
    let size = kernel.c_type("initcall_entry_t")?.size()?;
    let functions = Functions::new(kernel);
    let mut calls = Initcalls::new();
    for (i, (start, level)) in starts.iter().enumerate() {
        let stop = starts.get(i + 1).map_or(end, |(next, _)| *next);
        let bytes = stop.0.checked_sub(start.0).unwrap_or(u64::MAX);
        if bytes > BOUND * size || !matches!(size, 4 | 8) {
            return Err(Error::Broken {
                what: "table of initcalls",
                at: *start,
                why: format!("{level} has {bytes} bytes of entries of {size} each"),
            });
        }
        let call = |entry: GuestVirt| {
            let at = if size == 4 {
                let relative = kernel.read_u32(entry)?.cast_signed();
                GuestVirt(entry.0.wrapping_add_signed(relative.into()))
            } else {
                GuestVirt(kernel.read_u64(entry)?)
            };
            let name = functions.at(at)?.name.unwrap_or_else(|| at.to_string());
            Ok(Initcall {
                level,
                entry,
                at,
                name,
            })
        };
        for entry in (0..bytes / size).map(|i| start.offset(i * size)) {
            calls.take(call(entry), || format!("the entry at {entry}"));
        }
    }
    Ok(calls)
}
