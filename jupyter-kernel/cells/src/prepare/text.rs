//! The text of a cell's crate as it is compiled.
//!
//! evcxr writes its store of variables and its type of errors into each cell's crate; compiled anew each time, they take
//! as long as the cell. The library of the cells has both (`probes::cell::store`). Their replacements here have as many
//! bytes and lines, so that each place in the text stays where evcxr looks for it.

use std::borrow::Cow;

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
    [ERROR, STORE]
        .into_iter()
        .fold(Cow::Borrowed(evcxr), |text, [begin, end, own]| {
            match put(&text, begin, end, own) {
                Some(put) => Cow::Owned(put),
                None => text,
            }
        })
        .into_owned()
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
