use std::sync::Arc;

use proptest::prelude::*;

use super::build::Builder;
use super::*;

type Test = std::result::Result<(), Box<dyn std::error::Error>>;

fn sample() -> Builder {
    let mut b = Builder::new();
    let int = b.int("int", 4, true);
    let long = b.int("long unsigned int", 8, false);
    let char = b.int("char", 1, true);
    let comm = b.array(char, 16);
    let anon = b.composite(
        Kind::Union,
        "",
        8,
        &[("state", int, 0), ("__state", long, 0)],
    );
    let task = b.next_id();
    let pointer = TypeId(task.0 + 1);
    let constant = TypeId(task.0 + 2);
    b.structure(
        "task_struct",
        64,
        &[
            ("", anon, 0),
            ("comm", comm, 64),
            ("parent", constant, 192),
            ("a", int, 256 | 3 << 24),
            ("b", int, 259 | 5 << 24),
        ],
    );
    b.pointer(task);
    b.alias(Kind::Const, "", pointer);
    b.alias(Kind::Typedef, "task_t", task);
    b.enumeration("pid_type", &[("PIDTYPE_PID", 0), ("PIDTYPE_TGID", 1)]);
    b.var("runqueues", task);
    let proto = b.record(Kind::FuncProto, false, 2, "", int.0, &[0, constant.0, 0, 0]);
    b.pointer(proto);
    b
}

fn find(btf: &Btf, kind: Kind, name: &str) -> Result<TypeId> {
    btf.find(kind, name)
        .ok_or_else(|| malformed(format!("no {name}")))
}

#[test]
fn finds_members_through_anonymous_unions_and_arrays() -> Test {
    let btf = sample().finish()?;
    let task = find(&btf, Kind::Struct, "task_struct")?;
    assert_eq!(btf.member(task, "__state")?.map(|f| f.offset()), Some(0));
    let b = btf.member(task, "b")?.map(|f| (f.bit_offset, f.bits));
    assert_eq!(b, Some((259, 5)));
    assert_eq!(btf.path(task, "comm[3]")?.map(|f| f.offset()), Ok(11));
    assert_eq!(btf.path(task, "comm[16]")?, Err("comm[16]".into()));
    assert_eq!(
        btf.path(task, "parent.comm")?,
        Err("comm".into()),
        "a pointer is not followed"
    );
    assert_eq!(btf.member(task, "mm")?, None);
    assert_eq!(btf.nearest_member(task, "com"), Some("comm"));
    assert_eq!(
        btf.nearest(&[Kind::Struct], "tsak_struct"),
        Some("task_struct")
    );
    assert_eq!(btf.size_of(find(&btf, Kind::Typedef, "task_t")?)?, Some(64));
    assert_eq!(btf.find_enumerator("PIDTYPE_TGID").map(|(_, v)| v), Some(1));
    assert_eq!(btf.find_var("runqueues"), Some(task));
    Ok(())
}

#[test]
fn writes_c() -> Test {
    let btf = sample().finish()?;
    let task = find(&btf, Kind::Struct, "task_struct")?;
    let text = btf.declaration(task)?.to_string();
    assert_eq!(
        text,
        "struct task_struct {
    union {
        int state;                    /*     0        4 */
        long unsigned int __state;    /*     0        8 */
    };                                /*     0        8 */
    char comm[16];                    /*     8       16 */
    struct task_struct *const parent; /*    24        8 */
    int a:3;                          /*    32:0     3 bits */
    int b:5;                          /*    32:3     5 bits */
    /* 31 bytes unused */
};
/* size: 64 */
"
    );
    let pointer = btf
        .types()
        .filter(|t| t.kind == Kind::Ptr)
        .last()
        .ok_or("no pointer")?;
    assert_eq!(
        btf.type_name(pointer.id)?,
        "int (*)(struct task_struct *const, ...)"
    );
    Ok(())
}

#[test]
fn a_module_continues_its_kernel() -> Test {
    let base = Arc::new(sample().finish()?);
    let task = find(&base, Kind::Struct, "task_struct")?;
    let mut b = Builder::on(&base);
    b.structure("private", 64, &[("task", task, 0)]);
    let module = Btf::parse_split(b.bytes(), base)?;
    let private = find(&module, Kind::Struct, "private")?;
    assert_eq!(
        module.path(private, "task.comm")?.map(|f| f.offset()),
        Ok(8)
    );
    assert_eq!(module.find(Kind::Struct, "task_struct"), Some(task));
    Ok(())
}

#[test]
fn what_contains_itself_is_an_error() -> Test {
    let mut b = Builder::new();
    // A typedef of itself, a structure of two anonymous selves, an array of itself, a pointer to itself.
    b.alias(Kind::Typedef, "t", TypeId(1));
    b.structure("", 8, &[("", TypeId(2), 0), ("", TypeId(2), 0)]);
    b.array(TypeId(3), 2);
    b.pointer(TypeId(4));
    b.record(Kind::FuncProto, false, 2, "", 5, &[0, 5, 0, 5]);
    let btf = b.finish()?;
    assert!(btf.resolve(TypeId(1)).is_err());
    assert!(btf.member(TypeId(2), "x").is_err());
    assert!(btf.declaration(TypeId(2)).is_err());
    assert!(btf.size_of(TypeId(3)).is_err());
    assert!(btf.type_name(TypeId(4)).is_err());
    assert!(btf.type_name(TypeId(5)).is_err());
    Ok(())
}

/// Calls everything there is; what it answers is of no interest.
fn exercise(btf: &Btf) {
    for ty in btf.types().take(64) {
        let (id, name) = (ty.id, ty.name());
        let _ = (
            btf.find(ty.kind, name),
            btf.resolve(id),
            btf.shape(id),
            btf.size_of(id),
        );
        let _ = (
            btf.type_name(id),
            btf.declaration(id).map(|d| d.to_string()),
        );
        let _ = (
            btf.member(id, "a"),
            btf.path(id, "a.b[1].c"),
            btf.nearest_member(id, "comm"),
        );
        let _ = (
            ty.vars().count(),
            ty.params().count(),
            ty.enumerators().count(),
            ty.int(),
            ty.array(),
        );
    }
    let _ = (
        btf.find_enumerator("PIDTYPE_TGID"),
        btf.find_var("runqueues"),
        btf.nearest(&[Kind::Struct], "tsk"),
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>) {
        let _ = Btf::promised_len(&bytes);
        if let Ok(btf) = Btf::parse(bytes) {
            exercise(&btf);
        }
    }

    #[test]
    fn a_damaged_btf_does_no_harm(damage in proptest::collection::vec((0_usize..2048, any::<u8>()), 1..12), cut in 0_usize..2048) {
        let mut bytes = sample().bytes();
        let len = bytes.len();
        for (at, byte) in damage {
            bytes[at % len] = byte;
        }
        bytes.truncate(cut.max(len / 2));
        if let Ok(btf) = Btf::parse(bytes.clone()) {
            exercise(&btf);
        }
        if let Ok(base) = sample().finish()
            && let Ok(btf) = Btf::parse_split(bytes, Arc::new(base))
        {
            exercise(&btf);
        }
    }

    #[test]
    fn arbitrary_records_do_no_harm(words in proptest::collection::vec(0_u32..24, 0..96), kinds in proptest::collection::vec((1_u32..20, 0_u32..4, any::<bool>()), 1..12)) {
        let mut words = words.into_iter().cycle();
        let mut b = Builder::new();
        for (kind, count, flag) in kinds {
            let info = kind << 24 | count;
            let len = types::record_len(info).unwrap_or(12) / 4 - 3;
            let tail: Vec<u32> = words.by_ref().take(len).collect();
            if let Some(kind) = Type::read(&Btf::parse(Builder::new().bytes()).map_err(|e| TestCaseError::fail(e.to_string()))?, TypeId(1), &[[0; 4], info.to_le_bytes(), [0; 4]].concat().into_iter().chain([0; 64]).collect::<Vec<u8>>()).map(|t| t.kind) {
                b.record(kind, flag, count, if count % 2 == 0 { "" } else { "a" }, words.next().unwrap_or(1), &tail);
            }
        }
        if let Ok(btf) = b.finish() {
            exercise(&btf);
        }
    }
}
