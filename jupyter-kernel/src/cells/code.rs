//! Facts about a cell's text that need no compiler.

use std::ops::Range;

use klab_protocol::Completeness;
use proc_macro2::{TokenStream, TokenTree};

use super::scan::Scan;

/// End, in bytes, of the name that a byte offset is in or behind.
pub(super) fn end_of_name(code: &str, at: usize) -> usize {
    let rest = code.get(at..).unwrap_or_default();
    at + rest
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(rest.len())
}

/// Byte at which the text of the string begins that byte `at` is in, if it is in a plain one.
pub(super) fn string_at(code: &str, at: usize) -> Option<usize> {
    let Scan::Open { at: open, .. } = Scan::of(&rust_of(code.get(..at)?)) else {
        return None;
    };
    code[open..at].starts_with('"').then_some(open + 1)
}

/// The cell's Rust, on its own lines: commands, those of evcxr and of the host's shell, are left blank.
pub(super) fn rust_of(code: &str) -> String {
    code.lines()
        .map(|line| match line.starts_with(['%', ':', '!']) {
            true => " ".repeat(line.len()),
            false => line.to_owned(),
        })
        .flat_map(|line| [line, "\n".to_owned()])
        .collect()
}

/// Tells whether Enter runs the cell or continues it.
pub(super) fn is_complete(code: &str) -> Completeness {
    if code.trim_start().starts_with("%%") {
        return Completeness::Complete;
    }
    let rust = rust_of(code);
    match Scan::of(&rust) {
        Scan::Open { depth, .. } => return Completeness::Incomplete("    ".repeat(depth)),
        Scan::Wrong { .. } => return Completeness::Invalid,
        Scan::Closed => {}
    }
    match syn::parse_str::<syn::Block>(&format!("{{{rust}}}")) {
        Ok(_) => Completeness::Complete,
        Err(_) if continues(&rust) => Completeness::Incomplete("    ".to_owned()),
        Err(_) => Completeness::Invalid,
    }
}

/// The part of a cell that cannot be Rust, and its place in bytes: of such a cell evcxr leaves out what it does not
/// understand.
pub(super) fn fault(code: &str) -> Option<(String, Range<usize>)> {
    if let Some(fault) = of_evcxr(code) {
        return Some(fault);
    }
    let said = |what: &str, at, length| Some((what.to_owned(), at..at + length));
    let rust = rust_of(code);
    match Scan::of(&rust) {
        Scan::Closed => {}
        // Only where the lexer of Rust agrees.
        _ if rust.parse::<TokenStream>().is_ok() => {}
        Scan::Open { what, at, .. } => return said(what, at, 1),
        Scan::Wrong { at } => return said("unexpected closing delimiter", at, 1),
    }
    said(
        "expected a pattern after `let`",
        no_pattern(&rust)?,
        "let".len(),
    )
}

/// The first of evcxr's commands that would have the library of the cells compiled anew, which would end their process.
fn of_evcxr(code: &str) -> Option<(String, Range<usize>)> {
    let line = code.lines().find(|line| {
        let mut words = line.split(|c: char| c.is_whitespace() || c == '=');
        let (command, first) = (words.next(), words.find(|word| !word.is_empty()));
        match command {
            Some(":dep") => first == Some("probes"),
            Some(command) => ANEW.contains(&command) && first.is_some(),
            None => false,
        }
    })?;
    let at = code.find(line)?;
    let what = match line.starts_with(":dep") {
        true => "cells have `probes` already, as it was when the kernel began".to_owned(),
        false => format!(
            "`{}` would need the library of the cells compiled anew, and variables would be lost; `:opt` and `:dep` do not",
            line.split_whitespace().next().unwrap_or_default()
        ),
    };
    Some((what, at..at + line.len()))
}

/// The commands of evcxr that change how every crate is compiled.
const ANEW: [&str; 4] = [
    ":toolchain",
    ":allow_static_linking",
    ":codegen_backend",
    ":sccache",
];

/// Types whose values change where they stand.
const CHANGING: [&str; 6] = ["Atomic", "Mutex", "RwLock", "Cell", "Lazy", "OnceLock"];

/// Warning about a `static` that a cell defines to change it: each cell has its own copy, as evcxr compiles what was
/// defined with each cell again.
pub(super) fn begins_anew(rust: &str) -> Option<String> {
    let block: syn::Block = syn::parse_str(&format!("{{{}}}", rust_of(rust))).ok()?;
    let names: Vec<_> = block
        .stmts
        .iter()
        .filter_map(|statement| match statement {
            syn::Stmt::Item(syn::Item::Static(item)) => Some(item),
            _ => None,
        })
        .filter(|item| {
            let ty = quote::ToTokens::to_token_stream(&item.ty).to_string();
            matches!(item.mutability, syn::StaticMutability::Mut(_))
                || CHANGING.iter().any(|name| ty.contains(name))
        })
        .map(|item| format!("`{}`", item.ident))
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "{} begins anew in each cell that uses it: what is to last is a variable (`let n = std::sync::Arc::new(..);`)\n",
            names.join(", ")
        )
    })
}

/// A cell with a `;` behind each `thread_local! { .. }`, which evcxr otherwise takes for an expression.
pub(super) fn ended(rust: String) -> String {
    let Ok(tokens) = rust_of(&rust).parse::<TokenStream>() else {
        return rust;
    };
    let tokens: Vec<_> = tokens.into_iter().collect();
    let ends = tokens.windows(3).enumerate().filter_map(|(at, three)| {
        let [
            TokenTree::Ident(name),
            TokenTree::Punct(sign),
            TokenTree::Group(group),
        ] = three
        else {
            return None;
        };
        let ended =
            matches!(tokens.get(at + 3), Some(TokenTree::Punct(next)) if next.as_char() == ';');
        (name == "thread_local" && sign.as_char() == '!' && !ended)
            .then(|| group.span().byte_range().end)
    });
    let mut text = rust.clone();
    for end in ends.collect::<Vec<_>>().into_iter().rev() {
        if text.is_char_boundary(end) {
            text.insert(end, ';');
        }
    }
    text
}

/// Byte at which a `let` stands without a pattern.
fn no_pattern(rust: &str) -> Option<usize> {
    let mut tokens = rust.parse::<TokenStream>().ok()?.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let next = tokens.peek();
        let ends = match next {
            None => true,
            Some(TokenTree::Punct(punct)) => [';', '='].contains(&punct.as_char()),
            Some(_) => false,
        };
        if matches!(&token, TokenTree::Ident(word) if word == "let") && ends {
            return Some(token.span().byte_range().start);
        }
    }
    None
}

/// Tells whether the text ends where something must follow.
fn continues(rust: &str) -> bool {
    let rust = rust.trim_end();
    let operator = rust.ends_with([
        '=', '+', '-', '*', '/', '%', '&', '|', '^', '<', '.', ',', ':', '>',
    ]);
    let word = rust
        .rsplit(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .unwrap_or_default();
    operator
        || [
            "let", "mut", "in", "as", "if", "else", "while", "match", "fn", "use", "for",
        ]
        .contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_found_by_any_place_in_it() {
        let code = "%p 'x\nlet 名 = guest.eval(\"init_task.\")?; // \"";
        let begin = code.find("init").unwrap();
        for at in begin..=begin + 10 {
            assert_eq!(string_at(code, at), Some(begin));
        }
        assert_eq!(string_at(code, begin + 11), None);
        assert_eq!(string_at(code, code.len()), None);
        assert_eq!(string_at("r\"x", 3), None);
    }

    #[test]
    fn whole_cells_are_complete() {
        for code in [
            "",
            "1 + 1",
            "let x = 1;",
            "fn f<'a>(x: &'a str) -> char { '{' }",
            "let s = r#\"}\"#; // {",
            "struct A;\n/* { /* ( */ */",
            "%ps --tree {",
            "%%sh\nif (",
            ":dep serde = { version = \"1\" }\nuse serde::Serialize;",
            "\"\\\"{\"",
            "'\\u{41}'",
        ] {
            assert_eq!(is_complete(code), Completeness::Complete, "{code}");
        }
    }

    #[test]
    fn what_lacks_an_end_is_incomplete() {
        for (code, indent) in [
            ("fn f() {", "    "),
            ("for x in [1, 2] {\n    if x > 1 {", "        "),
            ("let s = \"abc", ""),
            ("/* what", ""),
            ("let x =", "    "),
            ("println!(\"{}\",", "    "),
            ("v.iter().", "    "),
        ] {
            let wanted = Completeness::Incomplete(indent.to_owned());
            assert_eq!(is_complete(code), wanted, "{code}");
        }
    }

    #[test]
    fn what_no_end_can_mend_is_invalid() {
        for code in ["let 3 = = 4;", "fn f() }", "(]", "1 2 3"] {
            assert_eq!(is_complete(code), Completeness::Invalid, "{code}");
        }
    }

    #[test]
    fn what_evcxr_would_leave_out_is_a_fault_with_its_place() {
        for (code, part) in [
            ("}\nprintln!(\"after\")", "}"),
            ("/* open", "/"),
            ("let", "let"),
            ("let = 5;", "let"),
            ("%ps\n  let x = (1;", "("),
            ("\"open", "\""),
            ("1;\n:toolchain nightly\n", ":toolchain nightly"),
            (":dep probes = \"1\"", ":dep probes = \"1\""),
        ] {
            let (what, at) = fault(code).unwrap();
            assert_eq!(code.get(at), Some(part), "{code}: {what}");
        }
        for code in [
            "let x = 5;\nlet Some(y) = z else { return };",
            "if let Some(x) = y {}",
            ":dep x = { version = \"1\"\n1",
            "!echo it's (",
            "let r#let = b'\\''; 'a: loop { break 'a }",
        ] {
            assert_eq!(fault(code), None, "{code}");
        }
    }

    #[test]
    fn a_static_that_changes_begins_anew() {
        let said = begins_anew("static N: AtomicU64 = AtomicU64::new(0);").unwrap();
        assert!(said.starts_with("`N` begins anew"), "{said}");
        assert!(begins_anew("static mut X: u8 = 0;\n1").is_some());
        for code in [
            "static NAMES: [&str; 1] = [\"a\"];",
            "let x = 1;",
            "fn f() { static N: AtomicU64 = x; }",
        ] {
            assert_eq!(begins_anew(code), None, "{code}");
        }
    }

    #[test]
    fn a_thread_local_has_an_end() {
        let ended = |code: &str| ended(code.to_owned());
        assert_eq!(ended("é;thread_local!{ x }"), "é;thread_local!{ x };");
        assert_eq!(ended("thread_local! {a}\n1"), "thread_local! {a};\n1");
        for code in ["thread_local!{a};", "println!(\"x\")", "thread_local"] {
            assert_eq!(ended(code), code);
        }
    }

    #[test]
    fn the_end_of_a_name_is_found_from_within() {
        assert_eq!(end_of_name("a.len() + 1", 3), 5);
    }
}
