//! The walkers and their `validate_*` twins on structures that a module of the tests has planted: good ones whose every entry is
//! known, and ones with one thing wrong, each beside what the twin says of it. And an `sk_buff` of known shape.

use std::path::Path;

use probes::kernel::Kernel;
use probes::memory::GuestVirt;
use probes::structures::{
    IdrLayout, MapleLayout, PlistLayout, XarrayLayout, hlist_for_each, idr_for_each, idr_load,
    list_for_each, list_for_each_entry, llist_for_each_entry, mt_for_each, mtree_load,
    plist_for_each, rbtree_for_each_entry, validate_hlist, validate_idr, validate_list,
    validate_llist, validate_maple, validate_plist, validate_rbtree, validate_xarray, xa_for_each,
    xa_load,
};
use probes::{Error, Result};
use vm::Silent;
use vm::toolchain::Toolchain;

use crate::ground::Ground;

const ITEMS: u64 = 500;
const RANGES: u64 = 2000;
const ENTRIES: u64 = 300;
const BOUND: usize = 10_000;

/// Builds and loads the module of the tests.
pub(crate) fn load(ground: &mut Ground) {
    let machine = ground.guest.machine().unwrap();
    let toolchain = Toolchain::of(machine.kernel().unwrap()).unwrap();
    toolchain.ensure(&mut Silent).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kmod/test");
    let module = toolchain.build("klab_test", &source, &mut Silent).unwrap();
    ground
        .agent
        .push_file(&module, "/run/klab_test.ko")
        .unwrap();
    ground.agent.load_module("/run/klab_test.ko", "").unwrap();
}

/// Address of the thing that is planted under a name.
fn planted(kernel: &Kernel, name: &str) -> GuestVirt {
    kernel.symbol(&format!("klab_test_{name}")).unwrap()
}

fn keys(kernel: &Kernel, items: impl Iterator<Item = Result<GuestVirt>>) -> Vec<u64> {
    items
        .map(|item| kernel.read_u64(item.unwrap()).unwrap())
        .collect()
}

#[test]
fn is_walked() {
    let mut ground = Ground::bare("default", 512 << 20);
    load(&mut ground);
    let guest = ground.guest.clone();
    let kernel = guest.kernel().unwrap();
    let offset = |index: u64| {
        let at = planted(&kernel, "offsets").offset(index * 8);
        kernel.read_u64(at).unwrap()
    };
    let in_order: Vec<u64> = (0..ITEMS).map(|i| i * 7 % ITEMS).collect();
    let reversed: Vec<u64> = in_order.iter().rev().copied().collect();
    let sorted: Vec<u64> = (0..ITEMS).collect();

    let list = planted(&kernel, "list");
    assert_eq!(
        keys(&kernel, list_for_each_entry(&kernel, list, offset(0))),
        in_order
    );
    assert_eq!(validate_list(&kernel, list, BOUND).unwrap(), in_order.len());
    let empty = planted(&kernel, "list_empty");
    assert_eq!(list_for_each(&kernel, empty).count(), 0);
    assert_eq!(validate_list(&kernel, empty, BOUND).unwrap(), 0);
    let single = planted(&kernel, "list_single");
    assert_eq!(list_for_each(&kernel, single).count(), 1);
    assert_eq!(validate_list(&kernel, single, BOUND).unwrap(), 1);
    assert!(validate_list(&kernel, list, 100).is_err(), "a bound is one");

    let hlist = planted(&kernel, "hlist");
    let nodes = hlist_for_each(&kernel, hlist).map(|node| Ok(node?.back(offset(1))));
    assert_eq!(keys(&kernel, nodes), reversed);
    assert_eq!(
        validate_hlist(&kernel, hlist, BOUND).unwrap(),
        reversed.len()
    );
    assert_eq!(
        validate_hlist(&kernel, planted(&kernel, "hlist_empty"), BOUND).unwrap(),
        0
    );
    let llist = planted(&kernel, "llist");
    assert_eq!(
        keys(&kernel, llist_for_each_entry(&kernel, llist, offset(2))),
        reversed
    );
    assert_eq!(
        validate_llist(&kernel, llist, BOUND).unwrap(),
        reversed.len()
    );

    let layout = PlistLayout::of(&kernel).unwrap();
    let plist = planted(&kernel, "plist");
    let nodes: Vec<(GuestVirt, i32)> = plist_for_each(&kernel, plist, layout)
        .map(Result::unwrap)
        .collect();
    for (index, (node, prio)) in nodes.iter().enumerate() {
        let key = kernel.read_u64(node.back(offset(3))).unwrap();
        assert_eq!((key, *prio as u64), (index as u64, index as u64 / 5));
    }
    assert_eq!(
        validate_plist(&kernel, plist, layout, BOUND).unwrap(),
        sorted.len()
    );

    let tree = planted(&kernel, "rb");
    assert_eq!(
        keys(&kernel, rbtree_for_each_entry(&kernel, tree, offset(4))),
        sorted
    );
    assert_eq!(validate_rbtree(&kernel, tree, BOUND).unwrap(), sorted.len());
    assert_eq!(
        validate_rbtree(&kernel, planted(&kernel, "rb_empty"), BOUND).unwrap(),
        0
    );
    trees(&kernel, list, offset(0));
    wrong(&kernel);
    skb(&guest, &kernel);
    drop(guest);
    ground.agent.unload_module("klab_test").unwrap();
    let log = ground.sh("dmesg | grep -cE 'WARNING|BUG|Oops|Call Trace' || true");
    assert_eq!(log.trim(), "0");
}

/// The maple tree, the xarray and the idr, whose entries are the items of `list`.
fn trees(kernel: &Kernel, list: GuestVirt, link: u64) {
    let items: Vec<GuestVirt> = list_for_each_entry(kernel, list, link)
        .map(Result::unwrap)
        .collect();
    let item = |index: u64| items[(index % ITEMS) as usize].0;
    let layout = MapleLayout::of(kernel).unwrap();
    let maple = planted(kernel, "maple");
    let found: Vec<(u64, u64, u64)> = mt_for_each(kernel, maple, layout)
        .map(Result::unwrap)
        .map(|entry| (entry.first, entry.last, entry.entry))
        .collect();
    let expected: Vec<(u64, u64, u64)> =
        (0..RANGES).map(|i| (i * 16, i * 16 + 7, item(i))).collect();
    assert_eq!(found, expected);
    assert_eq!(
        validate_maple(kernel, maple, layout, BOUND).unwrap() as u64,
        RANGES
    );
    for index in 0..RANGES * 16 {
        let loaded = mtree_load(kernel, maple, layout, index).unwrap();
        let expected = (index % 16 < 8).then(|| item(index / 16));
        assert_eq!(loaded.map(|entry| entry.entry), expected, "{index}");
    }
    let count = |name: &str| validate_maple(kernel, planted(kernel, name), layout, BOUND).unwrap();
    assert_eq!((count("maple_empty"), count("maple_single")), (0, 1));

    let layout = XarrayLayout::of(kernel).unwrap();
    let xarray = planted(kernel, "xarray");
    let found: Vec<(u64, u64)> = xa_for_each(kernel, xarray, layout)
        .map(Result::unwrap)
        .map(|entry| (entry.index, entry.entry))
        .collect();
    let expected: Vec<(u64, u64)> = (0..ENTRIES).map(|i| (i * i, item(i))).collect();
    assert_eq!(found, expected);
    assert_eq!(
        validate_xarray(kernel, xarray, layout, BOUND).unwrap() as u64,
        ENTRIES
    );
    for index in 0..3000 {
        let root = (index as f64).sqrt() as u64;
        let expected = (root * root == index).then(|| item(root));
        assert_eq!(
            xa_load(kernel, xarray, layout, index)
                .unwrap()
                .map(|entry| entry.entry),
            expected,
            "{index}"
        );
    }
    assert_eq!(
        validate_xarray(kernel, planted(kernel, "xarray_empty"), layout, BOUND).unwrap(),
        0
    );

    let layout = IdrLayout::of(kernel).unwrap();
    let idr = planted(kernel, "idr");
    let found: Vec<(u64, u64)> = idr_for_each(kernel, idr, layout)
        .unwrap()
        .map(Result::unwrap)
        .map(|(id, entry)| (id, entry.0))
        .collect();
    let expected: Vec<(u64, u64)> = (0..ENTRIES).map(|i| (i * 3, item(i))).collect();
    assert_eq!(found, expected);
    assert_eq!(
        validate_idr(kernel, idr, layout, BOUND).unwrap() as u64,
        ENTRIES
    );
    assert_eq!(
        idr_load(kernel, idr, layout, 6).unwrap(),
        Some(GuestVirt(item(2)))
    );
    assert_eq!(idr_load(kernel, idr, layout, 7).unwrap(), None);
}

/// Each has one thing wrong; the twin says what, and a walk ends.
fn wrong(kernel: &Kernel) {
    let at = |name: &str| planted(kernel, name);
    let broken = |checked: Result<usize>, why: &str| match checked {
        Err(error @ Error::Broken { .. }) => {
            let said = error.to_string();
            assert!(said.contains(why), "`{why}` is not in `{said}`");
        }
        other => panic!("{why}: {other:?}"),
    };
    broken(validate_list(kernel, at("list_prev"), BOUND), "prev");
    assert!(validate_list(kernel, at("list_loop"), BOUND).is_err());
    broken(validate_list(kernel, at("list_null"), BOUND), "NULL");
    broken(
        validate_list(kernel, at("list_poison"), BOUND),
        "LIST_POISON1",
    );
    broken(validate_list(kernel, at("list_odd"), BOUND), "not aligned");
    // A walk needs no `prev`; of the others it says that it cannot go on.
    assert!(list_for_each(kernel, at("list_prev")).all(|node| node.is_ok()));
    for name in ["list_loop", "list_null", "list_poison", "list_odd"] {
        let walked: Vec<_> = list_for_each(kernel, at(name)).collect();
        let (last, before) = walked.split_last().unwrap();
        assert!(
            last.is_err() && before.iter().all(Result::is_ok),
            "{name}: {walked:?}"
        );
    }
    broken(validate_hlist(kernel, at("hlist_pprev"), BOUND), "pprev");
    let layout = PlistLayout::of(kernel).unwrap();
    broken(
        validate_plist(kernel, at("plist_order"), layout, BOUND),
        "prio",
    );
    broken(validate_rbtree(kernel, at("rb_red"), BOUND), "red");
    broken(validate_rbtree(kernel, at("rb_parent"), BOUND), "parent");
    let layout = MapleLayout::of(kernel).unwrap();
    broken(
        validate_maple(kernel, at("maple_pivots"), layout, BOUND),
        "pivot",
    );
    assert!(mt_for_each(kernel, at("maple_pivots"), layout).any(|entry| entry.is_err()));
    let layout = XarrayLayout::of(kernel).unwrap();
    broken(
        validate_xarray(kernel, at("xarray_count"), layout, BOUND),
        "count",
    );
    // Damage that a walk does not look at does not stop it.
    let walked = xa_for_each(kernel, at("xarray_count"), layout).map(Result::unwrap);
    assert_eq!(walked.count() as u64, ENTRIES);
}

fn skb(guest: &probes::Guest, kernel: &Kernel) {
    let at = |name: &str| GuestVirt(kernel.read_u64(planted(kernel, name)).unwrap());
    let skb = guest.sk_buff(at("skb")).unwrap();
    let clone = guest.sk_buff(at("skb_clone")).unwrap();
    let text = b"planted by klab";
    assert_eq!((skb.data, skb.tail), (114, 114 + 20 + text.len() as u32));
    assert_eq!(
        (skb.mac_header, skb.network_header, skb.transport_header),
        (Some(100), 114, Some(134))
    );
    assert_eq!(
        (skb.len, skb.data_len, skb.protocol),
        (20 + text.len() as u32, 0, 0x88b5)
    );
    assert_eq!(skb.data(), [&[0; 20][..], text].concat());
    assert_eq!(
        (skb.users, skb.dataref, skb.cloned, skb.nr_frags),
        (1, 2, true, 0)
    );
    assert_eq!(
        (clone.head, clone.dataref, clone.data()),
        (skb.head, 2, skb.data())
    );
    assert_ne!(clone.at, skb.at);
    // An address that is no sk_buff is not shown as one.
    assert!(guest.sk_buff(planted(kernel, "list")).is_err());
}
