//! The files of a task of a fake kernel, sound ones and damaged ones.

use super::fdtable;
use crate::kernel::btf::TypeId;
use crate::kernel::btf::build::Builder;
use crate::kernel::{FakeKernel, Kernel};
use crate::memory::GuestVirt;

fn types() -> Vec<u8> {
    let mut b = Builder::new();
    let (short, int, long) = (
        b.int("unsigned short", 2, false),
        b.int("unsigned int", 4, false),
        b.int("unsigned long", 8, false),
    );
    let pointer = b.pointer(TypeId(0));
    let mut structure = |name: &str, size, members: &[(&str, TypeId, u32)]| {
        let bits: Vec<_> = members
            .iter()
            .map(|(m, ty, at)| (*m, *ty, at * 8))
            .collect();
        b.structure(name, size, &bits)
    };
    structure("files_struct", 8, &[("fdt", pointer, 0)]);
    structure(
        "fdtable",
        32,
        &[
            ("max_fds", int, 0),
            ("fd", pointer, 8),
            ("close_on_exec", pointer, 16),
            ("open_fds", pointer, 24),
        ],
    );
    let path = structure("path", 16, &[("mnt", pointer, 0), ("dentry", pointer, 8)]);
    structure(
        "file",
        48,
        &[
            ("f_inode", pointer, 0),
            ("private_data", pointer, 8),
            ("f_flags", int, 16),
            ("f_pos", long, 24),
            ("f_path", path, 32),
        ],
    );
    structure(
        "inode",
        32,
        &[
            ("i_mode", short, 0),
            ("i_rdev", int, 4),
            ("i_ino", long, 8),
            ("i_sb", pointer, 16),
        ],
    );
    structure(
        "super_block",
        16,
        &[("s_dev", int, 0), ("s_magic", long, 8)],
    );
    let qstr = structure("qstr", 16, &[("len", int, 4), ("name", pointer, 8)]);
    let node = structure(
        "hlist_bl_node",
        16,
        &[("next", pointer, 0), ("pprev", pointer, 8)],
    );
    structure(
        "dentry",
        56,
        &[
            ("d_parent", pointer, 0),
            ("d_name", qstr, 8),
            ("d_hash", node, 24),
            ("d_op", pointer, 40),
            ("d_inode", pointer, 48),
        ],
    );
    let vfsmount = structure("vfsmount", 8, &[("mnt_root", pointer, 0)]);
    structure(
        "mount",
        24,
        &[
            ("mnt_parent", pointer, 0),
            ("mnt_mountpoint", pointer, 8),
            ("mnt", vfsmount, 16),
        ],
    );
    b.bytes()
}

/// A table of three files `/a`, `/b`, `/c`, and where its `files_struct` and each file's dentry and `struct file` lie.
fn files(fake: &mut FakeKernel) -> (GuestVirt, Vec<(GuestVirt, GuestVirt)>) {
    fake.btf(&types()).unwrap();
    let mut make = |words: &[u64]| {
        let at = fake.alloc(words.len() as u64 * 8).unwrap();
        for (i, word) in words.iter().enumerate() {
            fake.write_u64(at.offset(i as u64 * 8), *word).unwrap();
        }
        at.0
    };
    let root = make(&[0; 7]);
    let mount = make(&[0, 0, root]);
    let sb = make(&[0, 0x0102_1994]);
    let mut all = Vec::new();
    for (ino, letter) in [(11, b'a'), (12, b'b'), (13, b'c')] {
        let inode = make(&[0x81a4, ino, sb, 0]);
        let name = make(&[u64::from(letter)]);
        let dentry = make(&[root, 1 << 32, name, 0, name, 0, inode]);
        let file = make(&[inode, 0, 0, 0, mount + 16, dentry]);
        all.push((GuestVirt(dentry), GuestVirt(file)));
    }
    let slots: Vec<u64> = all.iter().map(|(_, file)| file.0).chain([0; 61]).collect();
    let (slots, none, open) = (make(&slots), make(&[0]), make(&[7]));
    let table = make(&[64, slots, none, open]);
    let files = make(&[table]);
    fake.write_u64(GuestVirt(root), root).unwrap();
    fake.write_u64(GuestVirt(mount), mount).unwrap();
    (GuestVirt(files), all)
}

fn read(spoil: impl Fn(&mut FakeKernel, &[(GuestVirt, GuestVirt)])) -> (Vec<String>, Vec<String>) {
    let mut fake = FakeKernel::new();
    let (files, all) = files(&mut fake);
    spoil(&mut fake, &all);
    let kernel: Kernel = fake.finish().unwrap();
    let found = fdtable::read(&kernel, files).unwrap();
    (
        found.iter().map(|file| file.path.clone()).collect(),
        found.missing.iter().map(ToString::to_string).collect(),
    )
}

#[test]
fn a_bad_name_hides_no_other_file() {
    assert_eq!(read(|_, _| {}).0, ["/a", "/b", "/c"]);
    for (at, value, said) in [
        // d_name.name, d_name.len, d_parent
        (16, 0x41, "d_name.name 0x0000000000000041"),
        (8, 0xffff << 32, "a name has at most 255"),
        (0, 0x123c, "the dentry 0x000000000000123c"),
    ] {
        let (shown, missing) = read(|fake, all| {
            fake.write_u64(all[1].0.offset(at), value).unwrap();
        });
        assert_eq!(shown, ["/a", "/c"]);
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(
            missing[0].starts_with("not shown: fd 1, its file 0x"),
            "{missing:?}"
        );
        assert!(missing[0].contains("its f_path at 0x"), "{missing:?}");
        assert!(missing[0].contains(said), "{missing:?}");
    }
}

#[test]
fn a_bad_inode_is_named() {
    let (shown, missing) = read(|fake, all| fake.write_u64(all[0].1, 0x1230).unwrap());
    assert_eq!(shown, ["/b", "/c"]);
    assert!(missing[0].contains("fd 0, its file 0x"), "{missing:?}");
    assert!(
        missing[0].contains("its f_inode 0x0000000000001230"),
        "{missing:?}"
    );
}
