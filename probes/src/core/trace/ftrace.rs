//! ftrace: its users, and the functions that each hooks (`include/linux/ftrace.h`, `kernel/trace/ftrace.c`).

use serde::Serialize;

use super::BOUND;
use crate::base::check_interrupt;
use crate::kernel::{Function, Functions, Kernel};
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::object::{Mirror, Plan};
use crate::structures::{chain, hlist_for_each_entry, offset_of};
use crate::{Error, Listing, Of as _, Result};

/// Functions that can be hooked, at most: a kernel with all its modules has some 100,000.
const RECORDS: usize = 1 << 21;
/// Functions in one user's filter that are named at most; the rest is counted.
const NAMED: usize = 1 << 12;
/// Buckets of a filter: `FTRACE_HASH_MAX_BITS` of `kernel/trace/ftrace.c` is 12.
const BUCKET_BITS: u64 = 16;

/// A user of ftrace: a `struct ftrace_ops`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FtraceOps {
    /// Address.
    pub at: GuestVirt,
    /// The symbol that it lies in; those of probes and programs are on the heap.
    pub name: Function,
    /// Function that is called at each hooked function.
    pub func: Function,
    /// `FTRACE_OPS_FL_*`
    pub flags: u64,
    /// The code that calls that, where it was made for this user alone.
    pub trampoline: Option<GuestVirt>,
    /// Bytes of it.
    pub trampoline_size: u64,
    /// Number of functions that it wants; `None` for all.
    pub filter_count: Option<u64>,
    /// Their names, of the first thousands of them.
    pub filter: Vec<Function>,
}

/// A function that is hooked: a `struct dyn_ftrace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TracedFunction {
    /// The place in it that calls the hook.
    pub function: Function,
    /// Number of users that hook it.
    pub count: u64,
    /// Flags: a user wants the registers, may change where the function returns to, or is called directly: `R`, `I`,
    /// `D`.
    pub flags: String,
    /// Target of the call there; `None` if there is no call.
    pub calls: Option<Function>,
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct ftrace_ops")]
struct Ops {
    func: GuestVirt,
    flags: u64,
    func_hash: GuestVirt,
    trampoline: GuestVirt,
    trampoline_size: u64,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct ftrace_hash")]
struct Hash {
    size_bits: u64,
    buckets: GuestVirt,
    count: u64,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct ftrace_page")]
struct Page {
    records: GuestVirt,
    index: u32,
    order: u32,
}

/// `MAX_PAGE_ORDER` of `include/linux/mmzone.h`.
const MAX_ORDER: u32 = 10;

/// Bits of a record's flags, and those that count its users.
struct Flags {
    count: u64,
    enabled: u64,
    letters: Vec<(u64, char)>,
}

impl Flags {
    fn of(kernel: &Kernel) -> Result<Self> {
        let names = [
            "ENABLED",
            "REGS",
            "REGS_EN",
            "TRAMP",
            "TRAMP_EN",
            "IPMODIFY",
            "DISABLED",
            "DIRECT",
            "DIRECT_EN",
            "CALL_OPS",
            "CALL_OPS_EN",
            "TOUCHED",
            "MODIFIED",
        ];
        let flag = |name: &str| kernel.constant(&format!("FTRACE_FL_{name}"));
        // The bits below the lowest flag that this kernel has are the count.
        let all = names.iter().filter_map(|name| flag(name).ok());
        let lowest = all.min().filter(|lowest| *lowest > 0).unwrap_or(1);
        Ok(Self {
            count: lowest as u64 - 1,
            enabled: flag("ENABLED")? as u64,
            letters: vec![
                (flag("REGS")? as u64, 'R'),
                (flag("IPMODIFY")? as u64, 'I'),
                (flag("DIRECT")? as u64, 'D'),
            ],
        })
    }
}

/// A place where functions can be hooked, and what ftrace knows of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    /// The instruction: a NOP or a call.
    pub(crate) ip: GuestVirt,
    /// Number of users that hook it.
    pub(crate) count: u64,
    /// True if it is a call now.
    pub(crate) enabled: bool,
    flags: u64,
}

/// Each place that ftrace knows.
pub(crate) fn records(kernel: &Kernel) -> Result<Listing<Record>> {
    let flags = kernel.once(|| Flags::of(kernel))?;
    let c = "struct dyn_ftrace";
    let (ip, at_flags) = (
        offset_of(kernel, c, "ip")? as usize,
        offset_of(kernel, c, "flags")? as usize,
    );
    let size = kernel.c_type(c)?.size()? as usize;
    let first = GuestVirt(kernel.read_u64(kernel.symbol("ftrace_pages_start")?)?);
    let next = offset_of(kernel, "struct ftrace_page", "next")?;
    let plan = Plan::<Page>::new(kernel)?;
    let mut records = Listing::new();
    let pages = Listing::walk("the pages of ftrace's records", chain(kernel, first, next));
    records.missing = pages.missing;
    for at in pages.items {
        let page = match plan.load(at) {
            Ok(page) => page,
            Err(error) => {
                records.miss(format!("the ftrace_page at {at}"), &error);
                continue;
            }
        };
        let count = page.index as usize;
        // ENTRIES_PER_PAGE_GROUP of kernel/trace/ftrace.c.
        let room = (PAGE_SIZE as usize) << page.order.min(MAX_ORDER);
        if page.order > MAX_ORDER || count.saturating_mul(size) > room {
            let why = format!(
                "it says {count} records of {size} bytes in 2^{} pages",
                page.order
            );
            let error = Error::broken("ftrace_page", at, why);
            records.miss(format!("the ftrace_page at {at}"), &error);
            continue;
        }
        if records.len() + count > RECORDS {
            let error = Error::TooLong {
                what: "ftrace's list of functions",
                at,
                bound: RECORDS,
            };
            records.miss(
                format!("the ftrace_page at {at} and those behind it"),
                &error,
            );
            break;
        }
        // As many at a time as lie in some pages, so that a lie about the count costs little.
        let batch = (16 * PAGE_SIZE as usize / size.max(1)).max(1);
        let mut bytes = vec![0; batch * size];
        for start in (0..count).step_by(batch) {
            check_interrupt();
            let len = (count - start).min(batch) * size;
            let Some(bytes) = bytes.get_mut(..len) else {
                break;
            };
            let from = page.records.offset((start * size) as u64);
            if let Err(error) = kernel.read(from, bytes) {
                records.miss(format!("{} records at {from}", len / size.max(1)), &error);
                continue;
            }
            for record in bytes.chunks_exact(size) {
                let word = |at: usize| {
                    let word = record.get(at..at + 8).and_then(|w| w.try_into().ok());
                    word.map_or(0, u64::from_le_bytes)
                };
                let raw = word(at_flags);
                // The place of a function that was freed.
                if word(ip) == 0 {
                    continue;
                }
                records.items.push(Record {
                    ip: GuestVirt(word(ip)),
                    count: raw & flags.count,
                    enabled: raw & flags.enabled != 0,
                    flags: raw,
                });
            }
        }
    }
    Ok(records)
}

/// The functions that are hooked, by address.
pub(super) fn enabled(
    kernel: &Kernel,
    functions: &Functions<'_>,
) -> Result<Listing<TracedFunction>> {
    let flags = kernel.once(|| Flags::of(kernel))?;
    let records = records(kernel)?;
    let mut enabled = Listing::new();
    for record in records.iter().filter(|record| record.enabled) {
        let letters = flags.letters.iter();
        let letters = letters.filter(|(flag, _)| record.flags & flag != 0);
        let traced = || {
            Ok(TracedFunction {
                function: functions.at(record.ip)?,
                count: record.count,
                flags: letters.map(|(_, letter)| *letter).collect(),
                calls: match call_at(kernel, record.ip)? {
                    Some(target) => Some(functions.at(target)?),
                    None => None,
                },
            })
        };
        enabled.take(traced(), || format!("the function at {}", record.ip));
    }
    enabled.missing.extend(records.missing);
    enabled.sort_by_key(|traced| traced.function.at);
    Ok(enabled)
}

/// Finds the target of the call at `at`, if there is one: `e8` and 32 bits that count from the next instruction.
pub(crate) fn call_at(kernel: &Kernel, at: GuestVirt) -> Result<Option<GuestVirt>> {
    let mut bytes = [0; 5];
    kernel.read(at, &mut bytes)?;
    let [0xe8, a, b, c, d] = bytes else {
        return Ok(None);
    };
    let distance = i64::from(i32::from_le_bytes([a, b, c, d]));
    Ok(Some(GuestVirt(
        at.offset(5).0.wrapping_add_signed(distance),
    )))
}

/// The users of ftrace.
pub(crate) fn ops(kernel: &Kernel, functions: &Functions<'_>) -> Result<Listing<FtraceOps>> {
    let first = GuestVirt(kernel.read_u64(kernel.symbol("ftrace_ops_list")?)?);
    let end = kernel.symbol("ftrace_list_end")?;
    let next = offset_of(kernel, "struct ftrace_ops", "next")?;
    let plan = Plan::<Ops>::new(kernel)?;
    let mut all = Listing::new();
    let nodes = Listing::walk("ftrace_ops_list", chain(kernel, first, next).until(end));
    all.missing = nodes.missing;
    for at in nodes.items {
        let ops = || {
            let raw = plan.load(at)?;
            let (filter_count, filter) = filter(kernel, functions, raw.func_hash)
                .of(|| format!("its func_hash {}", raw.func_hash))?;
            Ok(FtraceOps {
                at,
                name: functions.at(at)?,
                func: functions.at(raw.func)?,
                flags: raw.flags,
                trampoline: (!raw.trampoline.is_null()).then_some(raw.trampoline),
                trampoline_size: raw.trampoline_size,
                filter_count,
                filter,
            })
        };
        all.take(ops(), || format!("the ftrace_ops at {at}"));
    }
    Ok(all)
}

/// The functions of a filter: how many, and by name. An empty one lets all through.
fn filter(
    kernel: &Kernel,
    functions: &Functions<'_>,
    func_hash: GuestVirt,
) -> Result<(Option<u64>, Vec<Function>)> {
    let hash = offset_of(kernel, "struct ftrace_ops_hash", "filter_hash")?;
    let at = GuestVirt(kernel.read_u64(func_hash.offset(hash))?);
    if at.is_null() {
        return Ok((None, Vec::new()));
    }
    let hash: Hash = kernel.load(at)?;
    if hash.count == 0 {
        return Ok((None, Vec::new()));
    }
    if hash.size_bits > BUCKET_BITS {
        let why = format!("it has 2^{} buckets", hash.size_bits);
        return Err(Error::Broken {
            what: "ftrace_hash",
            at,
            why,
        });
    }
    let c = "struct ftrace_func_entry";
    let (node, ip) = (offset_of(kernel, c, "hlist")?, offset_of(kernel, c, "ip")?);
    let mut named = Vec::new();
    for bucket in 0..1u64 << hash.size_bits {
        let head = hash.buckets.offset(bucket * 8);
        for entry in hlist_for_each_entry(kernel, head, node).bound(BOUND) {
            if named.len() < NAMED {
                let ip = GuestVirt(kernel.read_u64(entry?.offset(ip))?);
                named.push(functions.at(ip)?);
            }
        }
    }
    named.sort_by_key(|function| function.at);
    Ok((Some(hash.count), named))
}
