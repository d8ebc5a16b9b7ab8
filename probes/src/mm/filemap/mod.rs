//! The page cache of a file: `struct address_space` and its folios (`include/linux/fs.h`, `mm/filemap.c`).

mod view;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::mm::page::{MappedFile, MemMap, mapped_file};
use crate::object::{Mirror, Plan};
use crate::structures::{XarrayLayout, lacks, offset_of, settle_all, xa_for_each};
use crate::{Error, Missing, Result};

/// A folio of a file that is in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CachedFolio {
    /// Number of its first page in the file, from 0.
    pub index: u64,
    /// Pages that it has.
    pub pages: u64,
    /// Its first `struct page`.
    pub at: GuestVirt,
    /// Its first page frame.
    pub pfn: u64,
    /// Its flags: `page->flags` without node and zone, a bit each of [`PageCache::flag_names`].
    pub flags: u64,
    /// Number of page tables that map its first page.
    pub mapcount: i64,
}

/// The page cache of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PageCache {
    /// The file.
    pub file: MappedFile,
    /// Bytes that the file has: `i_size`.
    pub size: u64,
    /// Pages in the cache, as the kernel counts them: `nrpages`.
    pub nrpages: u64,
    /// The folios, ascending.
    pub folios: Vec<CachedFolio>,
    /// Entries that remember a page that was dropped, or swapped out.
    pub shadows: u64,
    /// The flags that a folio may have, by their bits, as `enum pageflags` names them.
    pub flag_names: BTreeMap<u32, String>,
    /// Parts of it that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

lacks!(PageCache);

impl PageCache {
    /// Pages of the folios that have a flag.
    #[must_use]
    pub fn with(&self, flag: &str) -> u64 {
        let named = self.flag_names.iter().find(|(_, name)| *name == flag);
        let mask = named.map_or(0, |(bit, _)| 1 << bit);
        let having = self.folios.iter().filter(|folio| folio.flags & mask != 0);
        having.map(|folio| folio.pages).fold(0, u64::saturating_add)
    }

    /// The names of a folio's flags, from bit 0 up.
    #[must_use]
    pub fn flags_of(&self, folio: &CachedFolio) -> Vec<&str> {
        let set = self.flag_names.iter();
        set.filter(|(bit, _)| folio.flags >> **bit & 1 == 1)
            .map(|(_, name)| &**name)
            .collect()
    }

    /// Pages that must be written to the disk: `PG_dirty`.
    #[must_use]
    pub fn dirty(&self) -> u64 {
        self.with("dirty")
    }

    /// Pages that are being written to the disk: `PG_writeback`.
    #[must_use]
    pub fn writeback(&self) -> u64 {
        self.with("writeback")
    }

    /// Pages of all folios.
    #[must_use]
    pub fn cached(&self) -> u64 {
        self.folios
            .iter()
            .map(|folio| folio.pages)
            .fold(0, u64::saturating_add)
    }

    /// Tells whether a page of the file is cached.
    #[must_use]
    pub fn has(&self, index: u64) -> bool {
        let after = self.folios.partition_point(|folio| folio.index <= index);
        let before = after.checked_sub(1).and_then(|i| self.folios.get(i));
        before.is_some_and(|folio| index - folio.index < folio.pages)
    }
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct address_space")]
struct Raw {
    nrpages: u64,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct inode")]
struct Inode {
    i_mapping: GuestVirt,
    i_size: u64,
}

impl Guest {
    /// The page cache of an inode.
    ///
    /// # Errors
    /// `Unmapped` if it is no inode's address; `Broken` if its xarray is damaged; `Torn` if it keeps changing.
    pub fn page_cache_of(&self, inode: GuestVirt) -> Result<PageCache> {
        let kernel = self.kernel()?;
        settle_all(&format!("the page cache of the inode at {inode}"), || {
            read(&kernel, inode)
        })
    }
}

/// The page cache of the file at a path, as seen by `init`.
///
/// The path is looked up in the dentry cache: what nothing has used lately is not found there.
pub(crate) fn page_cache(guest: &Guest, path: &str) -> Result<PageCache> {
    guest.page_cache_of(guest.path_lookup(path, 1)?.inode.at)
}

/// `None` if the count of pages changed.
fn read(kernel: &Kernel, inode: GuestVirt) -> Result<Option<PageCache>> {
    let raw: Inode = kernel.load(inode)?;
    let plan = Plan::<Raw>::new(kernel)?;
    let before = plan.load(raw.i_mapping)?;
    let pages = offset_of(kernel, "struct address_space", "i_pages")?;
    let memmap = MemMap::of(kernel)?;
    let mut cache = PageCache {
        file: mapped_file(kernel, raw.i_mapping)?,
        size: raw.i_size,
        nrpages: before.nrpages,
        folios: Vec::new(),
        shadows: 0,
        flag_names: memmap.flag_names(),
        missing: Vec::new(),
    };
    let bound = kernel.space().memory().ranges().iter();
    let bound = bound.fold(0_u64, |sum, range| sum.saturating_add(range.len)) / PAGE_SIZE;
    let layout = XarrayLayout::of(kernel)?;
    for entry in xa_for_each(kernel, raw.i_mapping.offset(pages), layout) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let what = match cache.folios.last() {
                    Some(last) => format!("the entries behind that of page {}", last.index),
                    None => "the entries".to_owned(),
                };
                cache.missing.push(Missing::new(what, &error));
                break;
            }
        };
        let Some(at) = entry.pointer() else {
            cache.shadows += 1;
            continue;
        };
        if cache.folios.len() as u64 >= bound {
            return Err(Error::TooLong {
                what: "page cache",
                at: raw.i_mapping,
                bound: cache.folios.len(),
            });
        }
        match cached(&memmap, raw.i_mapping, entry.index, at) {
            Ok(folio) => cache.folios.push(folio),
            Err(error) => {
                let what = format!("the entry of page {}", entry.index);
                cache.missing.push(Missing::new(what, &error));
            }
        }
    }
    if cache.missing.is_empty() && cache.cached() != cache.nrpages {
        let why = format!(
            "its folios have {} pages, its nrpages says {}",
            cache.cached(),
            cache.nrpages
        );
        let error = Error::broken("page cache", raw.i_mapping, why);
        cache.missing.push(Missing::from(&error));
    }
    Ok((plan.load(raw.i_mapping)? == before).then_some(cache))
}

/// The folio of an entry. It must be one of this file.
fn cached(memmap: &MemMap, mapping: GuestVirt, index: u64, at: GuestVirt) -> Result<CachedFolio> {
    let pfn = memmap
        .page_to_pfn(at)
        .filter(|pfn| memmap.pfn_to_page(*pfn) == at)
        .ok_or_else(|| Error::broken("page cache", at, "there is no struct page"))?;
    let folio = memmap.cached(pfn)?;
    if folio.mapping != mapping {
        let why = format!(
            "its mapping is {}, but it is in the cache of {mapping}",
            folio.mapping
        );
        return Err(Error::broken("folio", at, why));
    }
    Ok(CachedFolio {
        index,
        pages: 1 << folio.order,
        at,
        pfn,
        flags: folio.flags,
        mapcount: folio.mapcount,
    })
}
