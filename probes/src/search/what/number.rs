//! Numbers that stand where an address is expected: `include/linux/err.h`, `include/linux/poison.h`.

use nix::errno::Errno;

use crate::memory::GuestVirt;

/// `MAX_ERRNO`: the highest error that a pointer can be.
const MAX_ERRNO: u64 = 4095;

/// `POISON_POINTER_DELTA` of x86-64 (`CONFIG_ILLEGAL_POINTER_VALUE`).
const DELTA: u64 = 0xdead_0000_0000_0000;

/// Pointers that say who put them there. A member behind one is up to a page further.
const POISONED: &[(u64, &str)] = &[
    (
        DELTA + 0x100,
        "LIST_POISON1: next of a list node that was deleted",
    ),
    (
        DELTA + 0x122,
        "LIST_POISON2: prev of a list node that was deleted",
    ),
    (
        DELTA + 0x300,
        "TIMER_ENTRY_STATIC: a timer that was never armed",
    ),
    (DELTA + 0x400, "TAIL_MAPPING: mapping of a tail page"),
    (
        DELTA + 0x800,
        "SKB_LIST_POISON_NEXT: next of an sk_buff that is on no list",
    ),
    (
        DELTA + 0xeb9f,
        "BPF_PTR_POISON: a BPF pointer that was freed",
    ),
    (DELTA + 0xd390, "STACK_DEPOT_POISON: a stack that was freed"),
];

/// Bytes that memory is filled with.
const FILLED: &[(u8, &str)] = &[
    (0x6b, "POISON_FREE: memory of a slab object that was freed"),
    (
        0x5a,
        "POISON_INUSE: memory of a slab object that was never written",
    ),
    (
        0xbb,
        "SLUB_RED_INACTIVE: the red zone of a free slab object",
    ),
    (
        0xcc,
        "SLUB_RED_ACTIVE, or POISON_FREE_INITMEM: the red zone of a slab object, or code of the boot that was freed",
    ),
    (0xaa, "PAGE_POISON: a page that was freed"),
    (
        0xa7,
        "POOL_POISON_FREED: memory of a dma_pool that was freed",
    ),
    (
        0xa9,
        "POOL_POISON_ALLOCATED: memory of a dma_pool that was never written",
    ),
    (0xbd, "KEY_DESTROY: a key that was destroyed"),
];

/// Meaning of a number that is no address of the kernel.
pub(super) fn known(at: GuestVirt) -> Option<String> {
    let error = at.0.wrapping_neg();
    if (1..=MAX_ERRNO).contains(&error) {
        let name = errno(error as i32);
        let name = name.map_or_else(String::new, |name| format!(" (-{name})"));
        return Some(format!("an error as a pointer: -{error}{name}"));
    }
    let poison = |(value, text): &(u64, &str)| (*value == at.0).then(|| (*text).to_owned());
    if let Some(text) = POISONED.iter().find_map(poison) {
        return Some(text);
    }
    let bytes = at.0.to_le_bytes();
    let filled = |(byte, text): &(u8, &str)| {
        // A few of the low bits differ where a member of what lies there was meant.
        let all = bytes.iter().skip(2).all(|other| other == byte);
        all.then(|| (*text).to_owned())
    };
    FILLED.iter().find_map(filled)
}

/// The name of an error, those that only the kernel uses too (`include/linux/errno.h`).
fn errno(number: i32) -> Option<String> {
    const OWN: &[(i32, &str)] = &[
        (512, "ERESTARTSYS"),
        (513, "ERESTARTNOINTR"),
        (514, "ERESTARTNOHAND"),
        (515, "ENOIOCTLCMD"),
        (516, "ERESTART_RESTARTBLOCK"),
        (517, "EPROBE_DEFER"),
        (518, "EOPENSTALE"),
        (519, "ENOPARAM"),
        (521, "EBADHANDLE"),
        (522, "ENOTSYNC"),
        (523, "EBADCOOKIE"),
        (524, "ENOTSUPP"),
        (525, "ETOOSMALL"),
        (526, "ESERVERFAULT"),
        (527, "EBADTYPE"),
        (528, "EJUKEBOX"),
        (529, "EIOCBQUEUED"),
        (530, "ERECALLCONFLICT"),
        (531, "ENOGRACE"),
    ];
    if let Some((_, name)) = OWN.iter().find(|(own, _)| *own == number) {
        return Some((*name).to_owned());
    }
    match Errno::from_raw(number) {
        Errno::UnknownErrno => None,
        known => Some(format!("{known:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_poison_have_their_names() {
        let says = |at: u64, text: &str| {
            let known = known(GuestVirt(at)).unwrap_or_default();
            assert!(known.contains(text), "{at:#x}: {known}");
        };
        says(0xffff_ffff_ffff_fff4, "-12 (-ENOMEM)");
        says(-512_i64 as u64, "-ERESTARTSYS");
        says(-4095_i64 as u64, "-4095");
        says(0xdead_0000_0000_0100, "LIST_POISON1");
        says(0xdead_0000_0000_0122, "LIST_POISON2");
        says(0x6b6b_6b6b_6b6b_6b6b, "POISON_FREE");
        for at in [
            0,
            4,
            0xffff_ffff_8100_0000,
            0xdead_0000_0000_0101,
            -4096_i64 as u64,
        ] {
            assert_eq!(known(GuestVirt(at)), None, "{at:#x}");
        }
    }
}
