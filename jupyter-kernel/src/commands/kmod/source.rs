//! The name of the module that a Rust source is, by its `module!`.
//!
//! Read as Rust, by its tokens: a line, a comment or a string may hold the same words.

use anyhow::{Result, anyhow, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Kind of build for a source whose tokens do not fit together: the compiler says where.
const BROKEN: &str = "cell";

/// A source, and the name of its module.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    /// Its text, with a comma after the last entry of `module!`: the kernel's macro does not do without.
    pub(super) text: String,
}

/// Reads it.
///
/// # Errors
/// For a source without a `module!`, and for one with several that do not agree.
pub(super) fn read(source: &str) -> Result<Source> {
    let Some(blocks) = blocks(source) else {
        return Ok(Source {
            name: BROKEN.to_owned(),
            text: source.to_owned(),
        });
    };
    let mut names = Vec::new();
    for block in &blocks {
        names.push(named(block.clone())?);
    }
    names.dedup();
    match names.as_slice() {
        [name] => Ok(Source {
            name: name.clone(),
            text: with_commas(source, &blocks),
        }),
        [] => bail!(
            "the source names no module: it needs `module! {{ type: .., name: \"hello\", license: \"GPL\" }}`"
        ),
        several => bail!(
            "the source names several modules ({}): a cell holds one `module!`",
            several.join(", ")
        ),
    }
}

/// Contents of the source's `module!`s; none where its tokens do not fit together.
fn blocks(source: &str) -> Option<Vec<TokenStream>> {
    let mut blocks = Vec::new();
    find(source.parse().ok()?, &mut blocks);
    Some(blocks)
}

/// The source with a comma before the end of its one block, if that has none. Tokens have no places here, so each closing
/// bracket is tried.
fn with_commas(source: &str, blocks: &[TokenStream]) -> String {
    let lacks = |block: &TokenStream| !matches!(block.clone().into_iter().last(), Some(TokenTree::Punct(sign)) if sign.as_char() == ',');
    if blocks.len() != 1 || !blocks.iter().any(lacks) {
        return source.to_owned();
    }
    let ends = source.match_indices(['}', ')', ']']);
    let mut texts = ends.map(|(at, _)| {
        let (before, after) = source.split_at(at);
        format!("{before},{after}")
    });
    texts
        .find(|text| {
            self::blocks(text).is_some_and(|blocks| blocks.len() == 1 && !blocks.iter().any(lacks))
        })
        .unwrap_or_else(|| source.to_owned())
}

/// Tells whether a macro of this name makes a module: `module!`, and those of the kernel's drivers.
fn makes_a_module(name: &str) -> bool {
    name == "module" || name.starts_with("module_")
}

fn find(tokens: TokenStream, blocks: &mut Vec<TokenStream>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            // A macro of the source's own may contain `module!`; that is no module yet.
            TokenTree::Ident(word) if word == "macro_rules" => {
                tokens.find(|token| matches!(token, TokenTree::Group(_)));
            }
            TokenTree::Ident(word) if makes_a_module(&word.to_string()) => {
                if !matches!(tokens.peek(), Some(TokenTree::Punct(sign)) if sign.as_char() == '!') {
                    continue;
                }
                tokens.next();
                if let Some(TokenTree::Group(body)) = tokens.peek()
                    && body.delimiter() != Delimiter::None
                {
                    blocks.push(body.stream());
                    tokens.next();
                }
            }
            TokenTree::Group(group) => find(group.stream(), blocks),
            _ => {}
        }
    }
}

/// The string of `name: "hello"`, at the top of the block.
fn named(body: TokenStream) -> Result<String> {
    let tokens: Vec<TokenTree> = body.into_iter().collect();
    let mut before = None;
    for window in tokens.windows(3) {
        if let [TokenTree::Ident(key), TokenTree::Punct(colon), value] = window
            && key == "name"
            && colon.as_char() == ':'
            && before != Some(':')
        {
            return syn::parse_str::<syn::LitStr>(&value.to_string())
                .map(|text| text.value())
                .map_err(|_| {
                    anyhow!("the module's name is `{value}`: the kernel wants a string, `name: \"hello\"`")
                });
        }
        before = match &window[0] {
            TokenTree::Punct(sign) => Some(sign.as_char()),
            _ => None,
        };
    }
    bail!("`module!` has no name: write `name: \"hello\"` into it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(source: &str) -> Result<String> {
        read(source).map(|source| source.name)
    }

    #[test]
    fn a_module_is_named_by_its_block() {
        for source in [
            "module! { type: One, name: \"gc\", authors: [\"x\"], description: \"d\", license: \"GPL\" }",
            "use kernel::prelude::*;\nmodule! {\n    type: One,\n    name: \"gc\",\n}\n",
            "module! {\n type: One, name:\"gc\",license: \"GPL\"\n}",
            "module!{type:One,license:\"GPL\",name\n:\n\"gc\"}",
            "kernel::module! { type: One, name: r#\"gc\"#, license: \"GPL\" }",
            "module!(type: One, name: \"g\\x63\", license: \"GPL\");",
            // A `name:` and the word before the block, in code and in words.
            "//! A module that registers a device. name: \"doc\"\nconst C: Config = Config {\n    name: \"other\",\n};\n\
             module! { type: One, name: \"gc\" }",
            "use kernel::module_misc_device;\n/* module! { name: \"no\" } */\nmodule! { type: One, name: \"gc\" }",
            "const TEXT: &str = \"module! { name: \\\"no\\\" }\";\nmodule! { type: One, name: \"gc\" }",
            "macro_rules! m { () => { module! { type: A, name: \"no\" } } }\nmodule! { type: One, name: \"gc\" }",
            // Words of other members, nested ones too.
            "module! { type: module::name, description: \"name: \\\"no\\\"\", params: { name: i64 { default: 1, \
             description: \"d\" } }, name: \"gc\" }",
            "kernel::module_platform_driver! { type: Driver, name: \"gc\", license: \"GPL\" }",
            "mod inner { module! { type: One, name: \"gc\" } }",
        ] {
            assert_eq!(name(source).unwrap(), "gc", "{source}");
        }
        assert_eq!(name("module! { name: \"gc-dash\" }").unwrap(), "gc-dash");
    }

    #[test]
    fn the_comma_that_the_macro_wants_is_there() {
        for (written, built) in [
            (
                "fn f() {} module! { type: M, name: \"gc\" }",
                "fn f() {} module! { type: M, name: \"gc\" ,}",
            ),
            (
                "module! {\n name: \"gc\", params: { a: i64 { default: 1, } } // }\n}\nstruct M;",
                "module! {\n name: \"gc\", params: { a: i64 { default: 1, } } // }\n,}\nstruct M;",
            ),
            (
                "module!(name: \"g}c\", authors: [\"x\"]);",
                "module!(name: \"g}c\", authors: [\"x\"],);",
            ),
            (
                "module! { name: \"gc\", } fn f() {}",
                "module! { name: \"gc\", } fn f() {}",
            ),
        ] {
            assert_eq!(read(written).unwrap().text, built);
        }
    }

    #[test]
    fn what_names_none_is_told() {
        for (source, says) in [
            ("fn main() {}", "names no module"),
            ("let module = 1; module != 2;", "names no module"),
            ("module! { type: One }", "has no name"),
            (
                "module! { type: One, params: { name: i64 {} } }",
                "has no name",
            ),
            ("module! { name: gc }", "wants a string"),
            (
                "module! { name: \"a\" } module! { name: \"b\" }",
                "several modules (a, b)",
            ),
        ] {
            let said = name(source).unwrap_err().to_string();
            assert!(said.contains(says), "{source}: {said}");
        }
    }

    #[test]
    fn what_is_no_rust_is_left_to_the_compiler() {
        assert_eq!(name("fn f( { \n module! { name: \"gc\" }").unwrap(), BROKEN);
    }
}
