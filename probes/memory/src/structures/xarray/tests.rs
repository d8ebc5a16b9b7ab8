//! Arrays made as `xas_store()` makes them, and broken ones.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::testing::Image;
use super::*;

const ARRAY: GuestVirt = GuestVirt(0x1000);
const LAYOUT: XarrayLayout = XarrayLayout {
    head: 8,
    shift: 0,
    offset: 1,
    count: 2,
    parent: 8,
    slots: 40,
    chunk: 64,
};

/// Builds nodes of a radix tree for `entries`; returns the encoded node.
fn build(
    image: &mut Image,
    next: &mut u64,
    entries: &BTreeMap<u64, u64>,
    shift: u32,
    parent: u64,
    offset: u8,
) -> u64 {
    let node = *next;
    *next += 1024;
    image.fill(node, &[0; 576]);
    let mut slots: BTreeMap<u64, BTreeMap<u64, u64>> = BTreeMap::new();
    for (index, entry) in entries {
        let slot = index >> shift & 63;
        slots.entry(slot).or_default().insert(*index, *entry);
    }
    image.set(node + 8, parent);
    image.fill(
        node,
        &[
            u8::try_from(shift).unwrap(),
            offset,
            u8::try_from(slots.len()).unwrap(),
        ],
    );
    for (slot, below) in slots {
        let offset = u8::try_from(slot).unwrap();
        let entry = if shift == 0 {
            below.into_values().next().unwrap()
        } else {
            build(image, next, &below, shift - 6, node, offset)
        };
        image.set(node + 40 + 8 * slot, entry);
    }
    node | 2
}

fn array(entries: &BTreeMap<u64, u64>) -> Image {
    let mut image = Image::default();
    let head = match entries.last_key_value() {
        None => 0,
        Some((0, entry)) => *entry,
        Some((last, _)) => build(
            &mut image,
            &mut 0x10_0000,
            entries,
            last.ilog2() / 6 * 6,
            0,
            0,
        ),
    };
    image.set(ARRAY.0 + 8, head);
    image
}

fn walk(image: &Image) -> Result<Vec<(u64, u64)>> {
    xa_for_each(&image.kernel(), ARRAY, LAYOUT)
        .map(|e| e.map(|e| (e.index, e.entry)))
        .collect()
}

#[test]
fn empty_and_single() {
    assert_eq!(walk(&array(&BTreeMap::new())).unwrap(), []);
    let image = array(&BTreeMap::from([(0, 42 << 1 | 1)]));
    assert_eq!(walk(&image).unwrap(), [(0, 85)]);
    assert_eq!(
        xa_load(&image.kernel(), ARRAY, LAYOUT, 0)
            .unwrap()
            .unwrap()
            .value(),
        Some(42)
    );
    assert_eq!(xa_load(&image.kernel(), ARRAY, LAYOUT, 1).unwrap(), None);
}

#[test]
fn siblings_are_one_entry() {
    let mut image = array(&BTreeMap::from([(4, 0x5000), (9, 0x6000)]));
    for slot in 5..8u64 {
        image.set(0x10_0000 + 40 + 8 * slot, 4 << 2 | 2);
    }
    image.fill(0x10_0002, &[5]);
    let kernel = image.kernel();
    let entries: Vec<_> = xa_for_each(&kernel, ARRAY, LAYOUT)
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        entries[0],
        XarrayEntry {
            index: 4,
            last: 7,
            entry: 0x5000
        }
    );
    assert_eq!(entries.len(), 2);
    assert_eq!(
        xa_load(&kernel, ARRAY, LAYOUT, 6).unwrap(),
        Some(entries[0])
    );
    assert_eq!(validate_xarray(&kernel, ARRAY, LAYOUT, 10), Ok(2));
}

#[test]
fn retry_and_reserved_are_left_out() {
    let image = array(&BTreeMap::from([(1, RETRY), (2, ZERO), (3, 0x3000)]));
    assert_eq!(walk(&image).unwrap(), [(3, 0x3000)]);
}

#[test]
fn faults_name_their_node() {
    let good = array(&BTreeMap::from([(1, 0x3000), (100, 0x4000)]));
    let fault = |image: &Image| match validate_xarray(&image.kernel(), ARRAY, LAYOUT, 10) {
        Err(Error::Broken { at, why, .. }) => (at.0, why),
        other => panic!("{other:?}"),
    };
    let mut image = good.clone();
    image.set(0x10_0400 + 8, 0x10_0800);
    assert_eq!(fault(&image).0, 0x10_0400);
    let mut image = good.clone();
    image.fill(0x10_0802, &[7]);
    assert!(fault(&image).1.contains("count is 7"));
    let mut image = good.clone();
    image.set(0x10_0000 + 40, 0x10_0002);
    assert!(fault(&image).1.contains("a loop"));
    assert!(
        matches!(walk(&image), Err(Error::Broken { .. })),
        "a tree that contains itself ends in an error"
    );
    let mut image = good;
    image.set(0x10_0400 + 40 + 24, 5 << 2 | 2);
    assert!(fault(&image).1.contains("sibling"));
}

proptest! {
    #[test]
    fn any_array_reads_back(
        entries in proptest::collection::btree_map(prop_oneof![0u64..200, any::<u64>()], (1u64..1 << 40).prop_map(|p| p << 12), 0..40)
    ) {
        let image = array(&entries);
        let want: Vec<(u64, u64)> = entries.iter().map(|(i, e)| (*i, *e)).collect();
        prop_assert_eq!(walk(&image).unwrap(), want.clone());
        let kernel = image.kernel();
        prop_assert_eq!(validate_xarray(&kernel, ARRAY, LAYOUT, 1000), Ok(want.len()));
        for (index, entry) in want {
            prop_assert_eq!(xa_load(&kernel, ARRAY, LAYOUT, index).unwrap().unwrap().entry, entry);
        }
    }

    #[test]
    fn arbitrary_nodes_end(words in proptest::collection::vec((0u64..8 * 72, 0u64..8, any::<u64>()), 0..300), index: u64) {
        let mut image = Image::default();
        image.fill(0x10_0000, &[0; 8 * 576]);
        image.set(ARRAY.0 + 8, 0x10_0002);
        for (at, node, value) in words {
            image.set(0x10_0000 + 8 * at, if value & 1 == 0 { 0x10_0002 + 576 * node } else { value });
        }
        let kernel = image.kernel();
        prop_assert!(xa_for_each(&kernel, ARRAY, LAYOUT).bound(300).count() <= 300 * 64 + 1);
        let _ = validate_xarray(&kernel, ARRAY, LAYOUT, 300);
        let _ = xa_load(&kernel, ARRAY, LAYOUT, index);
    }
}
