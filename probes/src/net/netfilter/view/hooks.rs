//! Hook functions in a table.

use crate::net::netfilter::HookFunctions;
use crate::view::{Align, Table, View};

impl View for HookFunctions {
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

fn table(hooks: &HookFunctions) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("NETNS", Right),
        ("FAMILY", Left),
        ("HOOK", Left),
        ("PRIORITY", Right),
        ("FUNCTION", Left),
        ("MODULE", Left),
        ("CHAIN", Left),
    ];
    let mut table = Table::new(columns);
    for function in hooks.iter() {
        table.row([
            function.netns.to_string(),
            function.family.name().to_owned(),
            function
                .family
                .hook(function.hook)
                .unwrap_or("?")
                .to_owned(),
            function.priority.to_string(),
            function.name.clone(),
            function.module.clone().unwrap_or_default(),
            function.chain.clone().unwrap_or_default(),
        ]);
    }
    table.note(format!(
        "{} functions in {} network namespaces; a hook without one is not called at all",
        hooks.len(),
        hooks.namespaces.len()
    ));
    table.lacks(&hooks.missing);
    table
}

crate::displays!(HookFunctions);
