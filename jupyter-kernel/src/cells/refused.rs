//! The error of a cell that is not given to the compiler.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use klab_protocol::CellError;

/// Draws as rustc does that `what` is wrong at the bytes `at`.
pub(super) fn refused(what: &str, code: &str, at: Range<usize>) -> CellError {
    let title = Level::ERROR.primary_title(what);
    let place = Snippet::source(code)
        .path("cell")
        .annotation(AnnotationKind::Primary.span(at));
    let drawn = Renderer::styled().render(&[title.element(place)]);
    CellError {
        ename: "CompileError".to_owned(),
        evalue: what.to_owned(),
        traceback: drawn.lines().map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_cell_shows_the_place() {
        let error = refused("no", "let é;\n }", 9..10);
        assert!(
            error
                .traceback
                .iter()
                .any(|line| line.contains("cell") && line.contains(":2:2")),
            "{error:?}"
        );
    }
}
