//! Protocol handlers in a table.

use super::{PacketType, PacketTypes};
use crate::view::{Align, Table};

crate::lists! { PacketType => table }

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
    table
}
