//! LZO1X, as kdump files have it: the reading half, into a buffer of known size.
//!
//! The encoding is described in the kernel's `Documentation/staging/lzo.rst`. What crates there are for it trust their
//! input.

/// Distance by which the mark of the stream's end points back, in bytes.
const FAR: usize = 16384;

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn byte(&mut self) -> Option<usize> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte.into())
    }

    fn word(&mut self) -> Option<usize> {
        Some(self.byte()? | self.byte()? << 8)
    }

    /// A length that did not fit its bits: 255 for each zero byte, then the first other one.
    fn length(&mut self, bits: usize, full: usize) -> Option<usize> {
        if bits > 0 {
            return Some(bits);
        }
        let mut length = full;
        loop {
            match self.byte()? {
                0 => length += 255,
                byte => return Some(length + byte),
            }
        }
    }
}

struct Output<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Output<'_> {
    fn literals(&mut self, input: &mut Input<'_>, count: usize) -> Option<()> {
        let from = input.bytes.get(input.at..input.at.checked_add(count)?)?;
        let end = self.at.checked_add(count)?;
        self.bytes.get_mut(self.at..end)?.copy_from_slice(from);
        (self.at, input.at) = (end, input.at + count);
        Some(())
    }

    /// Bytes that were there already; the copy may overlap itself.
    fn copy(&mut self, distance: usize, count: usize) -> Option<()> {
        let from = self.at.checked_sub(distance)?;
        for index in from..from.checked_add(count)? {
            let byte = *self.bytes.get(index)?;
            *self.bytes.get_mut(self.at)? = byte;
            self.at += 1;
        }
        Some(())
    }
}

/// Decompresses a whole stream; gives the length of what came out. `None` where it is none, or does not fit.
pub(super) fn decompress(bytes: &[u8], to: &mut [u8]) -> Option<usize> {
    let (mut input, mut output) = (Input { bytes, at: 0 }, Output { bytes: to, at: 0 });
    // Number of literals that came last: 0 to 3, or 4 for more.
    let mut last = 0;
    let first = usize::from(*bytes.first()?);
    if first >= 18 {
        input.at = 1;
        output.literals(&mut input, first - 17)?;
        last = (first - 17).min(4);
    }
    loop {
        let code = input.byte()?;
        let (distance, length, literals) = match (code, last) {
            (64.., _) => {
                let high = input.byte()?;
                ((high << 3) + (code >> 2 & 7) + 1, (code >> 5) + 1, code & 3)
            }
            (32..64, _) => {
                let length = input.length(code & 31, 31)? + 2;
                let word = input.word()?;
                ((word >> 2) + 1, length, word & 3)
            }
            (16..32, _) => {
                let length = input.length(code & 7, 7)? + 2;
                let word = input.word()?;
                let distance = ((code & 8) << 11) + (word >> 2);
                if distance == 0 {
                    return (length == 3).then_some(output.at);
                }
                (distance + FAR, length, word & 3)
            }
            (_, 0) => {
                let length = input.length(code, 15)? + 3;
                output.literals(&mut input, length)?;
                last = 4;
                continue;
            }
            (_, 4) => {
                let high = input.byte()?;
                ((high << 2) + (code >> 2) + 2049, 3, code & 3)
            }
            _ => {
                let high = input.byte()?;
                ((high << 2) + (code >> 2) + 1, 2, code & 3)
            }
        };
        output.copy(distance, length)?;
        output.literals(&mut input, literals)?;
        last = literals;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn literals_and_an_overlapping_copy() {
        // 17 + 4: four literals; M2, 4 bytes from 4 back, no literals; the end.
        let bytes = [
            21,
            b'a',
            b'b',
            b'c',
            b'd',
            0b0110_1100,
            0,
            0b0001_0001,
            0,
            0,
        ];
        let mut to = [0; 16];
        assert_eq!(decompress(&bytes, &mut to), Some(8));
        assert_eq!(&to[..8], b"abcdabcd");
        // M3 with a distance of 1: the last byte again and again.
        let bytes = [18, b'x', 0b0010_0101, 0, 0, 17, 0, 0];
        assert_eq!(decompress(&bytes, &mut to), Some(8));
        assert_eq!(&to[..8], b"xxxxxxxx");
        assert_eq!(decompress(&bytes, &mut to[..7]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_stream_or_none(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut to = [0; 4096];
            let len = decompress(&bytes, &mut to);
            prop_assert!(len.is_none_or(|len| len <= to.len()));
        }
    }
}
