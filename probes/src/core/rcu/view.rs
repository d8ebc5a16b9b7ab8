//! RCU, a line a CPU.

use super::Rcu;
use crate::view::{Align, Table, View};

impl View for Rcu {
    fn text(&self) -> String {
        table(self).text()
    }

    fn html(&self) -> Option<String> {
        table(self).html()
    }

    fn missing(&self) -> Vec<crate::Missing> {
        table(self).missing()
    }
}

fn table(rcu: &Rcu) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("CPU", Right),
        ("KNOWS OF", Right),
        ("", Left),
        ("DONE", Right),
        ("WAIT", Right),
        ("NEXT", Right),
        ("NEW", Right),
        ("INVOKED", Right),
        ("CALLBACKS", Left),
    ]);
    for cpu in &rcu.cpus {
        let callbacks = cpu.callbacks.iter();
        let callbacks = callbacks.map(|kind| format!("{} x{}", kind.func, kind.count));
        let [done, wait, next, new] = cpu.segments.map(|count| count.to_string());
        table.row([
            cpu.cpu.to_string(),
            cpu.gp.to_string(),
            if cpu.waited_for { "waited for" } else { "" }.to_owned(),
            done,
            wait,
            next,
            new,
            cpu.invoked.to_string(),
            callbacks.collect::<Vec<_>>().join(", "),
        ]);
    }
    table.note(format!(
        "{}: grace period {} is over{}; {} expedited ones; thread {}: {}",
        rcu.name.as_deref().unwrap_or("RCU"),
        rcu.gp,
        if rcu.under_way {
            ", the next one under way"
        } else {
            ""
        },
        rcu.expedited,
        rcu.gp_kthread
            .map_or_else(String::new, |pid| pid.to_string()),
        rcu.state.as_deref().unwrap_or("?")
    ));
    table.lacks(&rcu.missing);
    table
}

crate::displays!(Rcu);
