//! makedumpfile's flattened format, in which a dump goes through a pipe: pieces, each with its place
//! (`struct makedumpfile_header`, `struct makedumpfile_data_header`; big-endian).

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use super::Bytes;

pub(super) const MAGIC: &[u8] = b"makedumpfile\0";
/// Offset of the first piece, in bytes.
const HEADER: u64 = 4096;
/// Pieces that are remembered: makedumpfile writes some MB in each.
const MOST: usize = 4 << 20;

/// A flattened file, read as the file that it is to become.
#[derive(Debug)]
pub(super) struct Flat {
    file: File,
    /// Ascending by place.
    pieces: Vec<Piece>,
    len: u64,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    place: u64,
    len: u64,
    at: u64,
}

impl Flat {
    /// Looks up where the pieces are. A later one may replace an earlier one of the same place (the header is written
    /// twice), not a part of one.
    pub(super) fn open(file: File) -> Result<Self, String> {
        let whole = file.metadata().map_err(|e| e.to_string())?.len();
        let mut pieces: Vec<Piece> = Vec::new();
        let mut at = HEADER;
        loop {
            let mut head = [0; 16];
            file.read_exact_at(&mut head, at)
                .map_err(|_| "it ends in the middle: it was cut off".to_owned())?;
            let (place, len) = head.split_at(8);
            let word = |bytes: &[u8]| bytes.try_into().map_or(-1, i64::from_be_bytes);
            let (place, len) = (word(place), word(len));
            at += 16;
            if place == -1 {
                break;
            }
            let (Ok(place), Ok(len)) = (u64::try_from(place), u64::try_from(len)) else {
                return Err(format!("the piece at {at:#x} has no place"));
            };
            if at.checked_add(len).is_none_or(|end| end > whole) || place.checked_add(len).is_none()
            {
                return Err(format!(
                    "the piece at {at:#x} is not in it: it was cut off, or is damaged"
                ));
            }
            if pieces.len() == MOST {
                return Err("it has more pieces than any dump".to_owned());
            }
            pieces.push(Piece { place, len, at });
            at += len;
        }
        // Of two pieces at one place the last written comes first, and is kept.
        pieces.sort_by_key(|piece| (piece.place, std::cmp::Reverse(piece.at)));
        pieces.dedup_by_key(|piece| piece.place);
        let len = pieces.iter().map(|piece| piece.place + piece.len).max();
        Ok(Self {
            file,
            pieces,
            len: len.unwrap_or(0),
        })
    }
}

impl Bytes for Flat {
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let here = at + done as u64;
            let index = self.pieces.partition_point(|piece| piece.place <= here);
            let piece = index.checked_sub(1).and_then(|i| self.pieces.get(i));
            let into = piece.map(|piece| (piece, here - piece.place));
            // A part that nobody wrote is a hole of the file.
            let (len, from) = match into.filter(|(piece, into)| *into < piece.len) {
                Some((piece, into)) => (piece.len - into, Some(piece.at + into)),
                None => {
                    let next = self.pieces.get(index).map(|piece| piece.place - here);
                    (next.ok_or(ErrorKind::UnexpectedEof)?, None)
                }
            };
            let end = buf
                .len()
                .min(done.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)));
            match from {
                Some(from) => self.file.read_exact_at(&mut buf[done..end], from)?,
                None => buf[done..end].fill(0),
            }
            done = end;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn flat(pieces: &[(i64, &[u8])], end: bool) -> Result<Flat, String> {
        let mut file = tempfile::tempfile().unwrap();
        let mut bytes = MAGIC.to_vec();
        bytes.resize(HEADER as usize, 0);
        for (place, piece) in pieces {
            bytes.extend(place.to_be_bytes());
            bytes.extend((piece.len() as i64).to_be_bytes());
            bytes.extend(*piece);
        }
        if end {
            bytes.extend([0xff; 16]);
        }
        file.write_all(&bytes).unwrap();
        Flat::open(file)
    }

    #[test]
    fn pieces_are_put_in_their_places() {
        let flat = flat(&[(8, b"ij"), (0, b"abc"), (0, b"ABC"), (3, b"def")], true).unwrap();
        assert_eq!(flat.len().unwrap(), 10);
        let mut all = [1; 10];
        flat.read_at(0, &mut all).unwrap();
        assert_eq!(&all, b"ABCdef\0\0ij");
        assert!(flat.read_at(9, &mut all).is_err());
    }

    #[test]
    fn what_was_cut_off_is_told() {
        assert!(flat(&[(0, b"abc")], false).unwrap_err().contains("cut off"));
        assert!(
            flat(&[(-7, b"abc")], true)
                .unwrap_err()
                .contains("no place")
        );
        assert!(flat(&[(i64::MAX, b"abc")], true).is_ok());
    }
}
