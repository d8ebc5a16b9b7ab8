use proptest::prelude::*;

use crate::object::tests::kernel;

type Test = std::result::Result<(), Box<dyn std::error::Error>>;

/// Each expression and what C makes of it, as the kernel of the object tests has a task at 0x2000.
const VALUES: &[(&str, &str)] = &[
    ("1 + 2 * 3 - 4", "(int)3"),
    ("(1 + 2) * 3 % 5 << 2", "(int)16"),
    ("-1 < 0u", "(int)0"),
    ("-1 < 0", "(int)1"),
    ("-7 / 2", "(int)-3"),
    ("0xffffffff + 1", "(unsigned int)0"),
    ("2147483647 + 1", "(int)-2147483648"),
    ("1ul << 63 >> 63", "(unsigned long)1"),
    ("~0u", "(unsigned int)4294967295"),
    ("!5 || 0 && 1 / 0", "(int)0"),
    ("1 ? 2 : 1 / 0", "(int)2"),
    ("0 ? 1 : 0 ? 2 : 3", "(int)3"),
    ("010 + 0b11 + 'a'", "(int)108"),
    ("(unsigned char)511", "(unsigned char)255"),
    ("(short)0x18000", "(short)-32768"),
    ("(_Bool)4", "(_Bool)true"),
    ("sizeof(struct task_struct)", "(unsigned long)1024"),
    ("sizeof(struct task_struct *[4])", "(unsigned long)32"),
    (
        "sizeof ((struct task_struct *)0)->comm",
        "(unsigned long)16",
    ),
    (
        "offsetof(struct task_struct, se.on_rq)",
        "(unsigned long)40",
    ),
    (
        "offsetof(struct task_struct, times[2])",
        "(unsigned long)56",
    ),
    ("PIDTYPE_TGID", "(enum pid_type)PIDTYPE_TGID"),
    ("(pid_t)PIDTYPE_TGID + 1", "(int)2"),
    ("((struct task_struct *)0x2000)->pid", "(int)-7"),
    (
        "(*(struct task_struct *)0x2000).parent->parent->se.vruntime + 2",
        "(unsigned long)1",
    ),
    ("((struct task_struct *)0x2000)->times[1]", "(int)2"),
    ("*(((struct task_struct *)0x2000)->times + 2)", "(int)3"),
    ("&((struct task_struct *)0x2000)->times[2]", "(int *)0x2038"),
    (
        "(struct task_struct *)0x2000 + 1",
        "(struct task_struct *)0x2400",
    ),
    ("(void *)0x2000 + 1", "(void *)0x2001"),
    (
        "&((struct task_struct *)0x2000)[2] - (struct task_struct *)0x2000",
        "(long)2",
    ),
    (
        "container_of(&((struct task_struct *)0x2000)->se, struct task_struct, se)->comm",
        "*(char (*)[16])0x2010 = \"kthread\"",
    ),
    (
        "((struct task_struct *)0x2000)->comm == \"kthread\"",
        "(int)1",
    ),
    ("\"x\" != ((struct task_struct *)0x2000)->comm", "(int)1"),
    (
        "((struct task_struct *)0x2000)->parent == (void *)0x2000",
        "(int)1",
    ),
    ("NULL && ((struct task_struct *)0)->pid", "(int)0"),
    (
        "&((struct task_struct *)0x2000)->times",
        "(int (*)[3])0x2030",
    ),
    ("(*(int (*)[3])0x2030)[2]", "(int)3"),
    (
        "(int (*)(struct task_struct *, int (*)[3]))0x10 == (void *)0x10",
        "(int)1",
    ),
    (
        "sizeof(int (*)[3]) + sizeof(int (*[2])(void))",
        "(unsigned long)24",
    ),
    ("(_Bool)true", "(_Bool)true"),
    ("(enum pid_type)PIDTYPE_TGID", "(enum pid_type)PIDTYPE_TGID"),
    (
        "(struct task_struct __rcu * const)0x10",
        "(struct task_struct *)0x10",
    ),
];

/// The text before a printed value is the expression of it.
#[test]
fn what_is_printed_is_read_again() -> Test {
    let kernel = kernel()?;
    for (expression, ..) in VALUES {
        let object = kernel.eval(expression)?;
        let printed = object.to_string();
        let written = printed.split(" = ").next().unwrap_or_default();
        let again = kernel
            .eval(written)
            .map_err(|error| format!("{written}: {error}"))?;
        assert_eq!(again.to_string(), printed, "{expression}");
    }
    for written in [
        "*(char (*)[16])0x2010",
        "*(unsigned long (*)[2][3])0x2000",
        "(int (*(*)(char *))(void))0x2010",
        "(struct task_struct *(*)[4])0x2000",
        "(unsigned __int128 *)0x2000",
    ] {
        let printed = kernel.eval(written)?.to_string();
        assert_eq!(printed.split(" = ").next(), Some(written), "{printed}");
    }
    Ok(())
}

#[test]
fn expressions_are_those_of_c() -> Test {
    let kernel = kernel()?;
    let mut wrong = Vec::new();
    for (expression, wanted) in VALUES {
        let got = kernel
            .eval(expression)
            .map_or_else(|e| e.to_string(), |object| object.to_string());
        if got != *wanted {
            wrong.push(format!("{expression}: {got}, not {wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Each bad expression, the column of its fault and a part of what is said.
const FAULTS: &[(&str, usize, &str)] = &[
    ("", 0, "a value is wanted here, not the end"),
    ("1 +", 3, "a value is wanted here"),
    ("(1", 2, "`)` is wanted here"),
    ("1 2", 2, "`2` is not wanted here"),
    ("1 = 2", 2, "for a comparison write =="),
    ("1 / 0", 2, "`/` by 0"),
    ("1 << 32", 2, "`<<` by 32"),
    ("5 @ 3", 2, "`@` means nothing in C"),
    ("0x", 0, "no integer"),
    ("99999999999999999999", 0, "no integer of 64 bits"),
    ("\"abc", 0, "the closing \" is missing"),
    (
        "sizeof(struct tsak_struct)",
        14,
        "did you mean `task_struct`?",
    ),
    (
        "((struct task_struct *)0x2000)->com",
        32,
        "did you mean `comm`?",
    ),
    (
        "((struct task_struct *)0x2000).comm",
        30,
        "is a pointer: write -> here",
    ),
    (
        "(*(struct task_struct *)0x2000)->comm",
        31,
        "is no pointer: write . here",
    ),
    (
        "((struct task_struct *)0x9000)->pid + 1",
        0,
        "not in the guest's RAM",
    ),
    ("*5", 0, "`int` is no pointer"),
    ("&5", 0, "has no address"),
    (
        "((struct task_struct *)0x2000)->se + 1",
        0,
        "is no integer or pointer",
    ),
    ("(unsigned struct)1", 1, "is no type of C"),
    ("(short char)1", 1, "is no type of C"),
    ("offsetof(struct task_struct, flag)", 29, "is a bit field"),
    (
        "container_of((void *)0, struct task_struct, sx)",
        44,
        "did you mean",
    ),
];

#[test]
fn a_caret_stands_under_the_fault() -> Test {
    let kernel = kernel()?;
    for (expression, at, says) in FAULTS {
        match kernel.eval(expression).and_then(|object| object.u64()) {
            Err(crate::Error::Expression {
                message, column, ..
            }) => {
                assert!(message.contains(says), "{expression}: {message}");
                assert_eq!(column, *at, "{expression}: {message}");
            }
            other => return Err(format!("{expression}: {other:?}").into()),
        }
    }
    let deep = format!("{}1{}", "(".repeat(500), ")".repeat(500));
    assert!(
        kernel
            .eval(&deep)
            .is_err_and(|e| e.to_string().contains("levels"))
    );
    assert!(kernel.eval(&"-".repeat(4000)).is_err());
    assert!(
        kernel
            .eval(&"1+".repeat(4000))
            .is_err_and(|e| e.to_string().contains("at most"))
    );
    Ok(())
}

#[test]
fn type_names_are_those_of_c() -> Test {
    let kernel = kernel()?;
    for (written, name, size) in [
        ("struct task_struct *", "struct task_struct *", 8),
        (
            "const struct task_struct * const *",
            "struct task_struct **",
            8,
        ),
        ("long unsigned", "unsigned long", 8),
        ("unsigned long long int", "unsigned long", 8),
        ("u64", "u64", 8),
        ("char [16]", "char [16]", 16),
        ("int[2][3]", "int [2][3]", 24),
        ("void *", "void *", 8),
        ("enum pid_type", "enum pid_type", 4),
        ("int (*)[3]", "int (*)[3]", 8),
        (
            "int (*[2])(struct task_struct *)",
            "int (*[2])(struct task_struct *)",
            16,
        ),
        ("__int128 unsigned", "unsigned __int128", 16),
    ] {
        let ty = kernel.c_type(written)?;
        assert_eq!((ty.name().as_str(), ty.size()?), (name, size));
    }
    assert!(kernel.c_type("void")?.size().is_err());
    assert!(kernel.c_type("char [99999999999]").is_err());
    assert!(
        kernel
            .c_type("int [4294967295][4294967295][4294967295]")?
            .size()
            .is_err()
    );
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_text_does_no_harm(text: String) {
        let kernel = kernel().map_err(|e| TestCaseError::fail(e.to_string()))?;
        if let Ok(object) = kernel.eval(&text) {
            let _ = object.to_string();
        }
    }

    #[test]
    fn arbitrary_words_do_no_harm(words in proptest::collection::vec(proptest::sample::select(vec![
        "1", "0x2000", "'a'", "\"kthread\"", "(", ")", "[", "]", "*", "&", "->", ".", "+", "-", "/", "%", "<<", "==", "&&", "||", "?", ":", ",",
        "(struct task_struct *)0x2000", "comm", "pid", "parent", "se", "level", "times", "sizeof", "offsetof(struct task_struct,", "(u64)",
        "container_of(", "struct", "task_struct", "unsigned", "char", "per_cpu(", "PIDTYPE_PID", "~", "!", "NULL", "const",
    ]), 0..24)) {
        let kernel = kernel().map_err(|e| TestCaseError::fail(e.to_string()))?;
        if let Ok(object) = kernel.eval(&words.join(" ")) {
            let _ = object.to_string();
        }
    }
}
