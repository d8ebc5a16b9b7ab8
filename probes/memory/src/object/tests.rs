use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::kernel::Kernel;
use crate::kernel::btf::build::Builder;
use crate::kernel::btf::{Btf, Kind};
use crate::memory::{AddressSpace, FakeMemory, GuestPhys, GuestVirt};

type Test = std::result::Result<(), Box<dyn std::error::Error>>;

pub(crate) const TASK: u64 = 0x2000;

/// A `task_struct` of 1024 bytes at [`TASK`].
pub(crate) fn kernel() -> crate::Result<Kernel> {
    let (btf, memory) = image();
    kernel_of(Btf::parse(btf)?, memory)
}

fn kernel_of(btf: Btf, memory: Vec<u8>) -> crate::Result<Kernel> {
    let memory = FakeMemory::new([(GuestPhys(TASK), memory)]);
    let space = AddressSpace::identity(Arc::new(memory));
    Ok(Kernel::with_btf("7.3.4-test", space, btf))
}

/// The kernel's BTF, and the bytes at [`TASK`].
fn image() -> (Vec<u8>, Vec<u8>) {
    let mut b = Builder::new();
    let int = b.int("int", 4, true);
    let short = b.int("short int", 2, true);
    let long = b.int("long unsigned int", 8, false);
    let char = b.int("char", 1, true);
    let bool = b.int("_Bool", 1, false);
    let comm = b.array(char, 16);
    let ints = b.array(int, 3);
    let se = b.structure(
        "sched_entity",
        16,
        &[("vruntime", long, 0), ("on_rq", bool, 64)],
    );
    let task = b.next_id();
    let pointer = b.alias(Kind::Ptr, "", crate::kernel::btf::TypeId(task.0 + 1));
    let members = [
        ("pid", int, 0),
        ("prio", short, 32),
        ("flag", int, 48 | 1 << 24),
        ("level", int, 49 | 3 << 24),
        ("parent", pointer, 64),
        ("comm", comm, 128),
        ("se", se, 256),
        ("times", ints, 384),
        ("mm", pointer, 8 * 900),
    ];
    b.composite(Kind::Struct, "task_struct", 1024, &members);
    let function = b.record(Kind::FuncProto, false, 0, "", 0, &[]);
    b.alias(Kind::Func, "schedule", function);
    b.alias(Kind::Typedef, "pid_t", int);
    b.alias(Kind::Typedef, "u64", long);
    b.structure("liar", 8, &[("far", long, 64)]);
    b.enumeration("pid_type", &[("PIDTYPE_PID", 0), ("PIDTYPE_TGID", 1)]);
    let mut bytes = vec![0; 1024];
    bytes[0..4].copy_from_slice(&(-7_i32).to_le_bytes());
    bytes[4..6].copy_from_slice(&(-120_i16).to_le_bytes());
    bytes[6] = 0b0000_1101;
    bytes[8..16].copy_from_slice(&TASK.to_le_bytes());
    bytes[16..23].copy_from_slice(b"kthread");
    bytes[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
    bytes[40] = 1;
    for (i, at) in [48, 52, 56].into_iter().enumerate() {
        bytes[at] = i as u8 + 1;
    }
    bytes[900..908].copy_from_slice(&0x1234_u64.to_le_bytes());
    (b.bytes(), bytes)
}

#[derive(Mirror, Debug)]
#[mirror(c = "struct sched_entity")]
struct Entity {
    vruntime: u64,
    on_rq: bool,
}

#[derive(Mirror, Debug)]
#[mirror(c = "struct task_struct")]
struct Task {
    mm: GuestVirt,
    pid: i64,
    prio: i16,
    flag: bool,
    #[mirror(member = "level")]
    grade: i32,
    parent: Ptr<Self>,
    comm: FixedStr<16>,
    se: Entity,
    #[mirror(member = "se.vruntime")]
    vruntime: i64,
    times: [u32; 3],
    #[mirror(member = "times[1]")]
    second: u32,
    #[mirror(member = "renamed", or = "pid")]
    named: i32,
    absent: Option<[Entity; 4]>,
    #[mirror(member = "se")]
    there: Option<Entity>,
}

#[test]
fn a_mirror_loads_what_it_names() -> Test {
    let task: Task = kernel()?.load(GuestVirt(TASK))?;
    assert_eq!(
        (task.pid, task.prio, task.named),
        (-7, -120, -7),
        "C's sign is kept when a member is widened"
    );
    assert_eq!(
        (task.flag, task.grade),
        (true, -2),
        "0b110 in three signed bits"
    );
    assert_eq!(
        (task.parent.at, task.mm),
        (GuestVirt(TASK), GuestVirt(0x1234))
    );
    assert_eq!(task.comm, "kthread");
    assert_eq!(
        (task.se.vruntime, task.se.on_rq, task.vruntime),
        (u64::MAX, true, -1)
    );
    assert_eq!((task.times, task.second), ([1, 2, 3], 2));
    assert!(task.absent.is_none());
    assert!(task.there.is_some_and(|se| se.on_rq));
    Ok(())
}

macro_rules! refused {
    ($c:literal, $member:ident: $ty:ty, $says:literal) => {{
        #[derive(Mirror)]
        #[mirror(c = $c)]
        struct Wrong {
            #[allow(dead_code)]
            $member: $ty,
        }
        let said = Plan::<Wrong>::new(&kernel()?)
            .map(|_| ())
            .map_err(|e| e.to_string());
        assert_eq!(said, Err($says.to_owned()));
    }};
}

#[test]
fn a_mirror_that_does_not_fit_is_refused() -> Test {
    refused!("struct task_struct", com: u64, "struct task_struct has no member `com` in 7.3.4-test; did you mean `comm`?");
    refused!("struct tsak_struct", pid: i32, "7.3.4-test has no type `struct tsak_struct`; did you mean `task_struct`?");
    refused!(
        "struct task_struct",
        parent: u32,
        "`parent` of struct task_struct is `struct task_struct *` in 7.3.4-test, which u32 cannot hold: \
         change the type of the mirror's field"
    );
    refused!(
        "struct task_struct",
        parent: Ptr<Entity>,
        "`parent` of struct task_struct is `struct task_struct *` in 7.3.4-test, which a pointer to struct sched_entity \
         cannot hold: change the type of the mirror's field"
    );
    refused!(
        "struct task_struct",
        times: [u32; 2],
        "`times` of struct task_struct is `int [3]` in 7.3.4-test, which an array of 2 cannot hold: \
         change the type of the mirror's field"
    );
    refused!("struct liar", far: u64, "BTF is malformed: `far` of struct liar ends past the structure's 8 bytes");
    Ok(())
}

#[test]
fn a_fault_names_the_address() -> Test {
    let fault = kernel()?.load::<Task>(GuestVirt(0x9000)).map(|_| ());
    assert!(
        matches!(fault, Err(crate::Error::NotRam { .. })),
        "{fault:?}"
    );
    Ok(())
}

#[test]
fn a_cursor_moves_through_objects() -> Test {
    let kernel = kernel()?;
    let task = Object::at(&kernel, "struct task_struct", GuestVirt(TASK))?;
    assert_eq!(task.member("pid")?.i64()?, -7);
    assert_eq!(
        task.member("parent")?
            .member("parent")?
            .member("comm")?
            .string()?,
        "kthread"
    );
    assert_eq!(task.member("times")?.index(2)?.u64()?, 3);
    assert_eq!(
        (task.member("flag")?.u64()?, task.member("level")?.i64()?),
        (u64::MAX, -2)
    );
    assert!(task.member("se.on_rq")?.bool()?);
    let se = task.member("se")?;
    assert_eq!(
        se.container_of("struct task_struct", "se")?.pointer()?,
        GuestVirt(TASK)
    );
    assert_eq!(
        se.address_of()?
            .container_of("struct task_struct", "se")?
            .member("pid")?
            .i64()?,
        -7
    );
    assert!(
        task.member("flag")?.address_of().is_err(),
        "a bit field has no address"
    );
    assert_eq!(task.member("parent")?.load::<Task>()?.pid, -7);
    assert!(se.load::<Task>().is_err());
    let kind = Object::at(&kernel, "enum pid_type", GuestVirt(TASK + 48))?;
    assert_eq!(kind.enumerator()?.as_deref(), Some("PIDTYPE_TGID"));
    Ok(())
}

#[test]
fn an_object_prints_as_c_and_json() -> Test {
    let kernel = kernel()?;
    let task = Object::at(&kernel, "struct task_struct", GuestVirt(TASK))?;
    assert_eq!(task.member("pid")?.to_string(), "(int)-7");
    assert_eq!(
        task.member("parent")?.to_string(),
        "(struct task_struct *)0x2000"
    );
    assert_eq!(
        task.member("se")?.to_string(),
        "*(struct sched_entity *)0x2020 = {\n    .vruntime = 18446744073709551615,\n    .on_rq = true,\n}"
    );
    assert_eq!(
        serde_json::to_string(&task.to_value()?)?,
        r#"{"pid":-7,"prio":-120,"flag":-1,"level":-2,"parent":"0x2000","comm":"kthread","se":{"vruntime":18446744073709551615,"on_rq":true},"times":[1,2,3],"mm":"0x1234"}"#
    );
    let shallow = task.to_value_within(Limits {
        depth: 1,
        elements: 1,
        ..Limits::default()
    })?;
    assert!(shallow.to_string().contains(".se = ..,"), "{shallow}");
    let gone = Object::at(&kernel, "struct sched_entity", GuestVirt(0x9000))?.to_value()?;
    assert!(
        gone.to_string()
            .contains(".vruntime = <8 bytes at physical"),
        "{gone}"
    );
    Ok(())
}

proptest! {
    /// Types and memory that lie: whatever comes out, nothing panics, hangs or grows.
    #[test]
    fn a_guest_that_lies_does_no_harm(
        types in proptest::collection::vec((0_usize..2048, any::<u8>()), 0..8),
        values in proptest::collection::vec((0_usize..1024, any::<u8>()), 0..64),
    ) {
        let (mut btf, mut memory) = image();
        let len = btf.len();
        for (at, byte) in types {
            btf[at % len] = byte;
        }
        for (at, byte) in values {
            memory[at] = byte;
        }
        let Ok(btf) = Btf::parse(btf) else { return Ok(()) };
        let kernel = kernel_of(btf, memory).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let _ = kernel.load::<Task>(GuestVirt(TASK));
        for expression in ["*(struct task_struct *)0x2000", "((struct task_struct *)0x2000)->parent->se", "sizeof(struct task_struct)"] {
            if let Ok(object) = kernel.eval(expression) {
                let _ = (object.to_string(), object.member_names(), object.string(), object.c_type().size());
            }
        }
    }
}

#[test]
fn values_are_the_bytes_of_their_type() -> Test {
    let kernel = kernel()?;
    let task = Object::at(&kernel, "struct task_struct", GuestVirt(TASK))?;
    let bytes =
        |member: &str, value: NewValue| task.member(member)?.encode(&value).map(|(_, bytes)| bytes);
    assert_eq!(bytes("pid", (-2).into())?, [0xfe, 0xff, 0xff, 0xff]);
    assert_eq!(bytes("prio", 258.into())?, [2, 1]);
    assert_eq!(bytes("se.on_rq", true.into())?, [1]);
    assert_eq!(
        bytes("parent", GuestVirt(0x1234).into())?,
        0x1234_u64.to_le_bytes()
    );
    let mut comm = *b"hello\0\0\0\0\0\0\0\0\0\0\0";
    assert_eq!(bytes("comm", "hello".into())?, comm);
    comm[..15].copy_from_slice(b"fifteen letters");
    assert_eq!(bytes("comm", "fifteen letters".into())?, comm);
    // Bit fields: the bits around them stay what they are.
    let mut now = [0];
    kernel.read(GuestVirt(TASK + 6), &mut now)?;
    for value in -4..4_i32 {
        let (at, new) = task.member("level")?.encode(&value.into())?;
        assert_eq!((at, new.len()), (GuestVirt(TASK + 6), 1));
        assert_eq!(new[0] & !0b1110, now[0] & !0b1110);
        assert_eq!(new[0] >> 1 & 7, (value & 7) as u8);
    }
    for (member, value) in [
        ("pid", NewValue::Number(1 << 31)),
        ("prio", (-40_000).into()),
        ("flag", 2.into()),
        ("level", 4.into()),
        ("se.on_rq", 2.into()),
        ("parent", (-1).into()),
        ("comm", "sixteen letters!".into()),
        ("comm", "a\0b".into()),
        ("comm", 1.into()),
        ("pid", "one".into()),
        ("se", 1.into()),
    ] {
        assert!(bytes(member, value).is_err(), "{member}");
    }
    assert!(kernel.eval("1 + 1")?.encode(&1.into()).is_err());
    Ok(())
}
