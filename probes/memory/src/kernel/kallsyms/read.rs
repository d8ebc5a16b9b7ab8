//! The tables of names and addresses, copied out of guest memory.

use super::super::vmcoreinfo::VmcoreInfo;
use crate::memory::{AddressSpace, GuestVirt};
use crate::{Error, Result};

/// More bytes than all names of any kernel take.
const MAX_NAMES: usize = 32 << 20;

pub(super) fn table(info: &VmcoreInfo, name: &str) -> Result<GuestVirt> {
    info.symbol(name).ok_or_else(|| {
        Error::NoKernel(format!(
            "VMCOREINFO of {} does not say where {name} is: kernels from 6.0 on with CONFIG_KALLSYMS do",
            info.release()
        ))
    })
}

pub(super) fn malformed(why: String) -> Error {
    Error::Malformed {
        what: "kallsyms",
        why,
    }
}

/// The names' bytes, and where in them each one's tokens start and how many there are.
pub(super) type Names = (Vec<u8>, Vec<(u32, u16)>);

/// Copies the names and finds where each starts. Their total length is written nowhere: it is where the last one ends.
pub(super) fn read_names(
    space: &AddressSpace,
    at: GuestVirt,
    count: u32,
    long: bool,
) -> Result<Names> {
    let mut names = Vec::new();
    let mut starts = Vec::with_capacity(count as usize);
    let mut next = 0_usize;
    while starts.len() < count as usize {
        // One name is at most 2 + 0x7fff bytes long.
        if names.len() < next + 0x8001 {
            if next > MAX_NAMES {
                return Err(malformed(format!(
                    "its names take more than {MAX_NAMES} bytes"
                )));
            }
            grow(space, at, &mut names, 256 << 10)?;
        }
        let mut len = usize::from(
            *names
                .get(next)
                .ok_or_else(|| malformed("its names do not end".to_owned()))?,
        );
        next += 1;
        // Since "kallsyms: support "big" kernel symbols" a set top bit means that a second byte follows.
        if long && len & 0x80 != 0 {
            len = len & 0x7f | usize::from(names.get(next).copied().unwrap_or(0)) << 7;
            next += 1;
        }
        if len == 0 || next + len > names.len() {
            return Err(malformed(format!(
                "symbol {} has a name of {len} tokens",
                starts.len()
            )));
        }
        starts.push((next as u32, len as u16));
        next += len;
    }
    names.truncate(next);
    names.shrink_to_fit();
    Ok((names, starts))
}

/// Appends up to `more` bytes, fewer where the mapping ends.
fn grow(space: &AddressSpace, at: GuestVirt, bytes: &mut Vec<u8>, more: usize) -> Result<()> {
    let old = bytes.len();
    bytes.resize(old + more, 0);
    if space.read(at.offset(old as u64), &mut bytes[old..]).is_ok() {
        return Ok(());
    }
    bytes.truncate(old);
    let mut page = [0; 4096];
    for _ in 0..more / page.len() {
        let here = at.offset(bytes.len() as u64);
        let room = page.len() - here.page_offset() as usize;
        match space.read(here, &mut page[..room]) {
            Ok(()) => bytes.extend_from_slice(&page[..room]),
            Err(e) if bytes.len() == old => return Err(e),
            Err(_) => break,
        }
    }
    Ok(())
}

/// The addresses under each reading that the tables at hand allow.
pub(super) fn read_addresses(
    space: &AddressSpace,
    info: &VmcoreInfo,
    count: usize,
) -> Result<Vec<Vec<u64>>> {
    if let Some(at) = info.symbol("kallsyms_addresses") {
        let mut bytes = vec![0; count * 8];
        space.read(at, &mut bytes)?;
        let word = |b: &[u8]| b.try_into().map_or(0, u64::from_le_bytes);
        return Ok(vec![bytes.chunks_exact(8).map(word).collect()]);
    }
    let at = table(info, "kallsyms_offsets")?;
    let mut bytes = vec![0; count * 4];
    space.read(at, &mut bytes)?;
    let offsets = bytes
        .chunks_exact(4)
        .map(|b| b.try_into().map_or(0, i32::from_le_bytes));
    let Some(base) = info.symbol("kallsyms_relative_base") else {
        // Each offset is relative to its own place.
        let here = |i: usize| at.0.wrapping_add(i as u64 * 4);
        return Ok(vec![
            offsets
                .enumerate()
                .map(|(i, o)| here(i).wrapping_add_signed(i64::from(o)))
                .collect(),
        ]);
    };
    let base = space.read_u64(base)?;
    // With absolute per-CPU symbols a negative offset counts from the base, another is the address itself;
    // without, all count from the base, unsigned.
    let signed = offsets.clone().map(|o| match u64::try_from(o) {
        Ok(absolute) => absolute,
        Err(_) => base
            .wrapping_sub(1)
            .wrapping_add(i64::from(o).unsigned_abs()),
    });
    let unsigned = offsets
        .clone()
        .map(|o| base.wrapping_add(u64::from(o.cast_unsigned())));
    Ok(vec![signed.collect(), unsigned.collect()])
}
