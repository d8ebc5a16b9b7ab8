//! Protocol handlers in a table.

use super::PacketTypes;
use crate::view::{Align, Table, View};

impl View for PacketTypes {
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

fn table(handlers: &PacketTypes) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("CHAIN", Left),
        ("TYPE", Right),
        ("FUNC", Left),
        ("LIST_FUNC", Left),
        ("PACKET_TYPE", Left),
    ];
    let mut table = Table::new(columns);
    for handler in handlers.iter() {
        table.row([
            handler.chain.clone(),
            format!("{:#06x}", handler.ethertype),
            handler.func.clone(),
            handler.list_func.clone().unwrap_or_default(),
            handler.at.to_string(),
        ]);
    }
    table.lacks(&handlers.missing);
    table
}

crate::displays!(PacketTypes);
