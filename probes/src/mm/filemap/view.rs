//! The page cache of a file.

use crate::memory::PAGE_SIZE;
use crate::mm::filemap::PageCache;
use crate::view::{Align, Table, View, bytes};

/// Folios that a view shows; `--json` and the value have all.
const SHOWN: usize = 40;

impl View for PageCache {
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

fn table(cache: &PageCache) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("INDEX", Right),
        ("PAGES", Right),
        ("PFN", Right),
        ("FOLIO", Left),
        ("MAPPED", Right),
        ("FLAGS", Left),
    ];
    let mut table = Table::new(columns);
    for folio in cache.folios.iter().take(SHOWN) {
        table.row([
            folio.index.to_string(),
            folio.pages.to_string(),
            format!("{:#x}", folio.pfn),
            folio.at.to_string(),
            folio.mapcount.to_string(),
            cache.flags_of(folio).join(" "),
        ]);
    }
    let more = match cache.folios.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("and {more} folios more (--json has all); "),
    };
    let (cached, all) = (cache.cached(), cache.size.div_ceil(PAGE_SIZE));
    let (dirty, writeback) = (cache.dirty(), cache.writeback());
    let (major, minor) = cache.file.dev;
    table.note(format!(
        "{more}{cached} of {all} pages ({}) are cached, {dirty} dirty, {writeback} in writeback, {} shadows; inode {} of {major}:{minor}, address_space {}",
        bytes(cache.size),
        cache.shadows,
        cache.file.ino,
        cache.file.at
    ));
    table.lacks(&cache.missing);
    table
}

crate::displays!(PageCache);
