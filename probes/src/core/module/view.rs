//! The list of modules, and one of them in detail.

use crate::core::module::{Module, ModuleDetails, Modules};
use crate::view::{Align, Table, View};

crate::lists! { Module => modules }

fn modules(modules: &Modules) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("NAME", Left),
        ("SIZE", Right),
        ("USES", Right),
        ("STATE", Left),
        ("BASE", Left),
        ("TAINTS", Left),
    ];
    let mut table = Table::new(columns);
    for module in modules.iter() {
        let hidden = if module.listed { "" } else { ", not listed" };
        table.row([
            module.name.clone(),
            module.size.to_string(),
            module.refcnt.to_string(),
            format!("{:?}{hidden}", module.state),
            format!("{:#x}", module.base.0),
            module.taints.clone(),
        ]);
    }
    let s = if modules.len() == 1 { "" } else { "s" };
    table.note(format!("{} module{s}", modules.len()));
    table
}

impl View for ModuleDetails {
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

/// Its fields, its memory, its sections, its parameters: those that there are.
fn tables(details: &ModuleDetails) -> Vec<Table> {
    use Align::{Left, Right};
    let module = &details.module;
    let mut fields = Table::new([("MODULE", Left), (module.name.as_str(), Left)]);
    let exit = details.exit.as_ref().map(ToString::to_string);
    for (name, value) in [
        ("struct module", format!("{:#x}", module.at.0)),
        ("state", format!("{:?}", module.state)),
        (
            "listed",
            if module.listed { "yes" } else { "NO" }.to_owned(),
        ),
        ("uses", module.refcnt.to_string()),
        ("used by", details.used_by.join(" ")),
        ("needs", details.needs.join(" ")),
        ("taints", module.taints.clone()),
        ("version", details.version.clone().unwrap_or_default()),
        ("srcversion", details.srcversion.clone().unwrap_or_default()),
        ("exports", details.exports.to_string()),
        ("exit", exit.unwrap_or_default()),
    ] {
        if !value.is_empty() {
            fields.row([name.to_owned(), value]);
        }
    }
    let mut areas = Table::new([("MEMORY", Left), ("BASE", Left), ("BYTES", Right)]);
    for area in &details.areas {
        areas.row([
            area.kind.clone(),
            format!("{:#x}", area.base.0),
            area.size.to_string(),
        ]);
    }
    let mut sections = Table::new([("SECTION", Left), ("ADDRESS", Left)]);
    for section in &details.sections {
        sections.row([section.name.clone(), format!("{:#x}", section.at.0)]);
    }
    let mut parameters = Table::new([("PARAMETER", Left), ("TYPE", Left), ("VALUE", Left)]);
    for parameter in &details.parameters {
        parameters.row([
            parameter.name.clone(),
            parameter.kind.clone(),
            parameter.value.clone().unwrap_or_default(),
        ]);
    }
    fields.lacks(&details.missing);
    let all = [fields, areas, sections, parameters];
    all.into_iter().filter(|table| !table.is_empty()).collect()
}

crate::displays!(ModuleDetails);
