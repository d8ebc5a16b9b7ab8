//! Keys and keyrings.

use super::{Key, Keys};
use crate::view::{Align, Table};

crate::lists! { Key => table }

fn table(keys: &Keys) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("SERIAL", Left),
        ("FLAGS", Left),
        ("USAGE", Right),
        ("EXPIRY", Right),
        ("PERM", Left),
        ("UID", Right),
        ("GID", Right),
        ("TYPE", Left),
        ("LINKS", Right),
        ("KEY", Left),
        ("DESCRIPTION", Left),
    ]);
    for key in keys {
        table.row([
            format!("{:08x}", key.serial),
            key.letters(),
            key.usage.to_string(),
            key.expiry
                .map_or_else(|| "never".to_owned(), |at| at.to_string()),
            format!("{:08x}", key.perm),
            key.uid.to_string(),
            key.gid.cast_signed().to_string(),
            key.kind.clone(),
            key.links
                .map_or_else(String::new, |links| links.to_string()),
            key.at.to_string(),
            key.description.clone(),
        ]);
    }
    let count = keys.len();
    let s = if count == 1 { "" } else { "s" };
    table.note(format!("{count} key{s}"));
    table
}
