//! `struct sbitmap`: a bitmap that many CPUs allocate from, in words far apart (`include/linux/sbitmap.h`).

use super::BITMAP_BOUND;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::{Error, Result};

#[derive(Debug, Mirror)]
#[mirror(c = "struct sbitmap")]
struct Raw {
    depth: u32,
    shift: u32,
    map_nr: u32,
    map: GuestVirt,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct sbitmap_word")]
struct Word {
    word: u64,
    /// Bits that were freed and not yet taken out of `word`.
    cleared: u64,
}

/// The set bits of the sbitmap at `at`, ascending: `sbitmap_for_each_set()`.
///
/// # Errors
/// [`Error::TooLong`] for more than [`BITMAP_BOUND`] bits; `Broken` if its words have more than 64; `Unmapped` if one
/// is not in RAM.
pub fn sbitmap(kernel: &Kernel, at: GuestVirt) -> Result<Vec<usize>> {
    let raw: Raw = kernel.load(at)?;
    if raw.depth as usize > BITMAP_BOUND || raw.map_nr as usize > BITMAP_BOUND {
        return Err(Error::TooLong {
            what: "sbitmap",
            at,
            bound: BITMAP_BOUND,
        });
    }
    // A word has 2^shift bits of the map.
    if raw.shift > 6 {
        return Err(Error::Broken {
            what: "sbitmap",
            at,
            why: format!("a word of it has 2^{} bits", raw.shift),
        });
    }
    let plan = Plan::<Word>::new(kernel)?;
    let mut set = Vec::new();
    for index in 0..raw.map_nr as usize {
        let word = plan.load(raw.map.offset(index as u64 * plan.size()))?;
        let mut left = word.word & !word.cleared;
        while left != 0 {
            let in_word = left.trailing_zeros() as usize;
            let bit = (index << raw.shift) + in_word;
            if in_word < 1 << raw.shift && bit < raw.depth as usize {
                set.push(bit);
            }
            left &= left - 1;
        }
    }
    Ok(set)
}
