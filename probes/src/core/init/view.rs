//! The command line and the configuration.

use super::{CommandLine, ConfigOption, Kconfig};
use crate::view::{Align, ListView, Table, View, clean};

impl View for CommandLine {
    fn text(&self) -> String {
        format!("{}\n", clean(self.text.trim_end()))
    }

    fn html(&self) -> Option<String> {
        let mut table = Table::new([("PARAMETER", Align::Left), ("VALUE", Align::Left)]);
        for word in &self.parameters {
            table.row([word.name.clone(), word.value.clone().unwrap_or_default()]);
        }
        table.html()
    }
}

impl ListView for ConfigOption {
    fn text(options: &Kconfig) -> String {
        let lines = options.iter().map(|option| {
            let line = format!("{}={}", option.name, option.value);
            format!("{}\n", clean(&line))
        });
        lines.collect()
    }
}

crate::displays!(CommandLine);
