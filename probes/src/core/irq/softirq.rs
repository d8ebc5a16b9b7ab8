//! Softirqs: what interrupts leave for later (`include/linux/interrupt.h`, `kernel/softirq.c`).

use serde::Serialize;

use super::NAME;
use crate::kernel::{Function, Functions, Kernel};
use crate::memory::GuestVirt;
use crate::structures::{array, offset_of, online_cpus, per_cpu_ptr};
use crate::{Error, Listing, Missing, Of as _, Result};

/// More than any kernel has: `NR_SOFTIRQS` is 10, and what is pending is a 16-bit mask.
const MOST: usize = 16;
/// A CPU's mask of pending softirqs, by kernel: a variable, and the member of it.
const PENDING: [(&str, Option<(&str, &str)>); 3] = [
    ("__softirq_pending", None),
    ("pcpu_hot", Some(("struct pcpu_hot", "softirq_pending"))),
    ("irq_stat", Some(("irq_cpustat_t", "__softirq_pending"))),
];

/// One kind of softirq.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Softirq {
    /// Its name: `NET_RX`.
    pub name: String,
    /// Function that is called; `None` as long as nobody registered one.
    pub action: Option<Function>,
    /// Number of runs on each CPU.
    pub counts: Vec<u64>,
    /// True if it waits to be run, on each CPU; `None` where the CPU's mask could not be read.
    pub pending: Vec<Option<bool>>,
}

/// The softirqs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Softirqs {
    /// The CPUs that are online, in the order of all counts.
    pub cpus: Vec<u32>,
    /// The softirqs, the most urgent first.
    pub softirqs: Vec<Softirq>,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// The softirqs, how often each ran on each CPU, and what is pending: `/proc/softirqs`.
pub(crate) fn softirqs(kernel: &Kernel) -> Result<Softirqs> {
    let functions = Functions::new(kernel);
    let cpus = online_cpus(kernel)?;
    let (counters, count, size) = array(kernel, "struct kernel_stat", "softirqs")?;
    if count > MOST || size != 4 {
        let why = format!("it has {count} softirqs of {size} bytes");
        return Err(Error::Malformed {
            what: "struct kernel_stat",
            why,
        });
    }
    let mut list = Listing::new();
    let mut masks: Vec<Option<u16>> = Vec::new();
    for cpu in &cpus {
        let mask = pending(kernel, *cpu);
        let name = || format!("what is pending on CPU {cpu}");
        masks.push(mask.or_miss(&mut list.missing, name));
    }
    let names = kernel.symbol("softirq_to_name")?;
    let actions = kernel.symbol("softirq_vec")?;
    let softirq = |nr: u64| {
        // Both are arrays of pointers: struct softirq_action has nothing but one.
        let name = GuestVirt(kernel.read_u64(names.offset(nr * 8))?);
        let action = GuestVirt(kernel.read_u64(actions.offset(nr * 8))?);
        let counts = cpus.iter().map(|cpu| {
            let stat = per_cpu_ptr(kernel, "kstat", *cpu)?;
            Ok(kernel.read_u32(stat.offset(counters + nr * size))?.into())
        });
        Ok(Softirq {
            name: kernel.read_cstr(name, NAME)?,
            action: functions.of(action)?,
            counts: counts.collect::<Result<_>>()?,
            pending: masks
                .iter()
                .map(|mask| Some((*mask)? >> nr & 1 == 1))
                .collect(),
        })
    };
    for nr in 0..count as u64 {
        list.take(softirq(nr), || format!("softirq {nr}"));
    }
    Ok(Softirqs {
        softirqs: list.items,
        missing: list.missing,
        cpus,
    })
}

/// `local_softirq_pending()` of a CPU.
fn pending(kernel: &Kernel, cpu: u32) -> Result<u16> {
    for (symbol, member) in PENDING {
        let offset = match member {
            None => Ok(0),
            Some((c, member)) => offset_of(kernel, c, member),
        };
        if let (Some(_), Ok(offset)) = (kernel.symbols()?.lookup(symbol), offset) {
            return kernel.read_u16(per_cpu_ptr(kernel, symbol, cpu)?.offset(offset));
        }
    }
    Err(Error::Unsupported(format!(
        "{} keeps its pending softirqs where klab does not look",
        kernel.release()
    )))
}
