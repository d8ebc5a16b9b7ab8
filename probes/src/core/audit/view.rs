//! View of an audit: what it checked, and what it found.

use std::collections::BTreeMap;

use crate::core::audit::{Audit, HookPoint, Owner};
use crate::view::{Align, Table, View};

impl View for Audit {
    fn text(&self) -> String {
        let tables = tables(self).into_iter().map(|table| table.text());
        tables.collect::<Vec<_>>().join("\n")
    }

    fn html(&self) -> Option<String> {
        tables(self).iter().map(View::html).collect()
    }

    fn missing(&self) -> Vec<crate::Missing> {
        self.missing.clone()
    }
}

/// Number of hooks by kind and owner; the findings, if there are any.
fn tables(audit: &Audit) -> Vec<Table> {
    use Align::{Left, Right};
    let mut counts: BTreeMap<(HookPoint, String), usize> = BTreeMap::new();
    for hook in &audit.hooks {
        *counts.entry((hook.point, whose(&hook.owner))).or_default() += 1;
    }
    let mut summary = Table::new([("HOOKS", Left), ("COUNT", Right), ("IN", Left)]);
    for ((point, owner), count) in counts {
        summary.row([format!("{point:?}"), count.to_string(), owner]);
    }
    summary.note(format!(
        "{} places that ftrace patches, {} of them hooked; {} modules; {}",
        audit.sites,
        audit.hooked_sites,
        audit.modules,
        match audit.findings.len() {
            0 if audit.missing.is_empty() => "nothing is wrong".to_owned(),
            0 => "nothing is wrong with what could be read".to_owned(),
            1 => "1 finding".to_owned(),
            count => format!("{count} findings"),
        }
    ));
    summary.lacks(&audit.missing);
    let mut findings = Table::new([("FINDING", Left), ("ADDRESS", Left), ("", Left)]);
    for finding in &audit.findings {
        findings.row([
            finding.place.clone(),
            format!("{:#x}", finding.at.0),
            finding.why.clone(),
        ]);
    }
    let tables = [summary, findings].into_iter();
    tables.filter(|table| !table.is_empty()).collect()
}

fn whose(owner: &Owner) -> String {
    match owner {
        Owner::Image => "the kernel's image".to_owned(),
        Owner::Init => "the image's code for the boot, freed: vectors that cannot come".to_owned(),
        Owner::Module(name) => format!("[{name}]"),
        Owner::Unlisted(name) => format!("[{name}], which is not listed"),
        Owner::Ftrace => "a trampoline of ftrace".to_owned(),
        Owner::Kprobe => "a slot of kprobes".to_owned(),
        Owner::Bpf(name) => format!("BPF: {name}"),
        Owner::Nobody => "NOBODY".to_owned(),
        Owner::Unknown => "?".to_owned(),
    }
}

crate::displays!(Audit);
