//! The text of a cell's crate as it is compiled.
//!
//! evcxr writes its store of variables and its type of errors into each cell's crate; compiled anew each time, they take
//! as long as the cell. The library of the cells has both (`probes::cell::store`). Their replacements here have as many
//! bytes and lines, so that each place in the text stays where evcxr looks for it.
//!
//! It also has each cell check, take and keep all variables there are, some 5 ms of rustc's time each. Those that a cell does not name stay in the
//! store.

use std::borrow::Cow;
use std::collections::HashSet;

/// The store: the beginning and the end of its text, and the replacement.
const STORE: [&str; 3] = [
    "mod evcxr_internal_runtime {\n",
    "\npub fn create_variable_store() -> *mut VariableStore {\n    Box::into_raw(Box::new(VariableStore::new()))\n}\n}\n",
    "mod evcxr_internal_runtime { pub use probes::cell::store::*; }",
];
/// The type of errors, as long as it shows them by `Display`.
const ERROR: [&str; 3] = [
    "            struct EvcxrUserCodeError {}\n            impl<T: std::fmt::Display> From<T> for EvcxrUserCodeError {\n",
    "                    EvcxrUserCodeError {}\n                }\n            }\n",
    "use probes::cell::store::EvcxrUserCodeError;",
];

/// Text to compile for the one that evcxr wrote.
pub(super) fn of_cell(evcxr: &str) -> String {
    let text = [ERROR, STORE]
        .into_iter()
        .fold(Cow::Borrowed(evcxr), |text, [begin, end, own]| {
            match put(&text, begin, end, own) {
                Some(put) => Cow::Owned(put),
                None => text,
            }
        });
    of_named(&text)
}

/// What evcxr writes around a cell, of what looks as if something in it were done again and again.
const AROUND: [&str; 4] = [
    "pub extern \"C\" fn run_user_code_",
    "std::panic::AssertUnwindSafe(||{",
    "let _ = (|| -> std::result::Result<(), EvcxrUserCodeError> {",
    "use probes::prelude::*;",
];
/// Words of code that is done again and again, or may be.
const AGAIN: [&str; 5] = ["for", "while", "loop", "fn", "async"];

/// Tells whether all that a cell has compiled is done once: nothing in it, nor in what was defined before, is a loop, a closure, a
/// function or a range.
pub(super) fn is_done_once(cell: &str) -> bool {
    let text = AROUND
        .iter()
        .fold(cell.to_owned(), |text, around| text.replace(around, ""));
    let mut words = text.split(|c: char| c != '_' && !c.is_alphanumeric());
    !text.contains('|') && !text.contains("..") && !words.any(|word| AGAIN.contains(&word))
}

/// What evcxr's line does with one variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Check,
    Take,
    Put,
}

impl Work {
    /// The work of a line, and the variable's name.
    pub(super) fn of(line: &str) -> Option<(Self, &str)> {
        let (_, call) = line.split_once("evcxr_variable_store.")?;
        let work = [
            ("check_variable::<", Self::Check),
            ("take_variable::<", Self::Take),
            ("put_variable::<", Self::Put),
        ];
        let (_, work) = work.iter().find(|(name, _)| call.starts_with(name))?;
        let (_, name) = call.split_once(">(stringify!(")?;
        Some((*work, name.split(')').next()?))
    }
}

/// Leaves out the work on variables that the cell does not name. One is still checked: the first check of a cell begins its copy.
fn of_named(text: &str) -> String {
    let lines: Vec<_> = text
        .split_inclusive('\n')
        .map(|line| (line, Work::of(line)))
        .collect();
    let is_word = |c: char| c == '_' || c.is_alphanumeric();
    let named: HashSet<&str> = lines
        .iter()
        .filter(|(_, work)| work.is_none())
        .flat_map(|(line, _)| line.split(|c| !is_word(c)))
        .collect();
    let of = |work: Work| {
        let lines = lines.iter().filter_map(|(_, of)| *of);
        lines
            .filter(move |(of, _)| *of == work)
            .map(|(_, name)| name)
            .collect::<HashSet<_>>()
    };
    let (checked, taken, put) = (of(Work::Check), of(Work::Take), of(Work::Put));
    let unused = |name: &str| {
        let word = name.strip_prefix("r#").unwrap_or(name);
        taken.contains(name) && put.contains(name) && !named.contains(word)
    };
    // The same one in each session, so that what is compiled is found again.
    let first = checked
        .iter()
        .min_by_key(|name| (**name != "guest", **name));
    let first = first.filter(|_| checked.iter().all(|name| unused(name)));
    let one = |(line, work): &(&str, Option<(Work, &str)>)| match work {
        Some((Work::Check, name)) if Some(name) == first => (*line).to_owned(),
        Some((_, name)) if unused(name) => " ".repeat(line.trim_end_matches('\n').len()) + "\n",
        _ => (*line).to_owned(),
    };
    lines.iter().map(one).collect()
}

fn put(text: &str, begin: &str, end: &str, own: &str) -> Option<String> {
    let start = text.find(begin)?;
    let inner = start + begin.len();
    let stop = inner + text.get(inner..)?.find(end)? + end.len();
    let old = text.get(start..stop)?;
    let lines = old.matches('\n').count();
    let blanks = old.len().checked_sub(own.len() + lines)?;
    Some(format!(
        "{}{own}{}{}{}",
        text.get(..start)?,
        " ".repeat(blanks),
        "\n".repeat(lines),
        text.get(stop..)?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_not_named_stays_in_the_store() {
        let line = |work: &str, name: &str| match work {
            "check" => format!(
                "vars_ok &= evcxr_variable_store.check_variable::<Vec<u8>>(stringify!({name}));\n"
            ),
            "take" => format!(
                "let mut {name} = evcxr_variable_store.take_variable::<Vec<u8>>(stringify!({name}));\n"
            ),
            _ => format!(
                "evcxr_variable_store.put_variable::<Vec<u8>>(stringify!({name}), {name});\n"
            ),
        };
        let cell = |code: &str| {
            let old = ["guest", "a", "ab", "r#type", "moved"];
            let part = |work: &str, names: &[&str]| {
                names
                    .iter()
                    .map(|name| line(work, name))
                    .collect::<String>()
            };
            let put = ["guest", "a", "ab", "r#type", "new"];
            format!(
                "{}{}{code}\n{}",
                part("check", &old),
                part("take", &old),
                part("put", &put)
            )
        };
        for (code, kept) in [
            ("1 + 1", "moved new"),
            ("println!(\"{a}\")", "a moved new"),
            ("ab.len()", "ab moved new"),
            ("type_of(r#type)", "r#type moved new"),
            ("let new = guest.tasks()?;", "guest moved new"),
        ] {
            let text = cell(code);
            let own = of_cell(&text);
            assert_eq!(
                (own.len(), own.find(code)),
                (text.len(), text.find(code)),
                "{code}"
            );
            let names: HashSet<_> = own
                .lines()
                .filter_map(Work::of)
                .map(|(_, name)| name)
                .collect();
            let want: HashSet<_> = kept.split(' ').collect();
            assert_eq!(names, want, "{code}\n{own}");
        }
        // Nothing is named: one is checked, always the same.
        let text = ["b", "guest"]
            .map(|name| line("check", name) + &line("take", name) + &line("put", name));
        for text in [
            text.concat(),
            text.iter().rev().map(String::as_str).collect(),
        ] {
            let own = of_cell(&text);
            let left: Vec<_> = own.lines().filter_map(Work::of).collect();
            assert_eq!(left, [(Work::Check, "guest")]);
        }
    }

    #[test]
    fn what_may_be_done_again_is_told() {
        let cell = |code: &str| {
            format!(
                "{}6(\n{}\n{}\n{code}\nOk(())}})();\n",
                AROUND[0], AROUND[1], AROUND[2]
            )
        };
        for once in [
            "1 + x",
            "guest.tasks()?.len()",
            "println!(\"{x}\");",
            "let fortune = loops[0];",
        ] {
            assert!(is_done_once(&cell(once)), "{once}");
        }
        for again in [
            "for i in v {}",
            "(0..9).sum::<u64>()",
            "v.iter().map(|x| x)",
            "while f() {}",
            "loop {}",
            "fn f() {}",
        ] {
            assert!(!is_done_once(&cell(again)), "{again}");
        }
        assert!(!is_done_once(&format!("fn f() {{}}\n{}", cell("f()"))));
    }

    #[test]
    fn each_place_stays_where_it_was() {
        let evcxr = concat!(
            "use x;\n\n            struct EvcxrUserCodeError {}\n            impl<T: std::fmt::Display> From<T> for EvcxrUserCodeError {\n",
            "                fn from(error: T) -> Self {\n                    eprintln!(\"{}\", error);\n",
            "                    EvcxrUserCodeError {}\n                }\n            }\nmod evcxr_internal_runtime {\n",
            "// a long line of what the store is, which is left out: a long line of what the store is\n",
            "\npub fn create_variable_store() -> *mut VariableStore {\n    Box::into_raw(Box::new(VariableStore::new()))\n}\n}\n",
            "fn cell() {}\n"
        );
        let own = of_cell(evcxr);
        assert_eq!(own.len(), evcxr.len());
        assert_eq!(own.lines().count(), evcxr.lines().count());
        assert_eq!(own.find("fn cell"), evcxr.find("fn cell"));
        assert!(own.contains("use probes::cell::store::EvcxrUserCodeError;"));
        assert!(!own.contains("into_raw") && !own.contains("eprintln"));
        assert_eq!(of_cell("fn cell() {}"), "fn cell() {}");
    }
}
