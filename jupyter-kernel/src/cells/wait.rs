//! Cells that await something, without a runtime.

use std::ops::Range;

use quote::ToTokens;
use syn::visit::Visit;

use super::code::rust_of;

/// Beginning of a wait.
const BLOCK_ON: &str = "probes::cell::block_on(";

/// A cell whose `.await`s at its top wait by `block_on`, so that it needs no runtime; `None` if there are none.
pub(super) fn blocking(code: &str) -> Option<String> {
    if !code.contains(".await") {
        return None;
    }
    let rust = rust_of(code);
    // In the braces of a block everything stands one byte further.
    let block = syn::parse_str::<syn::Block>(&format!("{{{rust}}}")).ok()?;
    let mut awaits = Awaits::default();
    awaits.visit_block(&block);
    if awaits.0.is_empty() {
        return None;
    }
    let mut edits: Vec<_> = awaits
        .0
        .into_iter()
        .flat_map(|(base, whole)| {
            [
                (base.start - 1, base.start - 1, BLOCK_ON),
                (base.end - 1, whole.end - 1, ")"),
            ]
        })
        .collect();
    edits.sort_by_key(|(start, ..)| *start);
    let (mut text, mut taken) = (String::new(), 0);
    for (start, end, insert) in edits {
        text += code.get(taken..start)?;
        text += insert;
        taken = end;
    }
    Some(text + code.get(taken..)?)
}

/// The bytes of each awaited expression, without and with its `.await`.
#[derive(Default)]
struct Awaits(Vec<(Range<usize>, Range<usize>)>);

impl<'ast> Visit<'ast> for Awaits {
    fn visit_expr_await(&mut self, node: &'ast syn::ExprAwait) {
        let range = |node: &dyn ToTokens| {
            let mut spans = node
                .to_token_stream()
                .into_iter()
                .map(|token| token.span().byte_range());
            let first = spans.next().unwrap_or_default();
            let end = spans.last().map_or(first.end, |last| last.end);
            first.start..end
        };
        self.0.push((range(&node.base), range(node)));
        self.visit_expr(&node.base);
    }

    // An `.await` in these belongs to the code that runs them.
    fn visit_expr_async(&mut self, _: &'ast syn::ExprAsync) {}

    fn visit_expr_closure(&mut self, _: &'ast syn::ExprClosure) {}

    fn visit_item(&mut self, _: &'ast syn::Item) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn awaits_at_the_top_wait() {
        let blocking = |code| blocking(code).unwrap_or_default();
        assert_eq!(blocking("f().await"), "probes::cell::block_on(f())");
        assert_eq!(
            blocking("let é = f(g().await).await?;\nh"),
            "let é = probes::cell::block_on(f(probes::cell::block_on(g())))?;\nh"
        );
        assert_eq!(
            blocking(":dep x\nasync { a.await }.await + 1"),
            ":dep x\nprobes::cell::block_on(async { a.await }) + 1"
        );
        for none in [
            "async { a.await }",
            "async fn f() { a.await }",
            "let x = \".await\";",
            "a.await +",
        ] {
            assert_eq!(blocking(none), "", "{none}");
        }
    }
}
