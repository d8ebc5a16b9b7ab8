//! A cell's questions to rust-analyzer.

use syn::{Pat, Stmt, Type};

/// Tells whether a cell has a `let` of which evcxr does not know the type: it asks rust-analyzer.
pub(super) fn wants_types(code: &str) -> bool {
    let rust: String = code
        .lines()
        .map(|line| if line.starts_with(':') { "" } else { line })
        .flat_map(|line| [line, "\n"])
        .collect();
    let Ok(block) = syn::parse_str::<syn::Block>(&format!("{{{rust}}}")) else {
        return true;
    };
    block.stmts.iter().any(|statement| match statement {
        Stmt::Local(local) => !has_type(&local.pat),
        _ => false,
    })
}

fn has_type(pattern: &Pat) -> bool {
    match pattern {
        Pat::Type(typed) => matches!(*typed.pat, Pat::Ident(_)) && is_whole(&typed.ty),
        Pat::Wild(_) => true,
        _ => false,
    }
}

/// Tells whether nothing of the type is left to be found.
fn is_whole(ty: &Type) -> bool {
    struct Inferred(bool);
    impl<'ast> syn::visit::Visit<'ast> for Inferred {
        fn visit_type_infer(&mut self, _: &'ast syn::TypeInfer) {
            self.0 = true;
        }
    }
    let mut inferred = Inferred(false);
    syn::visit::Visit::visit_type(&mut inferred, ty);
    !inferred.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_let_without_its_type_wants_it() {
        for code in [
            "let x = 1;",
            "let (a, b): (i32, i32) = (1, 2);",
            "let v: Vec<_> = f();",
            ":dep x = \"1\"\nlet x = y();\nx",
            "let Some(a) = b else { return };",
            "let x: = 1",
        ] {
            assert!(wants_types(code), "{code}");
        }
        for code in [
            "1 + 1",
            "let x: i32 = 1;",
            "{ let x = 1; x }",
            "fn f() { let x = 1; }",
            "let _ = f();",
            ":dep x = \"1\"",
            "use std::fmt;\nfor i in 0..3 { println!(\"{i}\"); }",
        ] {
            assert!(!wants_types(code), "{code}");
        }
    }
}
