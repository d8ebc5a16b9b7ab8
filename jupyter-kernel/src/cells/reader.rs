//! A cell that is nothing but the call of a reader: `guest.tasks()?`, `guest.vmas(1)?`.
//!
//! The registry of readers can show the value, so no compiler is asked. Every other case (another text, a variable
//! `guest` that may not be klab's own, a reader that fails) is a cell like any other.

use std::sync::atomic::{AtomicBool, Ordering};

use klab_protocol::Bundle;
use probes::readers::{READERS, Reader};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use serde_json::Value;
use syn::{Expr, Lit};

use crate::commands;

/// Name of the variable that holds the guest in every session.
const GUEST: &str = "guest";

/// True while [`GUEST`] is still what the prelude made it.
#[derive(Debug)]
pub(super) struct Own(AtomicBool);

impl Default for Own {
    fn default() -> Self {
        Self(true.into())
    }
}

impl Own {
    /// The value of a cell that is a reader's call. Of any other it notes whether it may change [`GUEST`].
    pub(super) fn answer(&self, rust: &str) -> Option<Bundle> {
        if !self.0.load(Ordering::SeqCst) {
            return None;
        }
        let Some((reader, words)) = call(rust) else {
            if may_change(rust) {
                self.0.store(false, Ordering::SeqCst);
            }
            return None;
        };
        value(reader, &words).ok()
    }
}

/// Reads the value of a cell that is a reader's call anew; `None` for any other cell.
pub(super) fn again(rust: &str) -> Option<anyhow::Result<Bundle>> {
    let (reader, words) = call(rust)?;
    Some(value(reader, &words))
}

fn value(reader: &Reader, words: &[Option<String>]) -> anyhow::Result<Bundle> {
    let guest = commands::attached(&commands::default_guest())?;
    let words: Vec<_> = words.iter().map(Option::as_deref).collect();
    let value = reader.read(&guest, &words)?;
    let shown = probes::cell::Bundle::from(&*value);
    let forms = shown.iter();
    Ok(forms
        .map(|(mime, form)| (mime.to_owned(), Value::from(form)))
        .collect())
}

/// The reader that a cell calls, and the words that stand for its arguments.
fn call(rust: &str) -> Option<(&'static Reader, Vec<Option<String>>)> {
    let tokens: TokenStream = rust.parse().ok()?;
    let call = match syn::parse2(tokens.clone()).ok()? {
        Expr::Try(tried) => *tried.expr,
        call => call,
    };
    let Expr::MethodCall(call) = call else {
        return None;
    };
    let named = |reader: &&Reader| call.method == reader.method && !reader.reads_all;
    let reader = READERS.iter().find(named)?;
    let words: Option<Vec<_>> = call.args.iter().map(word).collect();
    let words = words.filter(|words| words.len() == reader.parameters.len())?;
    let given: Vec<_> = words.iter().map(Option::as_deref).collect();
    // The cell that does the same as the words: if it is not this one, they do not mean the same.
    let code = reader.code(GUEST, &given);
    let same = [code.as_str(), code.strip_suffix('?')?].iter().any(|code| {
        let code: Result<TokenStream, _> = code.parse();
        code.is_ok_and(|code| code.to_string() == tokens.to_string())
    });
    same.then_some((reader, words))
}

/// The word for an argument that is a literal; `Some(None)` for one that is left out.
fn word(argument: &Expr) -> Option<Option<String>> {
    match argument {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Int(number) => Some(Some(number.base10_digits().to_owned())),
            Lit::Str(text) => Some(Some(text.value())),
            _ => None,
        },
        Expr::Path(path) if path.path.is_ident("None") => Some(None),
        Expr::Call(call) if call.args.len() == 1 => {
            let Expr::Path(function) = &*call.func else {
                return None;
            };
            let inner = call.args.first()?;
            match inner {
                _ if function.path.is_ident("Some") => word(inner),
                Expr::Lit(literal) if function.path.is_ident("GuestVirt") => match &literal.lit {
                    Lit::Int(at) => Some(Some(at.to_string())),
                    _ => None,
                },
                _ => None,
            }
        }
        _ => None,
    }
}

/// Tells whether a cell may bind or move [`GUEST`].
fn may_change(rust: &str) -> bool {
    let command = |line: &str| line.starts_with(':') && !line.starts_with(":dep ");
    if rust.lines().any(command) {
        return true;
    }
    match super::code::rust_of(rust).parse() {
        Ok(tokens) => changes(tokens),
        Err(_) => rust.contains(GUEST),
    }
}

/// Tells whether [`GUEST`] stands among the tokens as anything but the object of a call, what is borrowed, or a
/// closure's parameter.
fn changes(tokens: TokenStream) -> bool {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let sign = |at: Option<usize>| match tokens.get(at?) {
        Some(TokenTree::Punct(sign)) => Some(sign.as_char()),
        _ => None,
    };
    tokens.iter().enumerate().any(|(at, token)| match token {
        TokenTree::Group(group) => group.delimiter() != Delimiter::None && changes(group.stream()),
        TokenTree::Ident(name) if name == GUEST => {
            let (before, behind) = (sign(at.checked_sub(1)), sign(Some(at + 1)));
            behind != Some('.') && behind != Some('|') && before != Some('&')
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(rust: &str) -> Option<(&'static str, Vec<Option<String>>)> {
        call(rust).map(|(reader, words)| (reader.method, words))
    }

    #[test]
    fn a_readers_call_with_literals_is_known() {
        let one = vec![Some("1".to_owned())];
        assert_eq!(called("guest.tasks()?"), Some(("tasks", vec![])));
        assert_eq!(called(" guest . tasks ( ) // all"), Some(("tasks", vec![])));
        assert_eq!(called("guest.vmas(1)?"), Some(("vmas", one)));
        for other in [
            "guest.tasks()?.len()",
            "guest.tasks()?;",
            "other.tasks()?",
            "guest.vmas(pid)?",
            "guest.vmas(0x1)?",
            "guest.vmas(1, 2)?",
            "guest.nosuch()?",
            "let t = guest.tasks()?;",
            "{ guest.tasks()? }",
            "",
        ] {
            assert_eq!(called(other), None, "{other}");
        }
    }

    #[test]
    fn every_readers_own_cell_is_known() {
        let mut known = 0;
        for reader in READERS.iter().filter(|reader| !reader.reads_all) {
            for sample in reader.samples {
                let words = reader.words(sample).unwrap();
                let code = reader.code(GUEST, &words);
                // A symbol's place is asked of the guest.
                if code.contains(".place(") {
                    continue;
                }
                assert_eq!(
                    called(&code).map(|(method, _)| method),
                    Some(reader.method),
                    "{code}"
                );
                known += 1;
            }
        }
        assert!(known > 50, "{known}");
    }

    #[test]
    fn what_may_change_the_guest_is_seen() {
        for code in [
            "let guest = Guest::attach(\"x\")?;",
            "let (guest, a) = x;",
            "guest = x",
            "{ drop(guest) }",
            "fn guest() {}",
            "for guest in guests {}",
            "let x = S { guest };",
            ":clear",
        ] {
            assert!(may_change(code), "{code}");
        }
        for code in [
            "let t = guest.tasks()?;",
            "guest.paused(|guest| guest.tasks())?",
            "f(&guest, 1)",
            ":dep rand = \"1\"\n1 + 1",
            "// guest = x\n\"guest = x\"",
        ] {
            assert!(!may_change(code), "{code}");
        }
    }
}
