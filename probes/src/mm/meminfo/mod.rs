//! Use of memory: `/proc/meminfo`, added up as the kernel does (`fs/proc/meminfo.c`, `mm/show_mem.c`).

mod view;

use serde::Serialize;

use crate::Listing;
use crate::kernel::Kernel;
use crate::memory::{GuestVirt, PAGE_SIZE, Paging};
use crate::mm::hugetlb;
use crate::mm::mmzone::{self, words};
use crate::mm::swap;
use crate::mm::vmstat::Pages;
use crate::structures::{list_for_each_entry, offset_of, online_cpus};
use crate::{Error, Named, Of as _, Result};

/// Inodes of block devices that are looked at.
const INODE_BOUND: usize = 1 << 20;

/// A line of `/proc/meminfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemLine {
    /// `MemTotal`, `MemFree`, ..
    pub name: &'static str,
    /// KiB; of the lines that begin with `HugePages_` pages.
    pub value: u64,
}

/// The lines, in the order of `/proc/meminfo`.
pub type MemInfo = Listing<MemLine>;

impl Named for MemLine {
    type Value<'a> = u64;

    fn name(&self) -> &str {
        self.name
    }

    fn value(&self) -> u64 {
        self.value
    }
}

/// Reads the values of `/proc/meminfo`. The counters are those of one instant only while the guest is paused.
pub(crate) fn meminfo(kernel: &Kernel) -> Result<MemInfo> {
    let pages = Pages::read(kernel)?;
    Reader {
        kernel,
        pages,
        lines: MemInfo::new(),
    }
    .all()
}

struct Reader<'k> {
    kernel: &'k Kernel,
    pages: Pages,
    lines: MemInfo,
}

impl Reader<'_> {
    fn kib(&mut self, name: &'static str, value: u64) {
        self.lines.items.push(MemLine { name, value });
    }

    fn pages(&mut self, name: &'static str, pages: u64) {
        self.kib(name, pages.saturating_mul(PAGE_SIZE / 1024));
    }

    /// A line in pages, or why it is not there.
    fn read_pages(&mut self, name: &'static str, pages: Result<u64>) {
        if let Some(pages) = pages.or_miss(&mut self.lines.missing, || name) {
            self.pages(name, pages);
        }
    }

    /// Lines that are read together.
    fn part(&mut self, what: &'static str, read: fn(&mut Self) -> Result<()>) {
        let read = read(self);
        read.or_miss(&mut self.lines.missing, || what);
    }

    /// A counter of nodes or zones, 0 where this kernel has none.
    fn count(&self, item: &str) -> u64 {
        self.pages.get(item).unwrap_or(0)
    }

    /// A line for a counter that not every kernel has.
    fn optional(&mut self, name: &'static str, item: &str) {
        if let Some(pages) = self.pages.get(item) {
            self.pages(name, pages);
        }
    }

    fn long(&self, symbol: &str) -> Result<u64> {
        self.kernel.read_u64(self.kernel.symbol(symbol)?)
    }

    fn int(&self, symbol: &str) -> Result<u64> {
        Ok(self.kernel.read_u32(self.kernel.symbol(symbol)?)?.into())
    }

    fn has(&self, symbol: &str) -> Result<Option<GuestVirt>> {
        Ok(self.kernel.symbols()?.lookup(symbol))
    }

    fn all(mut self) -> Result<MemInfo> {
        let swapcache = self.count("NR_SWAPCACHE");
        self.read_pages("MemTotal", self.long("_totalram_pages"));
        self.pages("MemFree", self.count("NR_FREE_PAGES"));
        self.read_pages("MemAvailable", self.available());
        self.part("Buffers and Cached", Self::cached);
        self.pages("SwapCached", swapcache);
        self.lru();
        self.pages("Mlocked", self.count("NR_MLOCK"));
        self.part("SwapTotal and SwapFree", Self::swap);
        self.part("Zswap and Zswapped", Self::zswap);
        for (name, item) in [
            ("Dirty", "NR_FILE_DIRTY"),
            ("Writeback", "NR_WRITEBACK"),
            ("AnonPages", "NR_ANON_MAPPED"),
            ("Mapped", "NR_FILE_MAPPED"),
            ("Shmem", "NR_SHMEM"),
        ] {
            self.pages(name, self.count(item));
        }
        let reclaimable = self.count("NR_SLAB_RECLAIMABLE_B");
        let unreclaimable = self.count("NR_SLAB_UNRECLAIMABLE_B");
        let misc = self.count("NR_KERNEL_MISC_RECLAIMABLE");
        self.pages("KReclaimable", reclaimable + misc);
        self.pages("Slab", reclaimable + unreclaimable);
        self.pages("SReclaimable", reclaimable);
        self.pages("SUnreclaim", unreclaimable);
        self.kib("KernelStack", self.count("NR_KERNEL_STACK_KB"));
        for (name, item) in [
            ("PageTables", "NR_PAGETABLE"),
            ("SecPageTables", "NR_SECONDARY_PAGETABLE"),
        ] {
            self.pages(name, self.count(item));
        }
        self.kib("NFS_Unstable", 0);
        self.pages("Bounce", self.count("NR_BOUNCE"));
        self.pages("WritebackTmp", self.count("NR_WRITEBACK_TEMP"));
        self.part("CommitLimit and Committed_AS", Self::commit);
        self.part("VmallocUsed", Self::vmalloc);
        self.read_pages("Percpu", self.percpu());
        if let Some(at) = self.has("num_poisoned_pages")? {
            self.read_pages("HardwareCorrupted", self.kernel.read_u64(at));
        }
        self.transparent_huge_pages()?;
        // The symbol is there without CONFIG_CMA too, the member is not.
        if offset_of(self.kernel, "struct zone", "cma_pages").is_ok() {
            self.read_pages("CmaTotal", self.long("totalcma_pages"));
            self.pages("CmaFree", self.count("NR_FREE_CMA_PAGES"));
        }
        for (name, item) in [
            ("Unaccepted", "NR_UNACCEPTED"),
            ("Balloon", "NR_BALLOON_PAGES"),
            ("GPUActive", "NR_GPU_ACTIVE"),
            ("GPUReclaim", "NR_GPU_RECLAIM"),
        ] {
            self.optional(name, item);
        }
        self.part("HugePages_Total and the like", Self::huge_pages);
        self.part("DirectMap4k and the like", Self::direct_map);
        Ok(self.lines)
    }

    fn cached(&mut self) -> Result<()> {
        let buffers = self.blockdev_pages()?;
        let cached = self
            .count("NR_FILE_PAGES")
            .saturating_sub(self.count("NR_SWAPCACHE"))
            .saturating_sub(buffers);
        self.pages("Buffers", buffers);
        self.pages("Cached", cached);
        Ok(())
    }

    fn percpu(&self) -> Result<u64> {
        let units = self.int("pcpu_nr_units")?;
        Ok(self.long("pcpu_nr_populated")?.saturating_mul(units))
    }

    /// The lines that are there with `CONFIG_TRANSPARENT_HUGEPAGE` (`fs/proc/meminfo.c:141@v7.3.4`), which `PREEMPT_RT`
    /// excludes (`mm/Kconfig:837@v7.3.4`). The counters are there without it too, the flags are not: they are in
    /// `huge_memory.o` (`mm/Makefile:101@v7.3.4`).
    fn transparent_huge_pages(&mut self) -> Result<()> {
        if self.has("transparent_hugepage_flags")?.is_none() {
            return Ok(());
        }
        for (name, item) in [
            ("AnonHugePages", "NR_ANON_THPS"),
            ("ShmemHugePages", "NR_SHMEM_THPS"),
            ("ShmemPmdMapped", "NR_SHMEM_PMDMAPPED"),
            ("FileHugePages", "NR_FILE_THPS"),
            ("FilePmdMapped", "NR_FILE_PMDMAPPED"),
        ] {
            self.pages(name, self.count(item));
        }
        Ok(())
    }

    fn lru(&mut self) {
        let anon = (self.count("NR_ACTIVE_ANON"), self.count("NR_INACTIVE_ANON"));
        let file = (self.count("NR_ACTIVE_FILE"), self.count("NR_INACTIVE_FILE"));
        self.pages("Active", anon.0 + file.0);
        self.pages("Inactive", anon.1 + file.1);
        self.pages("Active(anon)", anon.0);
        self.pages("Inactive(anon)", anon.1);
        self.pages("Active(file)", file.0);
        self.pages("Inactive(file)", file.1);
        self.pages("Unevictable", self.count("NR_UNEVICTABLE"));
    }

    /// `nr_blockdev_pages()`: the page cache of block devices.
    fn blockdev_pages(&self) -> Result<u64> {
        let kernel = self.kernel;
        let sb = GuestVirt(self.long("blockdev_superblock")?);
        let head = sb.offset(offset_of(kernel, "struct super_block", "s_inodes")?);
        let member = offset_of(kernel, "struct inode", "i_sb_list")?;
        let mapping = offset_of(kernel, "struct inode", "i_mapping")?;
        let nrpages = offset_of(kernel, "struct address_space", "nrpages")?;
        let mut sum = 0u64;
        for inode in list_for_each_entry(kernel, head, member).bound(INODE_BOUND) {
            let mapping = GuestVirt(kernel.read_u64(inode?.offset(mapping))?);
            sum = sum.saturating_add(kernel.read_u64(mapping.offset(nrpages))?);
        }
        Ok(sum)
    }

    /// `si_mem_available()`
    fn available(&self) -> Result<u64> {
        let mut low = 0u64;
        for node in mmzone::node_addresses(self.kernel)? {
            for zone in mmzone::zone_addresses(self.kernel, node?)? {
                // WMARK_LOW is 1, of an array of words.
                let mark = offset_of(self.kernel, "struct zone", "_watermark")? + 8;
                let boost = offset_of(self.kernel, "struct zone", "watermark_boost")?;
                low = low
                    .wrapping_add(self.kernel.read_u64(zone.offset(mark))?)
                    .wrapping_add(self.kernel.read_u64(zone.offset(boost))?);
            }
        }
        let but = |pages: u64| pages - (pages / 2).min(low);
        let cache = self.count("NR_ACTIVE_FILE") + self.count("NR_INACTIVE_FILE");
        let reclaimable =
            self.count("NR_SLAB_RECLAIMABLE_B") + self.count("NR_KERNEL_MISC_RECLAIMABLE");
        let free = self.count("NR_FREE_PAGES");
        let sum = free
            .saturating_add(but(cache))
            .saturating_add(but(reclaimable));
        Ok(sum.saturating_sub(self.long("totalreserve_pages")?))
    }

    /// `si_swapinfo()`
    fn swap(&mut self) -> Result<()> {
        let areas = swap::areas(self.kernel)?;
        // Pages that `swapoff` has taken off the sums and not emptied yet.
        let leaving = areas.iter().flat_map(|areas| areas.iter());
        let leaving = leaving.filter(|area| !area.writable).map(|area| area.used);
        let leaving = leaving.fold(0, u64::saturating_add);
        let total = self.long("total_swap_pages")?;
        let free = self
            .long("nr_swap_pages")?
            .cast_signed()
            .max(0)
            .cast_unsigned();
        self.pages("SwapTotal", total.saturating_add(leaving));
        self.pages("SwapFree", free.saturating_add(leaving));
        Ok(())
    }

    /// Adds the pages that lie compressed in memory, not in a swap area. Their size is a sum of bytes that the kernel keeps
    /// (`zswap_pool_total_size`, `mm/zswap.c:45@v6.1.192`), or, where it keeps none, that of its pools
    /// (`zswap_total_pages`, `mm/zswap.c:487@v6.12.117`, `mm/zswap.c:498@v7.3.4`).
    fn zswap(&mut self) -> Result<()> {
        let (Some(stored), Some(pools)) =
            (self.has("zswap_stored_pages")?, self.has("zswap_pools")?)
        else {
            return Ok(());
        };
        match self.has("zswap_pool_total_size")? {
            Some(at) => self.kib("Zswap", self.kernel.read_u64(at)? >> 10),
            None => self.pages("Zswap", self.zswap_total_pages(pools)?),
        }
        // An `atomic_t` (`mm/zswap.c:46@v6.12.117`), later an `atomic_long_t` (`mm/zswap.c:47@v7.3.4`). Behind the former is
        // the next variable, or a gap, which is zero.
        let half = stored.offset(4);
        let next = self.kernel.symbol_at(half)?;
        let stored = match next.is_some_and(|next| next.offset == 0) {
            true => self.kernel.read_u32(stored)?.into(),
            false => self.kernel.read_u64(stored)?,
        };
        self.pages("Zswapped", stored);
        Ok(())
    }

    /// `zswap_total_pages()`
    fn zswap_total_pages(&self, pools: GuestVirt) -> Result<u64> {
        let kernel = self.kernel;
        let list = offset_of(kernel, "struct zswap_pool", "list")?;
        let mut sum = 0u64;
        for pool in list_for_each_entry(kernel, pools, list).bound(1024) {
            sum = sum.saturating_add(self.zswap_pool_pages(pool?)?);
        }
        Ok(sum)
    }

    /// The pages of a `struct zswap_pool`: those of its `zs_pool`, or of whatever allocator it has by way of a `zpool`
    /// (`mm/zpool.c:21@v6.12.117`).
    fn zswap_pool_pages(&self, pool: GuestVirt) -> Result<u64> {
        let kernel = self.kernel;
        let follow = |at: GuestVirt, c: &str, member: &str| -> Result<GuestVirt> {
            let at = at.offset(offset_of(kernel, c, member)?);
            kernel.read_u64(at).map(GuestVirt)
        };
        if offset_of(kernel, "struct zswap_pool", "zs_pool").is_ok() {
            let zs = follow(pool, "struct zswap_pool", "zs_pool")?;
            return Ok(follow(zs, "struct zs_pool", "pages_allocated")?.0);
        }
        let zpool = follow(pool, "struct zswap_pool", "zpool")?;
        let driver = follow(zpool, "struct zpool", "driver")?;
        let kind = kernel.read_cstr(follow(driver, "struct zpool_driver", "type")?, 64)?;
        let own = follow(zpool, "struct zpool", "pool")?;
        let (c, pages) = match kind.as_str() {
            "zsmalloc" => ("struct zs_pool", "pages_allocated"),
            "zbud" => ("struct zbud_pool", "pages_nr"),
            other => {
                let why = format!("zswap's pages in a pool of {other} are not known");
                return Err(Error::Unsupported(why));
            }
        };
        Ok(follow(own, c, pages)?.0)
    }

    /// `vm_commit_limit()`, `vm_memory_committed()`
    fn commit(&mut self) -> Result<()> {
        let kernel = self.kernel;
        let total = self.long("_totalram_pages")?;
        let mut huge = 0u64;
        for pool in hugetlb::pools(kernel)? {
            let pool = pool?;
            huge = huge.saturating_add(pool.total.saturating_mul(pool.size / PAGE_SIZE));
        }
        let allowed = match self.long("sysctl_overcommit_kbytes")? {
            0 => {
                let ratio = self.int("sysctl_overcommit_ratio")?;
                total.saturating_sub(huge).saturating_mul(ratio) / 100
            }
            kib => kib / (PAGE_SIZE / 1024),
        };
        self.pages(
            "CommitLimit",
            allowed.saturating_add(self.long("total_swap_pages")?),
        );
        // percpu_counter_sum_positive()
        let at = kernel.symbol("vm_committed_as")?;
        let member = |name| offset_of(kernel, "struct percpu_counter", name);
        let mut sum = kernel.read_u64(at.offset(member("count")?))?.cast_signed();
        let counters = GuestVirt(kernel.read_u64(at.offset(member("counters")?))?);
        for cpu in online_cpus(kernel)? {
            let held = kernel
                .read_u32(kernel.per_cpu(counters, cpu)?)?
                .cast_signed();
            sum = sum.wrapping_add(held.into());
        }
        self.pages("Committed_AS", sum.max(0).cast_unsigned());
        Ok(())
    }

    fn vmalloc(&mut self) -> Result<()> {
        // VMALLOC_SIZE_TB_L4 and VMALLOC_SIZE_TB_L5 of arch/x86/include/asm/pgtable_64_types.h, less one byte.
        let tib: u64 = match self.kernel.space().paging() {
            Some(Paging::FiveLevel) => 12800,
            _ => 32,
        };
        self.kib("VmallocTotal", ((tib << 40) - 1) >> 10);
        let used = match self.has("nr_vmalloc_pages")? {
            Some(at) => self.kernel.read_u64(at)?,
            None => self.count("NR_VMALLOC"),
        };
        self.pages("VmallocUsed", used);
        self.kib("VmallocChunk", 0);
        Ok(())
    }

    /// `hugetlb_report_meminfo()`
    fn huge_pages(&mut self) -> Result<()> {
        let pools = hugetlb::pools(self.kernel)?;
        let pools = pools.into_iter().collect::<Result<Vec<_>>>()?;
        if let Some(pool) = pools.iter().find(|pool| pool.default) {
            self.kib("HugePages_Total", pool.total);
            self.kib("HugePages_Free", pool.free);
            self.kib("HugePages_Rsvd", pool.reserved);
            self.kib("HugePages_Surp", pool.surplus);
            self.kib("Hugepagesize", pool.size / 1024);
            let all = pools.iter().fold(0u64, |sum, pool| {
                sum.saturating_add(pool.total.saturating_mul(pool.size / 1024))
            });
            self.kib("Hugetlb", all);
        }
        Ok(())
    }

    /// `arch_report_meminfo()` of x86: how much of the direct map is mapped by pages of each size.
    fn direct_map(&mut self) -> Result<()> {
        // By enum pg_level: PG_LEVEL_4K is 1.
        let counts = words(self.kernel, self.kernel.symbol("direct_pages_count")?, 4)?;
        let [_, small, large, huge] = counts[..] else {
            let why = "it ends too soon".to_owned();
            return Err(Error::Malformed {
                what: "direct_pages_count",
                why,
            });
        };
        let kib = |count: i64, shift: u32| count.cast_unsigned().wrapping_shl(shift);
        self.kib("DirectMap4k", kib(small, 2));
        self.kib("DirectMap2M", kib(large, 11));
        if self.int("direct_gbpages")? != 0 {
            self.kib("DirectMap1G", kib(huge, 20));
        }
        Ok(())
    }
}
