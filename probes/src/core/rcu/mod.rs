//! RCU: the grace period that is under way, which CPUs it waits for, and what waits for it (`kernel/rcu/tree.h`).

mod view;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::kernel::{Function, Functions, Kernel};
use crate::memory::GuestVirt;
use crate::object::{Mirror, Object, Plan};
use crate::structures::{chain, offset_of, online_cpus, per_cpu_ptr, settle};
use crate::{Listing, Missing, Of as _, Result};

/// `RCU_SEQ_CTR_SHIFT` of `kernel/rcu/rcu.h`: the bits below say whether a grace period is under way.
const CTR_SHIFT: u32 = 2;
/// Bytes of the longest name.
const NAME: usize = 64;
/// More states than a grace period's thread has.
const STATES: i16 = 16;
/// The parts of a list of callbacks: `RCU_CBLIST_NSEGS`.
const SEGMENTS: usize = 4;

/// Callbacks of one kind that wait on a CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RcuCallbacks {
    /// Function that will be called.
    pub func: Function,
    /// Number of callbacks.
    pub count: usize,
}

/// RCU's state of a CPU: its `struct rcu_data`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RcuCpu {
    /// The CPU.
    pub cpu: u32,
    /// Address.
    pub at: GuestVirt,
    /// The grace period that it knows of, counted as `Rcu::gp` is.
    pub gp: i64,
    /// True if the present grace period waits for it to pass through a quiescent state.
    pub waited_for: bool,
    /// True if it itself knows that it has not passed through one.
    pub needs_qs: bool,
    /// Callbacks that wait, by how far they are: their grace period is over, is under way, comes next, is not known.
    pub segments: [u64; SEGMENTS],
    /// Number of all of them: `rcu_segcblist.len`.
    pub len: u64,
    /// They, by what is called.
    pub callbacks: Vec<RcuCallbacks>,
    /// Callbacks that it has called since boot.
    pub invoked: u64,
}

/// The state of RCU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rcu {
    /// Its flavour: `rcu_sched`, `rcu_preempt`; `None` if its name could not be read.
    pub name: Option<String>,
    /// The number of the last grace period that is over. The kernel begins at -300, so that a counter that wraps is noticed.
    pub gp: i64,
    /// True if the next one is under way.
    pub under_way: bool,
    /// State of its thread: `RCU_GP_IDLE`, `RCU_GP_WAIT_FQS`; `None` if its name could not be read.
    pub state: Option<String>,
    /// Pid of that thread.
    pub gp_kthread: Option<i32>,
    /// Expedited grace periods that are over.
    pub expedited: u64,
    /// Number of times that it looked for idle CPUs instead of waiting for them.
    pub forced_qs: u64,
    /// The CPUs that are online.
    pub cpus: Vec<RcuCpu>,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct rcu_state")]
struct State {
    gp_seq: i64,
    gp_kthread: GuestVirt,
    gp_state: i16,
    expedited_sequence: u64,
    n_force_qs: u64,
    name: GuestVirt,
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct rcu_data")]
struct Data {
    gp_seq: i64,
    #[mirror(member = "cpu_no_qs.b.norm")]
    no_qs: u8,
    core_needs_qs: bool,
    mynode: GuestVirt,
    grpmask: u64,
    #[mirror(member = "cblist.head")]
    head: GuestVirt,
    #[mirror(member = "cblist.len.counter")]
    len: u64,
    #[mirror(member = "cblist.seglen")]
    seglen: [u64; SEGMENTS],
    n_cbs_invoked: u64,
}

/// The state of RCU: grace periods, what each CPU owes the present one, callbacks that wait.
pub(crate) fn rcu(kernel: &Kernel) -> Result<Rcu> {
    let at = kernel.symbol("rcu_state")?;
    let plan = Plan::<State>::new(kernel)?;
    let functions = Functions::new(kernel);
    let state = settle("the state of RCU", || {
        let state = plan.load(at)?;
        Ok((plan.load(at)? == state).then_some(state))
    })?;
    let mut cpus = Listing::new();
    for cpu in online_cpus(kernel)? {
        let what = format!("the callbacks of CPU {cpu}");
        let read = settle(&what, || read(kernel, &functions, cpu));
        cpus.take(read, || what);
    }
    let mut missing = cpus.missing;
    Ok(Rcu {
        name: kernel
            .read_cstr(state.name, NAME)
            .or_miss(&mut missing, || "the name of rcu_state"),
        gp: state.gp_seq >> CTR_SHIFT,
        under_way: state.gp_seq & ((1 << CTR_SHIFT) - 1) != 0,
        state: state_name(kernel, state.gp_state).or_miss(&mut missing, || {
            format!("the name of gp_state {}", state.gp_state)
        }),
        gp_kthread: match state.gp_kthread.is_null() {
            true => None,
            false => {
                let task = Object::at(kernel, "struct task_struct", state.gp_kthread)?;
                let pid = task.member("pid")?.i64();
                pid.or_miss(&mut missing, || "the task of gp_kthread")
                    .map(|pid| pid as i32)
            }
        },
        expedited: state.expedited_sequence >> CTR_SHIFT,
        forced_qs: state.n_force_qs,
        cpus: cpus.items,
        missing,
    })
}

/// The kernel's own name for the state, `gp_state_names[]`.
fn state_name(kernel: &Kernel, state: i16) -> Result<String> {
    let table = kernel.symbols()?.lookup("gp_state_names");
    let (Some(table), 0..STATES) = (table, state) else {
        return Ok(state.to_string());
    };
    let name = GuestVirt(kernel.read_u64(table.offset(state as u64 * 8))?);
    kernel.read_cstr(name, NAME)
}

/// `None` if its callbacks changed.
fn read(kernel: &Kernel, functions: &Functions<'_>, cpu: u32) -> Result<Option<RcuCpu>> {
    let at = per_cpu_ptr(kernel, "rcu_data", cpu)?;
    let plan = Plan::<Data>::new(kernel)?;
    let raw = plan.load(at)?;
    let qsmask = offset_of(kernel, "struct rcu_node", "qsmask")?;
    let qsmask = kernel.read_u64(raw.mynode.offset(qsmask))?;
    let c = "struct callback_head";
    let (next, func) = (offset_of(kernel, c, "next")?, offset_of(kernel, c, "func")?);
    let mut counts = BTreeMap::new();
    for callback in chain(kernel, raw.head, next) {
        let func = GuestVirt(kernel.read_u64(callback?.offset(func))?);
        *counts.entry(func).or_insert(0) += 1;
    }
    if plan.load(at)? != raw {
        return Ok(None);
    }
    let callbacks = counts.into_iter().map(|(func, count)| {
        let func = functions.at(func)?;
        Ok(RcuCallbacks { func, count })
    });
    Ok(Some(RcuCpu {
        cpu,
        at,
        gp: raw.gp_seq >> CTR_SHIFT,
        waited_for: qsmask & raw.grpmask != 0,
        needs_qs: raw.core_needs_qs && raw.no_qs != 0,
        segments: raw.seglen,
        len: raw.len,
        callbacks: callbacks.collect::<Result<_>>()?,
        invoked: raw.n_cbs_invoked,
    }))
}
