//! Walks of the task list and reads of memory, beside C on the same mapping.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use probes::guest::Guest;
use probes::kernel::Kernel;
use probes::memory::{AddressSpace, GuestVirt};
use probes::object::{FixedStr, Mirror, Plan};
use probes::sched::for_each_process;
use vm::Machine;

use crate::peers::{self, Asked, Chase, Drgn, Walk};
use crate::report::{Better, Report};
use crate::{median, say};

/// Walks of the task list whose median is taken.
const WALKS: usize = 2000;
/// Random reads.
const READS: u64 = 4_000_000;
/// Place and length of the reads, in bytes: RAM that a guest that has booted uses.
const FROM: u64 = 16 << 20;
const SPAN: u64 = 96 << 20;
/// Bytes of one bulk read, which is more than a processor's nearest caches hold.
const BLOCK: usize = 1 << 20;
/// Number of times that all of the span is read in bulk.
const SWEEPS: usize = 9;

/// The rows of a guest as it is after its boot.
pub(crate) fn run(name: &str, drgn: &Result<Drgn, String>, report: &mut Report) -> Result<()> {
    say("walks and reads");
    let guest = Guest::attach(name)?;
    let reading = guest
        .paused(|guest| Ok(reading(name, &guest.kernel()?)))?
        .context("the walks and reads were not measured")?;
    let Reading { ours, theirs, .. } = &reading;
    let count = ours.tasks as f64;
    report
        .add(
            "task walk (pid, comm, mm, state), cold",
            ours.cold / count,
            "ns/task",
            Better::Smaller,
        )
        .target(1000.0)
        .peer("C on the mapping", theirs.walk.cold / count)
        .note(format!("{} tasks, one walk each", ours.tasks));
    report
        .add(
            "task walk (pid, comm, mm, state), warm",
            ours.warm / count,
            "ns/task",
            Better::Smaller,
        )
        .target(50.0)
        .peer("C on the mapping", theirs.walk.warm / count)
        .note(format!("{WALKS} walks"));
    if let Ok(drgn) = drgn {
        report
            .add(
                "the same beside drgn, warm",
                ours.warm / count,
                "ns/task",
                Better::Smaller,
            )
            .peer("drgn --qemu", drgn.walk);
    }
    let rate = |seconds: f64| READS as f64 / seconds / 1e6;
    let (c, span) = (rate(theirs.reads), SPAN >> 20);
    report
        .add(
            "random 8-byte reads, direct map",
            rate(reading.linear),
            "M/s",
            Better::Larger,
        )
        .target(18.0)
        .peer("C on the mapping", c)
        .note(format!("{} M reads in {span} MiB", READS / 1_000_000));
    report
        .add(
            "random 8-byte reads, by page tables",
            rate(reading.tables),
            "M/s",
            Better::Larger,
        )
        .peer("C on the mapping", c)
        .note("C does not translate");
    let speed = |seconds: f64| SPAN as f64 / seconds / 1e9;
    let memcpy = speed(theirs.bulk);
    report
        .add(
            "bulk reads, direct map",
            speed(reading.bulk),
            "GB/s",
            Better::Larger,
        )
        .target(0.8 * memcpy)
        .peer("C's memcpy", memcpy)
        .note(format!("{span} MiB by 1 MiB; the target is 80 % of memcpy"));
    Ok(())
}

/// Walks the task list of a paused guest, and has C walk it and read as asked. Both must have read the same.
pub(crate) fn both(name: &str, kernel: &Kernel, asked: &Asked) -> Result<(Walk, Chase)> {
    let ours = walk(kernel, asked.walks)?;
    let theirs = peers::chase(&Machine::attach(name)?, kernel, asked)?;
    if (ours.tasks, ours.sum) != (theirs.walk.tasks, theirs.walk.sum) {
        bail!(
            "the walks of klab and of C differ, though the guest is paused: this is a bug of klab"
        );
    }
    Ok((ours, theirs))
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct Entry {
    pid: i32,
    comm: FixedStr<16>,
    mm: GuestVirt,
    #[mirror(member = "__state", or = "state")]
    state: u64,
}

/// Walks the task list once cold, then so often warm.
fn walk(kernel: &Kernel, walks: usize) -> Result<Walk> {
    let plan = Plan::<Entry>::new(kernel)?;
    let once = || -> Result<(u64, u64)> {
        let (mut tasks, mut sum) = (0, 0_u64);
        for task in for_each_process(kernel)? {
            let entry = plan.load(task?)?;
            let half = |at: usize| {
                entry.comm.0[at..at + 8]
                    .try_into()
                    .map_or(0, u64::from_le_bytes)
            };
            let (low, high) = (half(0), half(8));
            let pid = u64::from(entry.pid.cast_unsigned());
            sum = sum
                .wrapping_mul(31)
                .wrapping_add(pid)
                .wrapping_add(low)
                .wrapping_add(high)
                .wrapping_add(entry.mm.0)
                .wrapping_add(entry.state);
            tasks += 1;
        }
        Ok((tasks, sum))
    };
    let start = Instant::now();
    let (tasks, sum) = once()?;
    let cold = start.elapsed().as_nanos() as f64;
    let mut warm = Vec::with_capacity(walks);
    for _ in 0..walks {
        let start = Instant::now();
        std::hint::black_box(once()?);
        warm.push(start.elapsed().as_nanos() as f64);
    }
    Ok(Walk {
        tasks,
        sum,
        cold,
        warm: median(warm),
    })
}

/// Figures of one guest. Reads are in seconds.
#[derive(Debug)]
struct Reading {
    ours: Walk,
    theirs: Chase,
    linear: f64,
    tables: f64,
    bulk: f64,
}

fn reading(name: &str, kernel: &Kernel) -> Result<Reading> {
    let asked = Asked {
        walks: WALKS,
        reads: READS,
        from: FROM,
        span: SPAN,
        block: BLOCK,
        sweeps: SWEEPS,
    };
    let (ours, theirs) = both(name, kernel, &asked)?;
    let space = kernel.space();
    let (Some(root), Some(paging)) = (space.root(), space.paging()) else {
        bail!("the kernel has no page tables")
    };
    let by_tables = AddressSpace::paged(space.memory().clone(), root, paging);
    let base = kernel.page_offset_base()?;
    let (linear, first) = reads(space, base)?;
    let (tables, second) = reads(&by_tables, base)?;
    if first != second || first != theirs.sum {
        bail!(
            "the random reads of klab and of C differ, though the guest is paused: this is a bug of klab"
        );
    }
    Ok(Reading {
        ours,
        theirs,
        linear,
        tables,
        bulk: bulk(space, base)?,
    })
}

/// Seconds of all random reads, and the sum of what they read.
fn reads(space: &AddressSpace, base: GuestVirt) -> Result<(f64, u64)> {
    for page in (0..SPAN).step_by(4096) {
        space.read_u64(base.offset(FROM + page))?;
    }
    let (mut x, mut sum) = (peers::SEED, 0_u64);
    let start = Instant::now();
    for _ in 0..READS {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let at = FROM + ((x % (SPAN - 8)) & !7);
        sum = sum.wrapping_add(space.read_u64(base.offset(at))?);
    }
    Ok((start.elapsed().as_secs_f64(), sum))
}

/// Seconds of a read of the whole span, block by block; the median.
fn bulk(space: &AddressSpace, base: GuestVirt) -> Result<f64> {
    let mut block = vec![0; BLOCK];
    let mut took = Vec::with_capacity(SWEEPS);
    for _ in 0..SWEEPS {
        let start = Instant::now();
        for at in (FROM..FROM + SPAN).step_by(BLOCK) {
            space.read(base.offset(at), &mut block)?;
            std::hint::black_box(&mut block);
        }
        took.push(start.elapsed().as_secs_f64());
    }
    Ok(median(took))
}
