//! Reasons: a sentence each, and the tasks in a table.

use super::sentence::{seconds, thing};
use super::{Chain, Reason, Reasons};
use crate::Missing;
use crate::view::{Align, Table, View, clean, escape};

impl View for Reasons {
    fn text(&self) -> String {
        let mut text = String::new();
        for (number, reason) in (1..).zip(&self.reasons) {
            text.push_str(&format!("{number}. {}\n", clean(&reason.sentence())));
            text.push_str(&format!("   see {}\n", reason.see().join(", ")));
        }
        if !self.reasons.is_empty() {
            text.push('\n');
        }
        text + &table(self).text()
    }

    fn html(&self) -> Option<String> {
        let mut html = String::new();
        if !self.reasons.is_empty() {
            html.push_str("<ol>");
            for reason in &self.reasons {
                let (sentence, see) = (clean(&reason.sentence()), reason.see().join(", "));
                html.push_str(&format!(
                    "<li>{}<br><small>see <code>{}</code></small></li>",
                    escape(&sentence),
                    escape(&see)
                ));
            }
            html.push_str("</ol>");
        }
        Some(html + &table(self).html()?)
    }

    fn missing(&self) -> Vec<Missing> {
        self.missing.clone()
    }
}

fn table(all: &Reasons) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("", Right),
        ("PID", Right),
        ("COMM", Left),
        ("S", Left),
        ("SINCE", Right),
        ("WAITS FOR", Left),
        ("IN", Left),
    ]);
    for (number, reason) in (1..).zip(&all.reasons) {
        let (Reason::Deadlock(Chain { links, .. }) | Reason::Waits(Chain { links, .. })) = reason
        else {
            continue;
        };
        for (index, link) in links.iter().enumerate() {
            table.row([
                if index == 0 {
                    format!("{number}.")
                } else {
                    String::new()
                },
                link.task.pid.to_string(),
                link.task.comm.clone(),
                link.state.to_string(),
                link.since.map_or_else(String::new, seconds),
                link.wait.as_ref().map_or_else(String::new, thing),
                link.function.clone().unwrap_or_default(),
            ]);
        }
    }
    table.lacks(&all.missing);
    let count = all.reasons.len();
    let s = if count == 1 { "" } else { "s" };
    table.note(match count {
        0 => format!("nothing is stuck, by {} tasks and their CPUs", all.tasks),
        _ => format!("{count} reason{s}, by {} tasks and their CPUs", all.tasks),
    });
    table
}

crate::displays!(Reasons);
