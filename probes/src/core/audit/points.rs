//! The places where code is hooked in, and the functions there.

use super::HookPoint;
use crate::core::trace;
use crate::kernel::{Functions, Kernel};
use crate::memory::GuestVirt;
use crate::net::netfilter::Family;
use crate::net::{NetNamespace, net_namespaces};
use crate::object::{Mirror, Object, Plan};
use crate::structures::{chain, offset_of, whole_list};
use crate::{Error, Listing, Of as _, Result};

/// Entries of one table, and namespaces and devices, that are read at most.
const BOUND: u64 = 1 << 16;
/// `MAX_HOOK_COUNT` of `net/netfilter/core.c`.
const NF_HOOKS: u64 = 1024;
/// System calls that a kernel may have, as far as we read.
const SYSCALLS: u64 = 1024;
/// Functions at one tracepoint.
const PROBES: u64 = 1024;

/// Netfilter's hooks of a network device.
const OF_DEVICE: [&str; 2] = ["nf_hooks_ingress", "nf_hooks_egress"];
/// Chains of notifiers, and the structure that each begins with.
const CHAINS: &[(&str, &str)] = &[
    ("die_chain", "struct atomic_notifier_head"),
    ("inet6addr_chain", "struct atomic_notifier_head"),
    ("inetaddr_chain", "struct blocking_notifier_head"),
    ("keyboard_notifier_list", "struct atomic_notifier_head"),
    ("module_notify_list", "struct blocking_notifier_head"),
    ("netdev_chain", "struct raw_notifier_head"),
    ("panic_notifier_list", "struct atomic_notifier_head"),
    ("reboot_notifier_list", "struct blocking_notifier_head"),
];
/// Tables of operations that tell what there is, and their types.
const OPERATIONS: &[(&str, &str)] = &[
    ("proc_root_operations", "struct file_operations"),
    ("proc_root_inode_operations", "struct inode_operations"),
    ("tcp4_seq_ops", "struct seq_operations"),
    ("tcp6_seq_ops", "struct seq_operations"),
    ("udp_seq_ops", "struct seq_operations"),
    ("udp6_seq_ops", "struct seq_operations"),
    ("packet_seq_ops", "struct seq_operations"),
    ("modules_op", "struct seq_operations"),
];

/// A function at a place.
pub(super) type Point = (HookPoint, String, GuestVirt);

/// All of them.
pub(super) fn all(kernel: &Kernel) -> Listing<Point> {
    type Read = fn(&Kernel, &mut Listing<Point>) -> Result<()>;
    let mut points = Listing::new();
    let reads: [(&str, Read); 7] = [
        ("the interrupt vectors", idt),
        ("sys_call_table", syscalls),
        ("netfilter's hooks", netfilter),
        ("ftrace and kprobes", ftrace_and_kprobes),
        ("the tracepoints", tracepoints),
        ("the chains of notifiers", notifiers),
        ("the tables of operations", operations),
    ];
    for (what, read) in reads {
        if let Err(error) = read(kernel, &mut points) {
            points.miss(format!("{what}, from there on"), &error);
        }
    }
    points
}

fn pointer(kernel: &Kernel, at: GuestVirt) -> Result<GuestVirt> {
    kernel.read_u64(at).map(GuestVirt)
}

fn idt(kernel: &Kernel, points: &mut Listing<Point>) -> Result<()> {
    let gates = crate::core::irq::gates(kernel)?;
    points.missing.extend(gates.missing);
    for gate in gates.items {
        if gate.present {
            let place = format!("vector {}", gate.vector);
            points.items.push((HookPoint::Idt, place, gate.handler.at));
        }
    }
    Ok(())
}

/// The table's length is in no symbol: it ends where the next one begins, or with what is no pointer.
fn syscalls(kernel: &Kernel, points: &mut Listing<Point>) -> Result<()> {
    let symbols = kernel.symbols()?;
    let Some(table) = symbols.lookup("sys_call_table") else {
        return Ok(());
    };
    let end = symbols.after(table).map_or(0, |end| end.0 - table.0);
    for nr in 0..(end / 8).min(SYSCALLS) {
        let place = format!("sys_call_table[{nr}]");
        match pointer(kernel, table.offset(nr * 8)) {
            Ok(function) if function.is_null() => break,
            Ok(function) => points.items.push((HookPoint::Syscall, place, function)),
            Err(error) => points.miss(place, &error),
        }
    }
    Ok(())
}

fn netfilter(kernel: &Kernel, points: &mut Listing<Point>) -> Result<()> {
    let namespaces = net_namespaces(kernel)?;
    points.missing.extend(namespaces.missing);
    for net in namespaces.items {
        let what = format!("netns {}, netfilter's hooks from there on", net.inum);
        if let Err(error) = of_namespace(kernel, &net, points) {
            points.miss(what, &error);
        }
    }
    Ok(())
}

fn of_namespace(kernel: &Kernel, net: &NetNamespace, points: &mut Listing<Point>) -> Result<()> {
    let inum = net.inum;
    let net = Object::at(kernel, "struct net", net.at)?;
    for family in Family::ALL {
        let (hooks, count) = (family.member(), family.count(kernel)?);
        if count == 0 {
            continue;
        }
        let table = net.member(&format!("nf.{hooks}"))?;
        for hook in 0..count {
            let place = format!("netns {inum} {hooks}[{hook}]");
            let table = table.index(hook as i64)?.pointer();
            if let Err(error) = table.and_then(|at| entries(kernel, at, &place, points)) {
                points.miss(place, &error);
            }
        }
    }
    let devices = net.member("dev_base_head")?.address().unwrap_or_default();
    let dev_list = offset_of(kernel, "struct net_device", "dev_list")?;
    let what = format!("netns {inum}, the list of devices");
    let devices = whole_list(kernel, devices, dev_list, BOUND as usize, &what);
    for at in devices.into_items(&mut points.missing) {
        let device = Object::at(kernel, "struct net_device", at)?;
        let name = device.member("name")?.string();
        let name = name.unwrap_or_else(|_| format!("the net_device at {at}"));
        for hooks in OF_DEVICE {
            let table = match device.member(hooks) {
                Ok(table) => table,
                // Not in each configuration.
                Err(Error::NoMember { .. }) => continue,
                Err(error) => return Err(error),
            };
            let place = format!("netns {inum} {name} {hooks}");
            let table = table.pointer();
            if let Err(error) = table.and_then(|at| entries(kernel, at, &place, points)) {
                points.miss(place, &error);
            }
        }
    }
    Ok(())
}

/// The functions of a `struct nf_hook_entries`.
fn entries(kernel: &Kernel, at: GuestVirt, place: &str, points: &mut Listing<Point>) -> Result<()> {
    if at.is_null() {
        return Ok(());
    }
    let c = "struct nf_hook_entries";
    let count = kernel.read_u16(at.offset(offset_of(kernel, c, "num_hook_entries")?))?;
    if u64::from(count) > NF_HOOKS {
        return Err(Error::Broken {
            what: "nf_hook_entries",
            at,
            why: format!("it claims {count} hooks"),
        });
    }
    let first = at.offset(offset_of(kernel, c, "hooks")?);
    let size = kernel.c_type("struct nf_hook_entry")?.size()?;
    let hook = offset_of(kernel, "struct nf_hook_entry", "hook")?;
    for index in 0..u64::from(count) {
        let function = pointer(kernel, first.offset(index * size + hook))?;
        points
            .items
            .push((HookPoint::Netfilter, place.to_owned(), function));
    }
    Ok(())
}

fn ftrace_and_kprobes(kernel: &Kernel, points: &mut Listing<Point>) -> Result<()> {
    let functions = Functions::new(kernel);
    for ops in trace::ops(kernel, &functions)?.into_items(&mut points.missing) {
        points
            .items
            .push((HookPoint::Ftrace, ops.name.to_string(), ops.func.at));
    }
    for probe in trace::kprobes(kernel, &functions)?.into_items(&mut points.missing) {
        if let Some(handler) = probe.handler {
            points
                .items
                .push((HookPoint::Kprobe, probe.place.to_string(), handler.at));
        }
    }
    Ok(())
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct tracepoint")]
struct Tracepoint {
    name: GuestVirt,
    funcs: GuestVirt,
}

/// The kernel's own tracepoints, and those of modules: arrays of distances from each element to its tracepoint.
fn tracepoints(kernel: &Kernel, points: &mut Listing<Point>) -> Result<()> {
    let symbols = kernel.symbols()?;
    let bounds = ["__start___tracepoints_ptrs", "__stop___tracepoints_ptrs"];
    let mut arrays = Vec::new();
    if let [Some(start), Some(end)] = bounds.map(|name| symbols.lookup(name)) {
        arrays.push((start, end.0.wrapping_sub(start.0) / 4));
    }
    let head = kernel.symbol("modules")?;
    let list = offset_of(kernel, "struct module", "list")?;
    let modules = whole_list(kernel, head, list, BOUND as usize, "the list of modules");
    for at in modules.into_items(&mut points.missing) {
        let array = array_of(kernel, at);
        let array = array.or_miss(&mut points.missing, || {
            format!("the tracepoints of the module at {at}")
        });
        arrays.extend(array.filter(|(_, count)| *count > 0));
    }
    let plan = Plan::<Tracepoint>::new(kernel)?;
    for (first, count) in arrays {
        for index in 0..count {
            let element = first.offset(index * 4);
            if let Err(error) = tracepoint(kernel, &plan, element, points) {
                points.miss(format!("the tracepoint of the element {element}"), &error);
            }
        }
    }
    Ok(())
}

/// A module's array of tracepoints, and its length.
fn array_of(kernel: &Kernel, module: GuestVirt) -> Result<(GuestVirt, u64)> {
    let module = Object::at(kernel, "struct module", module)?;
    let count = module.member("num_tracepoints")?.u64()?;
    let first = module.member("tracepoints_ptrs")?.pointer()?;
    if count > BOUND {
        return Err(Error::TooLong {
            what: "array of tracepoints",
            at: first,
            bound: BOUND as usize,
        });
    }
    Ok((first, count))
}

/// The functions of the tracepoint that an element leads to.
fn tracepoint(
    kernel: &Kernel,
    plan: &Plan<Tracepoint>,
    element: GuestVirt,
    points: &mut Listing<Point>,
) -> Result<()> {
    let size = kernel.c_type("struct tracepoint_func")?.size()?;
    let distance = i64::from(kernel.read_u32(element)? as i32);
    let tracepoint = plan.load(GuestVirt(element.0.wrapping_add_signed(distance)))?;
    if tracepoint.funcs.is_null() {
        return Ok(());
    }
    let place = kernel.read_cstr(tracepoint.name, 256)?;
    // They end with one without a function.
    for nr in 0..PROBES {
        let function = pointer(kernel, tracepoint.funcs.offset(nr * size))
            .of(|| format!("function {nr} at {place}"))?;
        if function.is_null() {
            return Ok(());
        }
        points
            .items
            .push((HookPoint::Tracepoint, place.clone(), function));
    }
    Err(Error::TooLong {
        what: "array of a tracepoint's functions",
        at: tracepoint.funcs,
        bound: PROBES as usize,
    })
}

fn notifiers(kernel: &Kernel, points: &mut Listing<Point>) -> Result<()> {
    let c = "struct notifier_block";
    let (next, call) = (
        offset_of(kernel, c, "next")?,
        offset_of(kernel, c, "notifier_call")?,
    );
    for (symbol, head) in CHAINS {
        let Some(at) = kernel.symbols()?.lookup(symbol) else {
            continue;
        };
        let first = pointer(kernel, at.offset(offset_of(kernel, head, "head")?));
        let Some(first) = first.or_miss(&mut points.missing, || *symbol) else {
            continue;
        };
        let blocks = Listing::walk(symbol, chain(kernel, first, next));
        for block in blocks.into_items(&mut points.missing) {
            let function = pointer(kernel, block.offset(call));
            let function = function.map(|at| (HookPoint::Notifier, (*symbol).to_owned(), at));
            points.take(function, || format!("{symbol}, the notifier_block {block}"));
        }
    }
    Ok(())
}

/// Each pointer to a function in the tables.
fn operations(kernel: &Kernel, points: &mut Listing<Point>) -> Result<()> {
    for (symbol, c) in OPERATIONS {
        let Some(at) = kernel.symbols()?.lookup(symbol) else {
            continue;
        };
        let table = Object::at(kernel, c, at)?;
        for name in table.member_names()? {
            let member = table.member(&name)?;
            // Not the owner, nor flags.
            if !member.type_name().contains("(*)(") {
                continue;
            }
            let place = format!("{symbol}.{name}");
            match member.pointer() {
                Ok(function) if function.is_null() => {}
                Ok(function) => points.items.push((HookPoint::Operations, place, function)),
                Err(error) => points.miss(place, &error),
            }
        }
    }
    Ok(())
}
