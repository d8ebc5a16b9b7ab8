//! The use of memory, drawn.

use super::{MemInfo, MemLine};
use crate::view::{Align, Table, bytes};

crate::lists! { MemLine => meminfo }

fn meminfo(info: &MemInfo) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([("MEMORY", Left), ("KIB", Right), ("", Left)]);
    for line in info.iter() {
        let size = match line.name.starts_with("HugePages_") {
            true => "pages".to_owned(),
            false => bytes(line.value.saturating_mul(1024)),
        };
        table.row([line.name.to_owned(), line.value.to_string(), size]);
    }
    table
}
