//! Pools of huge pages: `struct hstate` (`include/linux/hugetlb.h`, `mm/hugetlb.c`).

mod view;

use serde::Serialize;

use crate::Listing;
use crate::kernel::Kernel;
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::object::{FixedStr, Mirror, Plan};
use crate::{Error, Result};

/// Pools that a kernel may have: `HUGE_MAX_HSTATE` is 2 on x86-64.
const POOL_BOUND: u64 = 16;
/// The order of a page of 1 GiB, the largest that x86-64 has.
const LARGEST_ORDER: u32 = 18;

/// The pool of huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HugePool {
    /// Address of its `struct hstate`.
    pub at: GuestVirt,
    /// Its name under `/sys/kernel/mm/hugepages`.
    pub name: String,
    /// Bytes of a page.
    pub size: u64,
    /// Pages that there are, in use or free, surplus ones included: `nr_hugepages`.
    pub total: u64,
    /// Pages that are free: `free_hugepages`.
    pub free: u64,
    /// Free pages that are promised to a mapping: `resv_hugepages`.
    pub reserved: u64,
    /// Pages beyond the pool's size, which go when they are freed: `surplus_hugepages`.
    pub surplus: u64,
    /// Most surplus pages: `nr_overcommit_hugepages`.
    pub overcommit: u64,
    /// True if it is the size that is meant where none is named.
    pub default: bool,
}

/// The pools, one a size.
pub type HugePools = Listing<HugePool>;

#[derive(Debug, Mirror)]
#[mirror(c = "struct hstate")]
struct Hstate {
    order: u32,
    nr_huge_pages: u64,
    free_huge_pages: u64,
    resv_huge_pages: u64,
    surplus_huge_pages: u64,
    nr_overcommit_huge_pages: u64,
    name: FixedStr<32>,
}

/// The pools of huge pages: `/sys/kernel/mm/hugepages`. None where the kernel has no hugetlbfs.
pub(crate) fn hugetlb(kernel: &Kernel) -> Result<HugePools> {
    let mut all = Listing::new();
    for (i, pool) in pools(kernel)?.into_iter().enumerate() {
        all.take(pool, || format!("the pool hstates[{i}]"));
    }
    Ok(all)
}

/// Each pool, or why it could not be read.
pub(crate) fn pools(kernel: &Kernel) -> Result<Vec<Result<HugePool>>> {
    let Some(first) = kernel.symbols()?.lookup("hstates") else {
        return Ok(Vec::new());
    };
    let plan = Plan::<Hstate>::new(kernel)?;
    let index = |symbol: &str| kernel.read_u32(kernel.symbol(symbol)?).map(u64::from);
    let default = index("default_hstate_idx")?;
    let count = index("hugetlb_max_hstate")?;
    let broken = |at, why| Error::Broken {
        what: "hstate",
        at,
        why,
    };
    if count > POOL_BOUND {
        return Err(broken(first, format!("there are {count} of them")));
    }
    let pools = (0..count).map(|i| {
        let at = first.offset(plan.size().wrapping_mul(i));
        let raw = plan.load(at)?;
        if raw.order > LARGEST_ORDER {
            return Err(broken(at, format!("its order is {}", raw.order)));
        }
        Ok(HugePool {
            at,
            name: raw.name.to_str().into_owned(),
            size: PAGE_SIZE << raw.order,
            total: raw.nr_huge_pages,
            free: raw.free_huge_pages,
            reserved: raw.resv_huge_pages,
            surplus: raw.surplus_huge_pages,
            overcommit: raw.nr_overcommit_huge_pages,
            default: i == default,
        })
    });
    Ok(pools.collect())
}
