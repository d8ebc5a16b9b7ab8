//! Errors of a cell as a reader sees them: a name, one sentence, and the place in the cell.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use evcxr::CompilationError;
use klab_language::CellError;

use super::front::{Panic, Said};

/// State of the variables where the process of the cells has died: with a copy of it, and without.
const KEPT: &str = "variables are kept as they were before it";
const LOST: &str = "variables are lost, `use`, functions and types are kept";

/// The error that evcxr reports, for the cell `code` of which the process `said`.
pub(super) fn of_evcxr(error: &evcxr::Error, code: &str, said: &Said) -> CellError {
    match error {
        evcxr::Error::CompilationErrors(errors) => of_compiler(errors, code),
        evcxr::Error::SubprocessTerminated(status) => {
            let status = status.rsplit_once("status: ");
            died(status.map(|(_, status)| status.trim().to_owned()), said)
        }
        error => CellError::new("Error", error.to_string()),
    }
}

/// Tells whether an error has its place in the cell. evcxr keeps none for a `use`, and takes rustc's help for the error
/// if that is about the value of the cell.
pub(super) fn have_a_place(errors: &[CompilationError]) -> bool {
    errors.iter().any(|error| {
        error.level() == "error" && error.spanned_messages().iter().any(|at| at.span.is_some())
    })
}

/// The error that the cell's process told of, if it did.
pub(super) fn of_said(said: &Said, code: &str, source: &str) -> Option<CellError> {
    if said.panicked {
        let panic = said.panic.as_ref()?;
        if panic.interrupted {
            return Some(stopped());
        }
        let mut error = CellError::new("Panic", &panic.message);
        error.traceback.extend(place(panic, code, source));
        return Some(error);
    }
    match &said.error {
        Some(evalue) => Some(CellError::new("Error", evalue)),
        None if said.question_mark => Some(CellError::new("Error", said.stderr.trim_end())),
        None => None,
    }
}

/// The cell was stopped, and has left by itself.
pub(super) fn stopped() -> CellError {
    CellError::new(
        "Interrupted",
        "the cell was stopped; its variables are kept",
    )
}

/// The cell was stopped, and did not leave by itself. Without a copy from before it its variables are gone.
pub(super) fn killed(kept: bool) -> CellError {
    let variables = match kept {
        true => KEPT,
        false => LOST,
    };
    let evalue = format!("the cell did not stop by itself, so its process was killed; {variables}");
    CellError::new("Interrupted", evalue)
}

/// The process of the cells died, with this status.
pub(super) fn died(status: Option<String>, said: &Said) -> CellError {
    let why = said
        .fault
        .map(|fault| fault.trim_end_matches('.').to_lowercase())
        .or(status)
        .unwrap_or_else(|| "of what is not known".to_owned());
    let variables = match said.kept {
        true => KEPT,
        false => LOST,
    };
    let evalue = format!("the process of the cells died ({why}); {variables}");
    let mut error = CellError::new("ProcessDied", evalue);
    error
        .traceback
        .extend(said.stderr.lines().map(str::to_owned));
    error
}

/// Errors of rustc, drawn as rustc draws them, on the lines of the cell.
fn of_compiler(errors: &[CompilationError], code: &str) -> CellError {
    // Lints of what earlier cells have defined come along.
    let is_error = |error: &&CompilationError| error.level() == "error";
    let errors: Vec<_> = match errors.iter().any(|error| is_error(&error)) {
        true => errors.iter().filter(is_error).collect(),
        false => errors.iter().collect(),
    };
    let first = errors.first().copied();
    let traceback = errors.iter().flat_map(|error| {
        draw(error, code)
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    CellError {
        ename: first
            .and_then(CompilationError::code)
            .unwrap_or("CompileError")
            .to_owned(),
        evalue: first
            .map(|error| plain(&error.message()))
            .unwrap_or_default(),
        traceback: traceback.collect(),
    }
}

/// An error of rustc in the words of a cell: without what evcxr has put behind it; crates are added by `:dep`.
fn plain(text: &str) -> String {
    let text = text
        .replace("`evcxr_variable_store`", "the end of the cell")
        .replace("<end of input>", "the end of the cell");
    let Some((before, rest)) = text.split_once("use `cargo add ") else {
        return text;
    };
    match rest.split_once("` to add it to your `Cargo.toml`") {
        Some((name, after)) => format!("{before}run `:dep {name}` in a cell{after}"),
        None => text.clone(),
    }
}

fn draw(error: &CompilationError, code: &str) -> String {
    let message = plain(&error.message());
    let title = Level::ERROR.primary_title(message.as_str());
    let title = match error.code() {
        Some(code) => title.id(code),
        None => title,
    };
    let labels = error.spanned_messages().iter().filter_map(|spanned| {
        let span = spanned.span?;
        let start = offset(code, span.start_line, span.start_column);
        let end = offset(code, span.end_line, span.end_column).max(start);
        let kind = if spanned.is_primary {
            AnnotationKind::Primary
        } else {
            AnnotationKind::Context
        };
        // evcxr puts the message itself where a span has no label.
        let label = plain(
            spanned
                .label
                .strip_prefix("error: ")
                .unwrap_or(&spanned.label),
        );
        let label = (label != message).then_some(label);
        Some(kind.span(start..end).label(label))
    });
    let labels: Vec<_> = labels.collect();
    let mut group = if labels.is_empty() {
        Group::with_title(title)
    } else {
        title.element(Snippet::source(code).path("cell").annotations(labels))
    };
    for help in error.help() {
        group = group.element(Level::HELP.message(plain(&help)));
    }
    if let Some(hint) = error.evcxr_extra_hint() {
        group = group.element(Level::NOTE.message(hint));
    }
    Renderer::styled().render(&[group])
}

/// The byte offset of a 1-based line and column, the column in characters.
fn offset(code: &str, line: usize, column: usize) -> usize {
    let before = code
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum::<usize>();
    let rest = code.get(before..).unwrap_or_default();
    let within = rest
        .char_indices()
        .nth(column.saturating_sub(1))
        .map_or(rest.len(), |(at, _)| at);
    before + within
}

/// The line of the cell in which a panic was raised, given the crate `source` that evcxr made of it.
fn place(panic: &Panic, code: &str, source: &str) -> Option<String> {
    if panic.file != "src/lib.rs" {
        return (panic.line > 0).then(|| format!("  --> {}:{}", panic.file, panic.line));
    }
    let index = usize::try_from(panic.line).ok()?.checked_sub(1)?;
    let raised = source.lines().nth(index)?;
    // evcxr puts the cell's statements into its crate line by line, but not where.
    let earlier = source
        .lines()
        .take(index)
        .filter(|line| *line == raised)
        .count();
    let mut same = code.lines().enumerate().filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && raised.contains(line)
    });
    let (number, line) = same.nth(earlier).or_else(|| {
        code.lines()
            .enumerate()
            .find(|(_, line)| !line.trim().is_empty() && raised.contains(line.trim()))
    })?;
    Some(format!(
        "  --> cell:{}\n   |\n   | {}",
        number + 1,
        line.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_a_cell() {
        assert_eq!(
            plain("expected `;`, found `evcxr_variable_store`"),
            "expected `;`, found the end of the cell"
        );
        let help = "if you wanted to use a crate named `rand`, use `cargo add rand` to add it to your `Cargo.toml`";
        assert_eq!(
            plain(help),
            "if you wanted to use a crate named `rand`, run `:dep rand` in a cell"
        );
    }

    #[test]
    fn columns_are_characters() {
        assert_eq!(offset("é = 1;\nlet x", 1, 3), 3);
        assert_eq!(offset("é = 1;\nlet x", 2, 5), "é = 1;\nlet ".len());
        assert_eq!(offset("a", 9, 9), 1);
    }

    #[test]
    fn a_panic_is_placed_on_the_line_of_the_cell() {
        let panic = |line| Panic {
            message: "no".to_owned(),
            file: "src/lib.rs".to_owned(),
            line,
            interrupted: false,
        };
        let code = "let a = 1;\nassert!(a == 2);\nassert!(a == 2);";
        let source = "fn f() {\nlet a = 1;\nassert!(a == 2);\nassert!(a == 2);\n}";
        let second = place(&panic(4), code, source);
        assert_eq!(
            second.as_deref(),
            Some("  --> cell:3\n   |\n   | assert!(a == 2);")
        );
        assert_eq!(place(&panic(99), code, source), None);
    }

    #[test]
    fn a_panic_is_an_error_only_if_it_ended_the_cell() {
        let panic = Panic {
            message: "no".into(),
            file: String::new(),
            line: 0,
            interrupted: false,
        };
        let mut said = Said {
            panic: Some(panic),
            ..Said::default()
        };
        assert_eq!(of_said(&said, "", ""), None);
        said.panicked = true;
        let error = of_said(&said, "", "").unwrap();
        assert_eq!(
            (error.ename.as_str(), error.evalue.as_str()),
            ("Panic", "no")
        );
    }
}
