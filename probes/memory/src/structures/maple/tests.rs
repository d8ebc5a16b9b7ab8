//! Maple trees made by hand, good and broken.

use proptest::prelude::*;

use super::super::testing::Image;
use super::*;

const TREE: GuestVirt = GuestVirt(0x1000);
const LAYOUT: MapleLayout = MapleLayout {
    root: 8,
    parent: 0,
    dense: MapleNodeLayout {
        pivot: 0,
        pivots: 0,
        slot: 8,
        slots: 31,
        end: 0,
    },
    range: MapleNodeLayout {
        pivot: 8,
        pivots: 15,
        slot: 128,
        slots: 16,
        end: 248,
    },
    arange: MapleNodeLayout {
        pivot: 8,
        pivots: 9,
        slot: 80,
        slots: 10,
        end: 240,
    },
};

/// Content of a slot: the last index of its range, and an entry or a node.
type Slot = (u64, u64);

fn node(image: &mut Image, at: u64, parent: u64, kind: MapleNodeLayout, slots: &[Slot]) {
    image.fill(at, &[0; 256]);
    image.set(at, parent);
    for (i, (last, entry)) in slots.iter().enumerate() {
        if i < kind.pivots {
            image.set(at + kind.pivot + 8 * i as u64, *last);
        }
        image.set(at + kind.slot + 8 * i as u64, *entry);
    }
    // Only a maple_range_64 has its metadata in the last slot; a dense node has none.
    if kind == LAYOUT.arange || (kind == LAYOUT.range && slots.len() < kind.slots) {
        image.fill(at + kind.end, &[u8::try_from(slots.len() - 1).unwrap()]);
    }
}

fn encode(at: u64, kind: u64) -> u64 {
    at | kind << 3 | 4
}

/// A root of `inner` type with one leaf for each chunk of slots.
fn two_levels(leaves: &[Vec<Slot>], inner: u64, kind: MapleNodeLayout) -> Image {
    let mut image = Image::default();
    image.set(TREE.0 + 8, encode(0x10_0000, inner) | 2);
    let mut above = Vec::new();
    for (i, slots) in leaves.iter().enumerate() {
        let at = 0x20_0000 + 256 * i as u64;
        node(
            &mut image,
            at,
            0x10_0000 | (i as u64) << 3 | 6,
            LAYOUT.range,
            slots,
        );
        above.push((slots.last().unwrap().0, encode(at, LEAF_64)));
    }
    node(&mut image, 0x10_0000, TREE.0 | 1, kind, &above);
    image
}

fn walk(image: &Image) -> Result<Vec<(u64, u64, u64)>> {
    mt_for_each(&image.kernel(), TREE, LAYOUT)
        .map(|e| e.map(|e| (e.first, e.last, e.entry)))
        .collect()
}

fn good() -> Image {
    let leaves = [
        vec![(0xfff, 0), (0x1fff, 0xa000), (0x2fff, 0xb000)],
        vec![(0x5fff, 0xc000), (u64::MAX, 0)],
    ];
    two_levels(&leaves, ARANGE_64, LAYOUT.arange)
}

#[test]
fn empty_and_single() {
    let mut image = Image::default();
    image.set(TREE.0 + 8, 0);
    assert_eq!(walk(&image).unwrap(), []);
    assert_eq!(validate_maple(&image.kernel(), TREE, LAYOUT, 10), Ok(0));
    image.set(TREE.0 + 8, 0xffff_8880_0000_1000);
    assert_eq!(walk(&image).unwrap(), [(0, 0, 0xffff_8880_0000_1000)]);
    assert_eq!(validate_maple(&image.kernel(), TREE, LAYOUT, 10), Ok(1));
}

#[test]
fn ranges_come_in_order() {
    for (inner, kind) in [(ARANGE_64, LAYOUT.arange), (RANGE_64, LAYOUT.range)] {
        let leaves = [
            vec![(0xfff, 0), (0x1fff, 0xa000), (0x2fff, ZERO_ENTRY)],
            vec![(0x5fff, 0xc000), (u64::MAX, 0)],
        ];
        let image = two_levels(&leaves, inner, kind);
        assert_eq!(
            walk(&image).unwrap(),
            [(0x1000, 0x1fff, 0xa000), (0x3000, 0x5fff, 0xc000)]
        );
        assert_eq!(validate_maple(&image.kernel(), TREE, LAYOUT, 10), Ok(2));
        let load = |index| {
            mtree_load(&image.kernel(), TREE, LAYOUT, index)
                .unwrap()
                .map(|e| e.entry)
        };
        assert_eq!(
            [
                load(0),
                load(0x1000),
                load(0x1fff),
                load(0x2000),
                load(0x4000)
            ]
            .map(|e| e.unwrap_or(0)),
            [0, 0xa000, 0xa000, 0, 0xc000]
        );
        assert_eq!(load(u64::MAX), None);
    }
}

#[test]
fn a_full_leaf_has_no_metadata() {
    let mut slots: Vec<Slot> = (1..=16).map(|i| (i * 0x1000 - 1, i << 12)).collect();
    slots[15].0 = u64::MAX;
    let image = two_levels(&[slots], ARANGE_64, LAYOUT.arange);
    let entries = walk(&image).unwrap();
    assert_eq!(entries.len(), 16);
    assert_eq!(entries[15], (0xf000, u64::MAX, 16 << 12));
}

#[test]
fn a_dense_root_holds_one_index_a_slot() {
    let mut image = Image::default();
    image.set(TREE.0 + 8, encode(0x10_0000, DENSE) | 2);
    node(
        &mut image,
        0x10_0000,
        TREE.0 | 1,
        LAYOUT.dense,
        &[(0, 0x10), (0, 0), (0, 0x30)],
    );
    assert_eq!(walk(&image).unwrap(), [(0, 0, 0x10), (2, 2, 0x30)]);
}

#[test]
fn faults_name_their_node() {
    let at = |image: &Image| match validate_maple(&image.kernel(), TREE, LAYOUT, 10) {
        Err(Error::Broken { at, why, .. }) => (at.0, why),
        other => panic!("{other:?}"),
    };
    let mut image = good();
    image.set(0x20_0100, 0x10_0000 | 6);
    assert_eq!(at(&image).0, 0x20_0100);
    let mut image = good();
    image.set(0x20_0000, 0x20_0000);
    assert!(at(&image).1.contains("dead"));
    let mut image = good();
    image.set(0x20_0008 + 8, 0x10);
    assert_eq!(at(&image).0, 0x20_0000);
    let mut image = good();
    image.set(0x10_0000 + 80, encode(0x20_0000, 9));
    assert!(at(&image).1.contains("node type 9"));
    let mut image = good();
    image.set(0x10_0000 + 80, encode(0x10_0000, ARANGE_64));
    assert_eq!(at(&image).0, 0x10_0000);
    assert!(
        walk(&image).is_err(),
        "a tree that contains itself ends in an error"
    );
    let mut image = good();
    image.fill(0x10_0000 + 240, &[200]);
    assert!(at(&image).1.contains("slot 200"));
}

#[test]
fn the_bound_is_an_error() {
    let kernel = good().kernel();
    let last = mt_for_each(&kernel, TREE, LAYOUT).bound(2).last();
    assert_eq!(
        last,
        Some(Err(Error::TooLong {
            what: "maple tree",
            at: TREE,
            bound: 2
        }))
    );
}

proptest! {
    #[test]
    fn any_two_level_tree_reads_back(
        sizes in proptest::collection::vec(1usize..=15, 1..=10),
        steps in proptest::collection::vec(1u64..0x10_0000, 150),
        holes in proptest::collection::vec(any::<bool>(), 150),
    ) {
        let mut next = 0u64;
        let mut want = Vec::new();
        let mut leaves = Vec::new();
        let mut k = 0;
        for (i, size) in sizes.iter().enumerate() {
            let mut leaf = Vec::new();
            for j in 0..*size {
                let very_last = i + 1 == sizes.len() && j + 1 == *size;
                let last = if very_last { u64::MAX } else { next + steps[k] };
                let entry = if holes[k] { 0 } else { 0x1000 * (k as u64 + 1) };
                if entry != 0 {
                    want.push((next, last, entry));
                }
                leaf.push((last, entry));
                next = last.wrapping_add(1);
                k += 1;
            }
            leaves.push(leaf);
        }
        let image = two_levels(&leaves, ARANGE_64, LAYOUT.arange);
        prop_assert_eq!(walk(&image).unwrap(), want.clone());
        let kernel = image.kernel();
        prop_assert_eq!(validate_maple(&kernel, TREE, LAYOUT, 100), Ok(want.len()));
        for (first, last, entry) in want {
            for index in [first, last] {
                let found = mtree_load(&kernel, TREE, LAYOUT, index).unwrap();
                prop_assert_eq!(found, Some(MapleEntry { first, last, entry }));
            }
        }
    }

    #[test]
    fn arbitrary_nodes_end(
        root in 0u64..8,
        words in proptest::collection::vec((0u64..8 * 32, any::<u64>(), 0u64..8, 0u64..6), 0..300),
    ) {
        let mut image = Image::default();
        image.fill(0x10_0000, &[0; 8 * 256]);
        image.set(TREE.0 + 8, encode(0x10_0000 + 256 * root, ARANGE_64) | 2);
        for (at, value, to, kind) in words {
            image.set(0x10_0000 + 8 * at, if value & 1 == 0 { encode(0x10_0000 + 256 * to, kind) } else { value });
        }
        let kernel = image.kernel();
        prop_assert!(mt_for_each(&kernel, TREE, LAYOUT).bound(500).count() <= 500 * 31 + 1);
        let _ = validate_maple(&kernel, TREE, LAYOUT, 500);
        let _ = mtree_load(&kernel, TREE, LAYOUT, 5);
    }
}
