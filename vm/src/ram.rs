//! The guest's RAM as a file on the host.

use klab_facts::RamRange;

use crate::error::{Error, Result};

/// More ranges of RAM than any machine has.
const MOST: usize = 4096;

/// The ranges that the memory backend `ram`, of `memory` bytes, has in QEMU's flat view of the system's memory
/// (`info mtree -f`).
///
/// Parts that the firmware made read-only (`rom`) are in the same file, so they belong to it.
pub(crate) fn parse(mtree: &str, memory: u64) -> Result<Vec<RamRange>> {
    let ranges = blocks(mtree, |name| name == "ram")?;
    let outside = |range: &RamRange| {
        range
            .offset
            .checked_add(range.len)
            .is_none_or(|end| end > memory)
    };
    if ranges.iter().any(|(_, range)| outside(range)) {
        return Err(bad("a range lies outside of the RAM file"));
    }
    Ok(ranges.into_iter().map(|(_, range)| range).collect())
}

fn bad(why: &str) -> Error {
    Error::Qmp {
        command: "info mtree -f".to_owned(),
        why: why.to_owned(),
    }
}

/// The ranges of all memory regions that are `wanted` by name, each with that name, offsets being into the region.
/// A range that goes on where the one before it ends is one range with it.
pub(crate) fn blocks(mtree: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<(&str, RamRange)>> {
    let view = mtree.split("FlatView #").find(|view| {
        view.lines()
            .any(|line| line.trim().starts_with("AS \"memory\""))
    });
    let view = view.ok_or_else(|| bad("its text has no view of the system's memory"))?;
    let mut ranges: Vec<(&str, RamRange)> = Vec::new();
    for (name, range) in view.lines().filter_map(line) {
        if !wanted(name) {
            continue;
        }
        if range.offset.checked_add(range.len).is_none() {
            return Err(bad("a range has no end"));
        }
        match ranges.last_mut() {
            Some((before, last))
                if *before == name
                    && last.gpa.checked_add(last.len) == Some(range.gpa)
                    && last.offset.checked_add(last.len) == Some(range.offset) =>
            {
                last.len += range.len;
            }
            Some((_, last))
                if last
                    .gpa
                    .checked_add(last.len)
                    .is_none_or(|end| end > range.gpa) =>
            {
                return Err(bad("its ranges overlap"));
            }
            _ => ranges.push((name, range)),
        }
        if ranges.len() > MOST {
            return Err(bad("it has too many ranges of RAM"));
        }
    }
    if ranges.is_empty() {
        Err(bad("it shows no RAM"))
    } else {
        Ok(ranges)
    }
}

/// `  0000000000100000-000000001fffffff (prio 0, ram): ram @0000000000100000`; the offset is left out where it is 0.
fn line(line: &str) -> Option<(&str, RamRange)> {
    let (span, rest) = line.trim().split_once(' ')?;
    let (first, last) = span.split_once('-')?;
    let (kind, name) = rest.split_once("): ")?;
    if !(kind.ends_with(", ram") || kind.ends_with(", rom") || kind.ends_with(", romd")) {
        return None;
    }
    let mut words = name.split_ascii_whitespace();
    let name = words.next()?;
    let offset = match words.next().and_then(|word| word.strip_prefix('@')) {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => 0,
    };
    let (first, last) = (
        u64::from_str_radix(first, 16).ok()?,
        u64::from_str_radix(last, 16).ok()?,
    );
    let range = RamRange {
        gpa: first,
        offset,
        len: last.checked_sub(first)?.checked_add(1)?,
    };
    Some((name, range))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: &str = "FlatView #0\r\n AS \"cpu-smm-0\", root: memory\r\n  0000000000000000-00000000000bffff (prio 0, ram): ram\r\n\r\n\
        FlatView #1\r\n AS \"memory\", root: system\r\n AS \"cpu-memory-0\", root: system\r\n Root memory region: system\r\n\
        \x20 0000000000000000-000000000009ffff (prio 0, ram): ram\r\n\
        \x20 00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem\r\n\
        \x20 00000000000c0000-00000000000cafff (prio 0, rom): ram @00000000000c0000\r\n\
        \x20 00000000000cb000-000000007fffffff (prio 0, ram): ram @00000000000cb000\r\n\
        \x20 00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram\r\n\
        \x20 0000000100000000-00000001bfffffff (prio 0, ram): ram @0000000080000000 KVM\r\n";

    #[test]
    fn ram_above_the_hole_is_a_range_of_its_own() {
        let ranges = parse(VIEW, 5 << 30).unwrap();
        let expected = [
            (0, 0, 0xa_0000),
            (0xc_0000, 0xc_0000, 0x7ff4_0000),
            (1 << 32, 2 << 30, 3 << 30),
        ];
        assert_eq!(
            ranges,
            expected.map(|(gpa, offset, len)| RamRange { gpa, offset, len })
        );
    }

    #[test]
    fn lies_are_refused() {
        assert!(parse(VIEW, 1 << 30).is_err());
        assert!(parse("", 1 << 30).is_err());
        let twice = VIEW.replace("00000000000cb000-", "00000000000c0000-");
        assert!(parse(&twice, 5 << 30).is_err());
        let end = "FlatView #1\n AS \"memory\", root: system\n ffffffffffffffff-ffffffffffffffff (prio 0, ram): ram\n";
        assert!(parse(end, 1 << 30).is_ok_and(|ranges| ranges[0].len == 1));
    }
}
