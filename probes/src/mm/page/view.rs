//! One page frame: its kind, its folio, its references.

use crate::memory::PAGE_SIZE;
use crate::mm::page::Page;
use crate::view::{Align, Table, View, bytes};

impl View for Page {
    fn text(&self) -> String {
        table(self).text()
    }

    fn html(&self) -> Option<String> {
        table(self).html()
    }
}

fn table(page: &Page) -> Table {
    let at = page.at.to_string();
    let mut table = Table::new([("STRUCT PAGE", Align::Left), (&*at, Align::Left)]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("pfn", format!("{:#x} ({})", page.pfn, page.pfn));
    row("physical", format!("{:#x}", page.phys.0));
    if let Some(virt) = page.virt {
        row("direct map", virt.to_string());
    }
    row("is", page.describe());
    row(
        "flags",
        format!("{:#x} {}", page.raw_flags, page.flags.join(" ")),
    );
    row("references", page.refcount.to_string());
    row("mapped", format!("{} times", page.mapcount));
    row("zone", format!("{} of node {}", page.zone, page.node));
    if let Some(folio) = &page.folio {
        let size = bytes(PAGE_SIZE << folio.order);
        let text = format!(
            "page {} of the {size} at pfn {:#x}, order {}, head {}",
            folio.index, folio.pfn, folio.order, folio.at
        );
        row("folio", text);
    }
    if let Some(of) = &page.mapping {
        row("mapping", of.to_string());
    }
    if let Some(index) = page.index {
        row("index", index.to_string());
    }
    if page.private != 0 {
        row("private", format!("{:#x}", page.private));
    }
    table
}

crate::displays!(Page);
