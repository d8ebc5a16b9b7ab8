//! Going through the memory, piece by piece.

use std::ops::ControlFlow;

use super::needle::Matcher;
use super::ranges::Run;
use crate::base::check_interrupt;
use crate::memory::{GuestPhys, PhysMemory};
use crate::{ErrorKind, Missing, Result};

/// Bytes of a piece: few enough to stay in the processor's second cache.
const PIECE: u64 = 256 << 10;

/// A match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) at: u64,
    pub(super) phys: GuestPhys,
    pub(super) len: u64,
    pub(super) bytes: Vec<u8>,
}

/// A search that is under way.
pub(super) struct Scan<'a> {
    pub(super) memory: &'a dyn PhysMemory,
    pub(super) matcher: &'a Matcher,
    pub(super) alignment: u64,
    pub(super) limit: usize,
    pub(super) found: Vec<Found>,
    pub(super) searched: u64,
    /// Pieces that could not be read.
    pub(super) missing: Vec<Missing>,
}

impl Scan<'_> {
    /// Goes through all runs. `Break` where the limit was met, or `progress` said so.
    pub(super) fn all(
        &mut self,
        runs: &[Run],
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let sparse = !self.matcher.matches_zeros();
        let mut buffer = Vec::new();
        for run in runs {
            let len = run.len();
            let (mut done, mut resume) = (0, 0);
            while done < len {
                check_interrupt();
                let piece = PIECE.min(len - done);
                let whole = (piece + self.matcher.overlap() as u64).min(len - done);
                if !(sparse && self.is_hole(run, done, whole)) {
                    buffer.resize(whole as usize, 0);
                    if let Err(error) = self.read(run, done, &mut buffer) {
                        let at = run.start.saturating_add(done);
                        let what = format!("{piece:#x} bytes at {at:#x}");
                        self.missing.push(Missing::new(what, &error));
                        // Nothing more can be read of a machine that is gone.
                        if error.kind() == ErrorKind::Machine {
                            return ControlFlow::Break(());
                        }
                        done += piece;
                        continue;
                    }
                    if !self.piece(run, (done, piece), &buffer, &mut resume) {
                        self.searched += piece;
                        return ControlFlow::Break(());
                    }
                }
                done += piece;
                self.searched += piece;
                if progress(self.searched).is_break() {
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Notes the matches that begin in a piece; `false` where there are enough. `resume` is where the last match of the
    /// run ended.
    fn piece(
        &mut self,
        run: &Run,
        (done, piece): (u64, u64),
        buffer: &[u8],
        resume: &mut u64,
    ) -> bool {
        // A match of an expression that reached into this piece: what is left of it is none of its own.
        let skip = match self.matcher {
            Matcher::Regex(_) => resume.saturating_sub(done).min(piece) as usize,
            Matcher::Fixed(_) | Matcher::Within(..) => 0,
        };
        let base = run.start.wrapping_add(done + skip as u64);
        let (found, limit) = (&mut self.found, self.limit);
        let Some(bytes) = buffer.get(skip..) else {
            return true;
        };
        self.matcher.each(
            bytes,
            (base, self.alignment),
            piece as usize - skip,
            &mut |range| {
                if found.len() >= limit {
                    return false;
                }
                let offset = done + (skip + range.start) as u64;
                *resume = done + (skip + range.end) as u64;
                found.push(Found {
                    at: run.start.wrapping_add(offset),
                    phys: phys(run, offset),
                    len: range.len() as u64,
                    bytes: bytes.get(range).unwrap_or_default().to_vec(),
                });
                true
            },
        )
    }

    /// Fills `buffer` from so many bytes into a run.
    fn read(&self, run: &Run, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let (mut skip, mut filled) = (offset, 0);
        for part in &run.parts {
            let gone = skip.min(part.len);
            skip -= gone;
            let len = (part.len - gone).min((buffer.len() - filled) as u64) as usize;
            if len > 0
                && let Some(bytes) = buffer.get_mut(filled..filled + len)
            {
                self.memory.read_once(part.start.offset(gone), bytes)?;
                filled += len;
            }
        }
        Ok(())
    }

    /// Tells whether nothing but zeros lies from so many bytes into a run on.
    fn is_hole(&self, run: &Run, offset: u64, len: u64) -> bool {
        let (mut skip, mut left) = (offset, len);
        for part in &run.parts {
            let gone = skip.min(part.len);
            skip -= gone;
            let here = (part.len - gone).min(left);
            left -= here;
            if here > 0 {
                let start = part.start.offset(gone);
                if self.memory.next_data(start).0 < start.0 + here {
                    return false;
                }
            }
        }
        true
    }
}

/// The physical address so many bytes into a run.
fn phys(run: &Run, offset: u64) -> GuestPhys {
    let mut skip = offset;
    for part in &run.parts {
        if skip < part.len {
            return part.start.offset(skip);
        }
        skip -= part.len;
    }
    GuestPhys(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::Needle;
    use super::*;
    use crate::memory::{FakeMemory, PhysRange};

    /// Three frames out of order, a run of addresses: what begins in one and ends in the next must be found once.
    fn run(memory: &[u8]) -> (FakeMemory, Run) {
        let len = memory.len() as u64 / 3;
        let frames = [0x30_0000, 0x10_0000, 0x50_0000].map(GuestPhys);
        let pieces = memory.chunks(len as usize);
        let fake = FakeMemory::new(frames.iter().copied().zip(pieces.map(<[u8]>::to_vec)));
        let parts = frames.map(|start| PhysRange { start, len }).to_vec();
        (
            fake,
            Run {
                start: 0x7000_0000,
                parts,
            },
        )
    }

    fn search(memory: &[u8], needle: &Needle, limit: usize) -> (Vec<u64>, bool) {
        let (fake, run) = run(memory);
        let matcher = needle.compile().unwrap();
        let mut scan = Scan {
            memory: &fake,
            matcher: &matcher,
            alignment: needle.alignment(),
            limit,
            found: Vec::new(),
            searched: 0,
            missing: Vec::new(),
        };
        let end = scan.all(&[run], &mut |_| ControlFlow::Continue(()));
        for found in &scan.found {
            assert_eq!(found.bytes.len() as u64, found.len);
        }
        let at = |found: &Found| found.at - 0x7000_0000;
        (scan.found.iter().map(at).collect(), end.is_break())
    }

    #[test]
    fn what_crosses_frames_and_pieces_is_found_once() {
        let len = (3 * 192) << 10;
        let mut memory = vec![b'.'; len];
        let places = [
            0,
            (192 << 10) - 3,
            (256 << 10) - 1,
            (384 << 10) - 2,
            (512 << 10) - 4,
            len - 6,
        ];
        for at in places {
            memory[at..at + 6].copy_from_slice(b"needle");
        }
        let places: Vec<u64> = places.iter().map(|at| *at as u64).collect();
        assert_eq!(
            search(&memory, &Needle::text("needle"), 100),
            (places.clone(), false)
        );
        assert_eq!(
            search(&memory, &Needle::regex("[a-z]+"), 100),
            (places.clone(), false)
        );
        assert_eq!(
            search(&memory, &Needle::text("needle"), 2),
            (places[..2].to_vec(), true)
        );
        assert_eq!(
            search(&memory, &Needle::text("nothing"), 2),
            (vec![], false)
        );
    }
}
