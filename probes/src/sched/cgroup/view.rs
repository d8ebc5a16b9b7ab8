//! The trees of control groups.

use crate::Missing;
use crate::sched::cgroup::{Hierarchies, Hierarchy};
use crate::view::sections::Sections;
use crate::view::{Align, ListView, Table, View, bytes};

/// Processes that a row names.
const NAMED: usize = 8;

impl ListView for Hierarchy {
    fn text(all: &Hierarchies) -> String {
        trees(all).text()
    }

    fn html(all: &Hierarchies) -> Option<String> {
        trees(all).html()
    }

    fn missing(all: &Hierarchies) -> Vec<Missing> {
        trees(all).missing()
    }
}

fn trees(all: &Hierarchies) -> Sections {
    Sections(all.iter().map(|one| (title(one), table(one))).collect())
}

fn title(one: &Hierarchy) -> String {
    let name = match (one.id, one.name.as_str()) {
        (0, _) => "version 2".to_owned(),
        (_, "") => "version 1".to_owned(),
        (_, name) => format!("version 1, {name}"),
    };
    let controllers = one.controllers.join(" ");
    format!("hierarchy {} ({name}): {controllers}", one.id)
}

fn table(one: &Hierarchy) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("CGROUP", Left),
        ("ID", Right),
        ("TASKS", Right),
        ("MEMORY", Right),
        ("PIDS", Right),
        ("GIVES", Left),
        ("", Left),
        ("AT", Left),
        ("PROCS", Left),
    ]);
    for group in &one.cgroups {
        let name = match group.depth {
            0 => "/",
            _ => group.path.rsplit('/').next().unwrap_or_default(),
        };
        let state = match (group.online, group.frozen) {
            (false, _) => "removed",
            (_, true) => "frozen",
            (..) => "",
        };
        let named = group.procs.iter().take(NAMED).map(ToString::to_string);
        let mut named: Vec<String> = named.collect();
        if group.procs.len() > NAMED {
            named.push(format!(".. {}", group.procs.len()));
        }
        table.row([
            format!("{}{name}", "  ".repeat(group.depth.min(64) as usize)),
            group.id.to_string(),
            group
                .tasks
                .map_or_else(|| "?".to_owned(), |tasks| tasks.to_string()),
            group.memory.map_or_else(String::new, bytes),
            group.pids.map_or_else(String::new, |pids| pids.to_string()),
            group.subtree_control.join(" "),
            state.to_owned(),
            group.at.to_string(),
            named.join(" "),
        ]);
    }
    let s = if one.cgroups.len() == 1 { "" } else { "s" };
    table.note(format!("{} group{s}", one.cgroups.len()));
    table.lacks(&one.missing);
    table
}
