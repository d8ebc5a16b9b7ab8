//! Symbols, and what an address is.

use crate::kernel::{Symbol, SymbolAt};
use crate::view::{Align, Table, View, clean, escape};

/// Meaning of those letters of `nm` that a kernel has.
const fn kind(letter: char) -> &'static str {
    match letter.to_ascii_lowercase() {
        't' => "code",
        'd' => "data",
        'r' => "read-only data",
        'b' => "zeroed data",
        'a' => "absolute value",
        'w' | 'v' => "weak symbol",
        _ => "",
    }
}

impl View for Symbol {
    fn text(&self) -> String {
        table(self).text()
    }

    fn html(&self) -> Option<String> {
        table(self).html()
    }
}

fn table(symbol: &Symbol) -> Table {
    let mut table = Table::new([
        ("SYMBOL", Align::Left),
        ("ADDRESS", Align::Left),
        ("", Align::Left),
        ("", Align::Left),
    ]);
    table.row([
        symbol.name.clone(),
        symbol.at.to_string(),
        symbol.kind.to_string(),
        kind(symbol.kind).to_owned(),
    ]);
    table
}

impl View for SymbolAt {
    fn text(&self) -> String {
        clean(&self.to_string())
    }

    fn html(&self) -> Option<String> {
        Some(format!("<code>{}</code>", escape(&self.to_string())))
    }
}

crate::displays!(Symbol, SymbolAt);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_named_as_in_a_call_trace() {
        let mut at = SymbolAt {
            name: "ip_rcv".to_owned(),
            offset: 0,
            module: None,
        };
        assert_eq!(at.text(), "ip_rcv");
        (at.offset, at.module) = (0x1f, Some("veth".to_owned()));
        assert_eq!(at.text(), "ip_rcv+0x1f [veth]");
    }
}
