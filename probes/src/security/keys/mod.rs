//! Keys and keyrings: `struct key` (`include/linux/key.h`, `security/keys/`).

mod view;

use serde::Serialize;

use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{offset_of, rbtree_for_each_entry, settle_all};
use crate::{Listing, Of as _, Result};

/// Keys that are read at most.
const BOUND: usize = 1 << 16;
/// Bytes of the longest description: `KEY_MAX_DESC_SIZE` of `security/keys/keyctl.c` is a page.
const DESCRIPTION: usize = 4096;
/// Bytes of the longest name of a type.
const TYPE: usize = 64;

/// `KEY_FLAG_*` of `include/linux/key.h` that `/proc/keys` shows, with their letters.
const FLAGS: [(u64, char); 5] = [
    (1 << 1, 'R'),
    (1 << 0, 'D'),
    (1 << 2, 'Q'),
    (1 << 3, 'U'),
    (1 << 5, 'i'),
];

/// A key, or a keyring: a key that holds keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Its number: `key.serial`.
    pub serial: i32,
    /// Address of its `struct key`.
    pub at: GuestVirt,
    /// `key.type.name`: `keyring`, `user`, `asymmetric`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `key.description`; empty for an anonymous keyring.
    pub description: String,
    /// Number of keys that are linked to the keyring, `assoc_array.nr_leaves_on_tree`; `None` for a key of another type.
    pub links: Option<u64>,
    /// `key.state`: 1 where it has its payload, 0 while it waits for it, else the negative error that it was refused with.
    pub state: i16,
    /// `key.flags`: bits of `KEY_FLAG_*`.
    pub flags: u64,
    /// References to it: `key.usage`.
    pub usage: i32,
    /// Time of its expiry, in seconds since 1970; `None` if it does not expire.
    pub expiry: Option<i64>,
    /// `key.perm`: the rights of its possessor, its user, its group and others, a byte each.
    pub perm: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Bytes of its payload: `key.datalen`.
    pub datalen: u16,
}

/// All keys, by their numbers.
pub type Keys = Listing<Key>;

impl Key {
    /// The letters that `/proc/keys` has: instantiated, revoked, dead, in quota, under construction, negative,
    /// invalidated.
    #[must_use]
    pub fn letters(&self) -> String {
        let flag = |(bit, letter)| if self.flags & bit != 0 { letter } else { '-' };
        let state = |is: bool, letter| if is { letter } else { '-' };
        let mut letters = vec![state(self.state != 0, 'I')];
        letters.extend(FLAGS.map(flag));
        letters.insert(5, state(self.state < 0, 'N'));
        letters.into_iter().collect()
    }
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct key")]
struct Raw {
    serial: i32,
    #[mirror(member = "usage.refs.counter")]
    usage: i32,
    expiry: i64,
    #[mirror(member = "uid.val")]
    uid: u32,
    #[mirror(member = "gid.val")]
    gid: u32,
    perm: u32,
    datalen: u16,
    state: i16,
    flags: u64,
    #[mirror(member = "type")]
    kind: GuestVirt,
    description: GuestVirt,
    #[mirror(member = "keys.nr_leaves_on_tree")]
    links: u64,
}

/// The keys of `key_serial_tree`. `/proc/keys` has those of them that its reader may see.
pub(crate) fn keyrings(kernel: &Kernel) -> Result<Keys> {
    let root = kernel.symbol("key_serial_tree")?;
    let node = offset_of(kernel, "struct key", "serial_node")?;
    let name = offset_of(kernel, "struct key_type", "name")?;
    let plan = Plan::<Raw>::new(kernel)?;
    settle_all("the keys", || {
        let nodes = rbtree_for_each_entry(kernel, root, node).bound(BOUND);
        let places = Listing::walk("the tree of keys", nodes);
        let mut keys = Keys::new();
        for at in &places.items {
            keys.take(key(kernel, &plan, name, *at), || format!("the key at {at}"));
        }
        keys.missing.extend(places.missing);
        Ok(Some(keys))
    })
}

fn key(kernel: &Kernel, plan: &Plan<Raw>, name: u64, at: GuestVirt) -> Result<Key> {
    let raw = plan.load(at)?;
    let pointer = kernel.read_u64(raw.kind.offset(name));
    let kind = pointer.and_then(|name| kernel.read_cstr(GuestVirt(name), TYPE));
    let kind = kind.of(|| format!("its type {}", raw.kind))?;
    let description = match raw.description {
        GuestVirt(0) => String::new(),
        at => kernel
            .read_cstr(at, DESCRIPTION)
            .of(|| format!("its description {at}"))?,
    };
    Ok(Key {
        serial: raw.serial,
        at,
        // In another type the member is the payload.
        links: (kind == "keyring").then_some(raw.links),
        kind,
        description,
        state: raw.state,
        flags: raw.flags,
        usage: raw.usage,
        // TIME64_MAX since 6.7, 0 before.
        expiry: Some(raw.expiry).filter(|at| ![0, i64::MAX].contains(at)),
        perm: raw.perm,
        uid: raw.uid,
        gid: raw.gid,
        datalen: raw.datalen,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_in_the_order_of_proc() {
        let mut key = Key {
            serial: 1,
            at: GuestVirt(0x1000),
            kind: "user".to_owned(),
            description: String::new(),
            links: None,
            state: 1,
            flags: 1 << 2,
            usage: 1,
            expiry: None,
            perm: 0,
            uid: 0,
            gid: 0,
            datalen: 0,
        };
        assert_eq!(key.letters(), "I--Q---");
        (key.state, key.flags) = (-126, 0b10_1011);
        assert_eq!(key.letters(), "IRD-UNi");
    }
}
