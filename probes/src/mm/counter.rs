//! The pages that an address space holds, by kind (`include/linux/mm_types_task.h`, `lib/percpu_counter.c`).

use serde::Serialize;

use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::structures::{array, enumerator, offset_of, online_cpus};
use crate::{Error, Missing, Of as _, Result};

/// One counter of pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RssCounter {
    /// The shared part alone, as `get_mm_counter()` reads it: may lag behind by what the CPUs hold back.
    pub count: i64,
    /// Count with what each CPU holds back, as `percpu_counter_sum()` adds it up; `None` where that cannot be read.
    pub sum: Option<i64>,
}

/// The resident pages of an address space, `mm_struct.rss_stat`, in pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rss {
    /// `MM_FILEPAGES`: of files.
    pub file: RssCounter,
    /// `MM_ANONPAGES`: anonymous.
    pub anon: RssCounter,
    /// `MM_SWAPENTS`: swapped out, so not resident.
    pub swap: RssCounter,
    /// `MM_SHMEMPAGES`: of shared memory and tmpfs.
    pub shmem: RssCounter,
}

impl Rss {
    /// Resident pages, `get_mm_rss()`: all but those in swap, none below zero. `None` where the part of one is not known.
    #[must_use]
    pub fn resident(&self) -> Option<u64> {
        [self.file, self.anon, self.shmem]
            .iter()
            .try_fold(0_u64, |sum, counter| {
                Some(sum.saturating_add(counter.sum?.max(0).cast_unsigned()))
            })
    }

    /// Reads the counters of the `mm_struct` at `mm`: an array of `percpu_counter` or, in older kernels, of
    /// `atomic_long_t`.
    pub(super) fn read(kernel: &Kernel, mm: GuestVirt, missing: &mut Vec<Missing>) -> Result<Self> {
        let (at, count, stride) = array(kernel, "struct mm_struct", "rss_stat")
            .or_else(|_| array(kernel, "struct mm_struct", "rss_stat.count"))?;
        let per_cpu = PerCpu::of(kernel, stride)?;
        let cpus = if per_cpu.is_some() {
            online_cpus(kernel)?
        } else {
            Vec::new()
        };
        let mut read = |name: &'static str| -> Result<RssCounter> {
            let Some(index) = enumerator(kernel, name)? else {
                return Err(Error::Unsupported(format!(
                    "{} has no counter {name}",
                    kernel.release()
                )));
            };
            let index = u64::try_from(index)
                .ok()
                .filter(|i| *i < count as u64)
                .ok_or_else(|| Error::Malformed {
                    what: "BTF",
                    why: format!("{name} is {index}, but rss_stat has {count} counters"),
                })?;
            let counter = mm.offset(at + stride * index);
            let count = kernel.read_u64(counter.offset(per_cpu.map_or(0, |of| of.count)))?;
            let count = count.cast_signed();
            let sum = match per_cpu {
                None => Some(count),
                Some(of) => held_back(kernel, counter.offset(of.counters), &cpus)
                    .or_miss(missing, || format!("what each CPU holds back of {name}"))
                    .map(|held| count.wrapping_add(held)),
            };
            Ok(RssCounter { count, sum })
        };
        Ok(Self {
            file: read("MM_FILEPAGES")?,
            anon: read("MM_ANONPAGES")?,
            swap: read("MM_SWAPENTS")?,
            shmem: read("MM_SHMEMPAGES")?,
        })
    }
}

/// Offsets of the members of `struct percpu_counter`.
#[derive(Debug, Clone, Copy)]
struct PerCpu {
    count: u64,
    counters: u64,
}

impl PerCpu {
    /// `None` if a counter is one plain word: no `percpu_counter` is.
    fn of(kernel: &Kernel, stride: u64) -> Result<Option<Self>> {
        if stride == 8 {
            return Ok(None);
        }
        let at = |member| offset_of(kernel, "struct percpu_counter", member);
        Ok(Some(Self {
            count: at("count")?,
            counters: at("counters")?,
        }))
    }
}

/// The sum of what each CPU holds back of a `percpu_counter`, whose `counters` is at `at`.
fn held_back(kernel: &Kernel, at: GuestVirt, cpus: &[u32]) -> Result<i64> {
    let counters = GuestVirt(kernel.read_u64(at)?);
    // Without per-CPU memory the counter is not set up, or torn down.
    if counters.is_null() {
        return Ok(0);
    }
    let mut sum = 0_i64;
    for cpu in cpus {
        let held = kernel.read_u32(kernel.per_cpu(counters, *cpu)?)?;
        sum = sum.wrapping_add(i64::from(held.cast_signed()));
    }
    Ok(sum)
}
