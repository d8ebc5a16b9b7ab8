//! Copies of RAM files: only what was written is read, and pages of zeros stay holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

const CHUNK: usize = 1 << 20;
const PAGE: usize = 4096;

/// Makes `to` hold what `from` holds, in place: `to` keeps its inode and is never shorter than it was, so that
/// a process that has it mapped stays safe. Both have the same length.
pub(crate) fn copy(from: &File, to: &File, zeros: Zeros) -> io::Result<()> {
    let len = from.metadata()?.len();
    if to.metadata()?.len() < len {
        to.set_len(len)?;
    }
    let mut done = 0;
    while let Some((start, end)) = next_data(from, done, len)? {
        punch(to, done, start)?;
        stretch(from, to, start, end, zeros)?;
        done = end;
    }
    punch(to, done, len)
}

/// Treatment of pages that hold only zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zeros {
    /// They become holes: worth its time once, when a state is saved.
    Drop,
    /// They are copied.
    Keep,
}

/// The next stretch of `file` at or after `at` that is no hole.
fn next_data(file: &File, at: u64, len: u64) -> io::Result<Option<(u64, u64)>> {
    let at = i64::try_from(at).map_err(io::Error::other)?;
    let start = match lseek(file, at, Whence::SeekData) {
        Ok(start) => start,
        Err(Errno::ENXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let end = lseek(file, start, Whence::SeekHole)?;
    let (start, end) = (
        u64::try_from(start).map_err(io::Error::other)?,
        u64::try_from(end).map_err(io::Error::other)?,
    );
    Ok((start < len).then_some((start, end.min(len))))
}

fn punch(file: &File, start: u64, end: u64) -> io::Result<()> {
    if start >= end {
        return Ok(());
    }
    let (start, len) = (
        i64::try_from(start).map_err(io::Error::other)?,
        i64::try_from(end - start).map_err(io::Error::other)?,
    );
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, flags, start, len).map_err(io::Error::from)
}

fn stretch(from: &File, to: &File, start: u64, end: u64, zeros: Zeros) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        from.read_exact_at(&mut buffer[..want], at)?;
        match zeros {
            Zeros::Keep => to.write_all_at(&buffer[..want], at)?,
            Zeros::Drop => pages(&buffer[..want], to, at)?,
        }
        at += want as u64;
    }
    Ok(())
}

/// Writes the pages that hold something, neighbours together.
fn pages(bytes: &[u8], to: &File, at: u64) -> io::Result<()> {
    let zero = |page: &[u8]| page.iter().all(|&byte| byte == 0);
    let mut done = 0;
    for run in bytes
        .chunks(PAGE)
        .collect::<Vec<_>>()
        .chunk_by(|a, b| zero(a) == zero(b))
    {
        let len: usize = run.iter().map(|page| page.len()).sum();
        let (start, end) = (at + done as u64, at + (done + len) as u64);
        if run.first().is_some_and(|page| zero(page)) {
            punch(to, start, end)?;
        } else {
            to.write_all_at(&bytes[done..done + len], start)?;
        }
        done += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_copy_in_place_equals_its_source() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let len = 8 << 20;
        from.set_len(len).unwrap();
        from.write_all_at(b"first", 0).unwrap();
        from.write_all_at(&[7; 5000], 3_000_000).unwrap();
        from.write_all_at(&[0; 1 << 20], 4 << 20).unwrap();
        from.write_all_at(b"end", len - 3).unwrap();
        for zeros in [Zeros::Keep, Zeros::Drop] {
            to.write_all_at(&vec![0xaa; 8 << 20], 0).unwrap();
            copy(&from, &to, zeros).unwrap();
            let mut both = [vec![1; 8 << 20], vec![2; 8 << 20]];
            from.read_exact_at(&mut both[0], 0).unwrap();
            to.read_exact_at(&mut both[1], 0).unwrap();
            assert!(both[0] == both[1]);
        }
        assert!(to.metadata().unwrap().blocks() <= from.metadata().unwrap().blocks());
    }
}
