//! A task in full, and each part of it alone.

use crate::process::{
    CAPABILITIES, Capabilities, Credentials, Disposition, Ids, Namespace, NamespaceInUse,
    Namespaces, Process, Rlimit, Rlimits, SignalSet, Signals, TaskNamespaces, Times,
};
use crate::sched::cgroup::{TaskCgroup, TaskCgroups};
use crate::view::sections::{Sections, fields};
use crate::view::{Align, Table, or_unknown};

/// Bytes of a line of arguments or environment that are shown.
const LONGEST: usize = 400;

crate::faces! {
    Process => process,
    Credentials => credentials,
    Signals => signals,
    Times => times,
}

crate::lists! {
    Rlimit => rlimits,
    Namespace => namespaces,
    NamespaceInUse => all_namespaces,
    TaskCgroup => cgroups,
}

fn process(process: &Process) -> Sections {
    let task = &process.task;
    let ancestry = process.ancestry.iter();
    let ancestry: Vec<String> = ancestry
        .map(|one| format!("{} {}", one.pid, one.comm))
        .collect();
    let path = |path: &Option<String>| path.clone().unwrap_or_default();
    let kind = match (task.kthread, task.pid == task.tgid) {
        (true, _) => "kernel thread",
        (_, true) => "process",
        (..) => "thread",
    };
    let arguments = process.cmdline.as_ref();
    let arguments = arguments.map(|arguments| shortened(&arguments.join(" ")));
    let mut who = fields([
        ("pid", format!("{} ({kind})", task.pid)),
        ("tgid", task.tgid.to_string()),
        ("comm", task.name().to_owned()),
        ("state", format!("{} ({})", task.state, task.state.name())),
        ("task_struct", task.at.to_string()),
        ("parents", ancestry.join(" < ")),
        ("process group", or_unknown(process.pgrp)),
        ("session", or_unknown(process.session)),
        ("threads", or_unknown(task.nr_threads)),
        (
            "policy",
            format!(
                "SCHED_{}, prio {}, nice {}, CPU {}",
                task.policy.name(),
                task.prio,
                task.nice,
                task.cpu
            ),
        ),
        ("program", path(&process.exe)),
        ("directory", path(&process.cwd)),
        ("root", path(&process.root)),
        ("arguments", or_unknown(arguments)),
    ]);
    who.lacks(&process.missing);
    let mut environ = Table::new([("VARIABLE", Align::Left), ("VALUE", Align::Left)]);
    for variable in process.environ.iter().flatten() {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        environ.row([shortened(name), shortened(value)]);
    }
    let mut sections = vec![("task".to_owned(), who)];
    if !environ.is_empty() {
        sections.push(("environment".to_owned(), environ));
    }
    if let Some(cred) = &process.credentials {
        sections.push(("credentials".to_owned(), credentials(cred)));
    }
    if let Some(of) = &process.signals {
        sections.extend(signals(of).0);
    }
    sections.push(("limits".to_owned(), rlimits(&process.rlimits)));
    sections.push(("namespaces".to_owned(), namespaces(&process.namespaces)));
    sections.push(("control groups".to_owned(), cgroups(&process.cgroups)));
    if let Some(of) = &process.times {
        sections.push(("used".to_owned(), times(of)));
    }
    Sections(sections)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}.. ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

fn credentials(cred: &Credentials) -> Table {
    let ids = |ids: &Ids| {
        let Ids {
            real,
            effective,
            saved,
            fs,
        } = ids;
        format!("{real} real, {effective} effective, {saved} saved, {fs} for files")
    };
    let groups: Vec<String> = cred.groups.iter().map(ToString::to_string).collect();
    fields([
        ("cred", cred.at.to_string()),
        ("user", ids(&cred.uid)),
        ("group", ids(&cred.gid)),
        ("groups", groups.join(" ")),
        ("inheritable", capabilities(&cred.inheritable)),
        ("permitted", capabilities(&cred.permitted)),
        ("effective", capabilities(&cred.effective)),
        ("bounding", capabilities(&cred.bounding)),
        ("ambient", capabilities(&cred.ambient)),
        ("securebits", none_or(cred.securebits.join(" "))),
        (
            "no_new_privs",
            if cred.no_new_privs { "yes" } else { "no" }.to_owned(),
        ),
        (
            "seccomp",
            format!("{:?}, {} filters", cred.seccomp.mode, cred.seccomp.filters),
        ),
        ("user namespace", cred.user_ns.inum.to_string()),
    ])
}

fn none_or(text: String) -> String {
    if text.is_empty() {
        "none".to_owned()
    } else {
        text
    }
}

/// A set by name; of a set that is nearly full, what is not in it.
fn capabilities(set: &Capabilities) -> String {
    let all = (1 << CAPABILITIES.len()) - 1;
    let missing = all & !set.bits;
    if missing == 0 {
        return "all".to_owned();
    }
    if missing.count_ones() > 8 {
        return none_or(set.names.join(" "));
    }
    let names = CAPABILITIES.iter().enumerate();
    let names: Vec<&str> = names
        .filter(|(bit, _)| missing >> bit & 1 == 1)
        .map(|(_, name)| *name)
        .collect();
    format!("all but {}", names.join(" "))
}

fn signals(of: &Signals) -> Sections {
    let set = |set: &SignalSet| none_or(set.names.join(" "));
    let sets = fields([
        ("pending", set(&of.pending)),
        ("pending for the process", set(&of.shared_pending)),
        ("blocked", set(&of.blocked)),
        ("ignored", set(&of.ignored)),
        ("caught", set(&of.caught)),
        (
            "queued for the user",
            format!("{} of {}", of.queued.0, of.queued.1),
        ),
    ]);
    let mut sections = vec![("signals".to_owned(), sets)];
    let mut queue = Table::new([
        ("SIGNAL", Align::Left),
        ("CODE", Align::Right),
        ("FROM", Align::Right),
        ("FOR", Align::Left),
    ]);
    for signal in &of.queue {
        queue.row([
            signal.name.to_string(),
            signal.code.to_string(),
            signal.from.map_or_else(String::new, |pid| pid.to_string()),
            if signal.shared { "process" } else { "thread" }.to_owned(),
        ]);
    }
    if !queue.is_empty() {
        sections.push(("queued signals".to_owned(), queue));
    }
    let mut actions = Table::new([
        ("SIGNAL", Align::Left),
        ("DOES", Align::Left),
        ("FLAGS", Align::Left),
        ("BLOCKS", Align::Left),
    ]);
    for action in &of.actions {
        let does = match action.does {
            Disposition::Ignore => "ignored".to_owned(),
            Disposition::Handler(at) => at.to_string(),
        };
        actions.row([
            action.name.to_string(),
            does,
            action.flags.join(" "),
            action.mask.names.join(" "),
        ]);
    }
    if !actions.is_empty() {
        sections.push(("signal actions".to_owned(), actions));
    }
    Sections(sections)
}

fn rlimits(limits: &Rlimits) -> Table {
    let mut table = Table::new([
        ("LIMIT", Align::Left),
        ("SOFT", Align::Right),
        ("HARD", Align::Right),
        ("UNIT", Align::Left),
    ]);
    let limit = |limit: Option<u64>| limit.map_or_else(|| "none".to_owned(), |n| n.to_string());
    for one in limits.iter() {
        table.row([
            one.name.to_owned(),
            limit(one.soft),
            limit(one.hard),
            one.unit.to_owned(),
        ]);
    }
    table
}

fn namespaces(namespaces: &TaskNamespaces) -> Table {
    let mut table = Table::new([
        ("KIND", Align::Left),
        ("INODE", Align::Right),
        ("AT", Align::Left),
    ]);
    for one in namespaces.iter() {
        table.row([
            one.kind.to_owned(),
            one.inum.to_string(),
            one.at.to_string(),
        ]);
    }
    table
}

fn all_namespaces(namespaces: &Namespaces) -> Table {
    /// Processes that a row names.
    const NAMED: usize = 6;
    let mut table = Table::new([
        ("KIND", Align::Left),
        ("INODE", Align::Right),
        ("OWNER", Align::Right),
        ("IN", Align::Right),
        ("AT", Align::Left),
        ("PROCS", Align::Right),
        ("", Align::Left),
    ]);
    let inum = |inum: Option<u32>| inum.map_or_else(String::new, |inum| inum.to_string());
    for one in namespaces.iter() {
        let named = one.members.iter().take(NAMED);
        let mut named: Vec<String> = named.map(|m| format!("{} {}", m.pid, m.comm)).collect();
        if one.members.len() > NAMED {
            named.push("..".to_owned());
        }
        table.row([
            one.namespace.kind.to_owned(),
            one.namespace.inum.to_string(),
            inum(one.owner),
            inum(one.parent),
            one.namespace.at.to_string(),
            one.members.len().to_string(),
            named.join(", "),
        ]);
    }
    table.note(format!("{} namespaces", namespaces.len()));
    table
}

fn cgroups(groups: &TaskCgroups) -> Table {
    let mut table = Table::new([
        ("HIERARCHY", Align::Right),
        ("CONTROLLERS", Align::Left),
        ("PATH", Align::Left),
        ("CGROUP", Align::Left),
    ]);
    for group in groups.iter() {
        let mut controllers = group.controllers.clone();
        if !group.name.is_empty() {
            controllers.push(format!("name={}", group.name));
        }
        let deleted = if group.deleted { " (deleted)" } else { "" };
        table.row([
            group.hierarchy.to_string(),
            controllers.join(","),
            format!("{}{deleted}", group.path),
            group.at.to_string(),
        ]);
    }
    table
}

fn times(times: &Times) -> Table {
    let s = |ns: u64| format!("{}.{:06} s", ns / 1_000_000_000, ns % 1_000_000_000 / 1000);
    let both = |time: &crate::process::CpuTime| {
        format!("{} user, {} system", s(time.user), s(time.system))
    };
    let mut rows = vec![
        ("started", format!("{} after boot", s(times.start))),
        ("on a CPU", s(times.exec)),
        ("by ticks", both(&times.thread)),
        ("process", both(&times.process)),
        ("children", both(&times.children)),
        (
            "switches",
            format!("{} voluntary, {} not", times.nvcsw, times.nivcsw),
        ),
        (
            "faults",
            format!("{} minor, {} major", times.min_flt, times.maj_flt),
        ),
        (
            "children's faults",
            format!("{} minor, {} major", times.cmin_flt, times.cmaj_flt),
        ),
    ];
    if let Some(io) = &times.io {
        let calls = format!(
            "{} bytes by {} reads, {} by {} writes",
            io.rchar, io.syscr, io.wchar, io.syscw
        );
        let device = format!(
            "{} bytes read, {} written, {} cut off before",
            io.read_bytes, io.write_bytes, io.cancelled_write_bytes
        );
        rows.extend([("calls", calls), ("devices", device)]);
    }
    fields(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_said_by_what_is_in_them_or_by_what_is_not() {
        let set = |bits| {
            capabilities(&Capabilities {
                bits,
                names: vec!["X".to_owned()],
            })
        };
        assert_eq!(set((1 << 41) - 1), "all");
        assert_eq!(set((1 << 41) - 2), "all but CHOWN");
        assert_eq!(set(2), "X");
    }

    #[test]
    fn what_is_long_is_cut_between_characters() {
        assert_eq!(shortened("x"), "x");
        assert_eq!(
            crate::view::clean(&shortened(&"ä".repeat(401)))
                .chars()
                .count(),
            400 + 14
        );
    }
}
