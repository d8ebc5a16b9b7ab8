//! Bitmaps of `unsigned long`, and `struct cpumask`, which is one (`include/linux/bitmap.h`, `include/linux/cpumask.h`).

use super::word;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::{Error, Result};

/// Bits of the longest bitmap that is read.
pub const BITMAP_BOUND: usize = 1 << 20;

/// The set bits of the bitmap of `bits` bits at `at`, ascending.
///
/// # Errors
/// [`Error::TooLong`] for more than [`BITMAP_BOUND`] bits; `Unmapped` if a word is not in RAM.
pub fn bitmap(kernel: &Kernel, at: GuestVirt, bits: usize) -> Result<Vec<usize>> {
    if bits > BITMAP_BOUND {
        return Err(Error::TooLong {
            what: "bitmap",
            at,
            bound: BITMAP_BOUND,
        });
    }
    let mut set = Vec::new();
    for base in (0..bits).step_by(64) {
        let mut left = word(kernel, at.offset(base as u64 / 8))?;
        while left != 0 {
            let bit = base + left.trailing_zeros() as usize;
            if bit < bits {
                set.push(bit);
            }
            left &= left - 1;
        }
    }
    Ok(set)
}

/// The CPUs of the `cpumask` at `at`, of `nr_cpus` CPUs (`nr_cpu_ids`).
///
/// # Errors
/// As [`bitmap`].
pub fn cpumask(kernel: &Kernel, at: GuestVirt, nr_cpus: usize) -> Result<Vec<usize>> {
    bitmap(kernel, at, nr_cpus)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::Image;
    use super::*;

    #[test]
    fn a_lie_about_the_length_is_an_error() {
        let kernel = Image::default().kernel();
        assert!(matches!(
            bitmap(&kernel, GuestVirt(0), usize::MAX),
            Err(Error::TooLong { .. })
        ));
        assert!(matches!(
            bitmap(&kernel, GuestVirt(0), 1),
            Err(Error::NotRam { .. })
        ));
        assert_eq!(bitmap(&kernel, GuestVirt(0), 0), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn set_bits_come_back(bits in proptest::collection::btree_set(0usize..200, 0..50), n in 0usize..200) {
            let mut words = [0u64; 4];
            for bit in &bits {
                words[bit / 64] |= 1 << (bit % 64);
            }
            let mut image = Image::default();
            for (i, word) in words.into_iter().enumerate() {
                image.set(0x1000 + 8 * i as u64, word);
            }
            let want: Vec<usize> = bits.into_iter().filter(|b| *b < n).collect();
            prop_assert_eq!(cpumask(&image.kernel(), GuestVirt(0x1000), n).unwrap(), want);
        }
    }
}
