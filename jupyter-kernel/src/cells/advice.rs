//! One more line for an error of a Rust cell, if the intent of its writer is clear.

use klab_protocol::CellError;

use crate::commands;

/// Names of drgn's, by which a cell for it is recognised.
const DRGN: [&str; 12] = [
    "prog",
    "find_task",
    "for_each_task",
    "list_for_each_entry",
    "hlist_for_each_entry",
    "rbtree_inorder_for_each_entry",
    "container_of",
    "stack_trace",
    "per_cpu",
    "per_cpu_ptr",
    "cast",
    "d_path",
];
/// Beginnings of lines of Python that are not Rust.
const PYTHON: [&str; 5] = ["import ", "from ", "def ", "elif ", "print("];
/// Commands that people type into a shell.
const SHELL: [&str; 16] = [
    "ls", "cat", "cd", "pwd", "uname", "top", "free", "df", "id", "ip", "lsmod", "dmesg", "mount",
    "insmod", "modprobe", "sh",
];
/// Words that end other interpreters.
const END: [&str; 3] = ["exit", "quit", "q"];
/// evcxr's words about a variable that it does not keep.
const NOT_KEPT: &str = "which cannot be persisted";

/// Adds the line to the error of the cell `code`, if there is one.
pub(super) fn with(mut error: CellError, code: &str) -> CellError {
    let is_compilers = error.ename.starts_with("E0") || error.ename == "CompileError";
    let line = match is_compilers {
        true => of_habit(&error, code).or_else(|| of_borrow(&error.ename)),
        false => of_variable(&error.evalue),
    };
    if let Some(line) = line {
        error
            .traceback
            .push(format!("\u{1b}[1;36mhelp\u{1b}[0m: {line}"));
    }
    error
}

/// Advice on words of another language than Rust.
fn of_habit(error: &CellError, code: &str) -> Option<String> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let has = |name: &str| code.split(|c| !is_name(c)).any(|word| word == name);
    // Only what the compiler does not know: a variable may have any of these names.
    let unknown = error.evalue.strip_prefix("cannot find ");
    let unknown = unknown.and_then(|rest| rest.split('`').nth(1));
    let syntax = error.ename == "CompileError";
    let first = code.trim_start();
    let word = first.split(|c| !is_name(c) && c != '-').next();
    let word = word.unwrap_or_default();
    if unknown.is_some_and(|name| DRGN.contains(&name))
        || syntax && (has("prog") || has("drgn") || has("for_each_task"))
    {
        return Some("this is drgn: begin the cell with `%%drgn`".to_owned());
    }
    let is_below = |line: &str| {
        let words = line.trim_start().strip_prefix('%');
        words.is_some_and(|words| {
            commands::is_command(words.split_whitespace().next().unwrap_or_default())
        })
    };
    if syntax && error.evalue.ends_with("found `%`") && code.lines().any(is_below) {
        return Some("commands stand at the top of a cell, before its Rust".to_owned());
    }
    let is_alone = code.trim().lines().count() == 1 && (syntax || unknown == Some(word));
    if is_alone && END.contains(&word) {
        return Some(
            "a cell ends by itself; `Shut Down Kernel` in the menu ends the kernel".to_owned(),
        );
    }
    if is_alone && commands::is_command(word) {
        return Some(format!("`%{}` is the command", first.trim_end()));
    }
    if is_alone && SHELL.contains(&word) {
        return Some(format!(
            "`%sh {line}` runs it in the guest, `!{line}` on this machine",
            line = first.trim_end()
        ));
    }
    let begins = |line: &str| PYTHON.iter().any(|begin| line.starts_with(begin));
    // `print(..)` is a function that Rust does not find, the others are no Rust at all.
    if (syntax || unknown == Some("print")) && code.lines().any(begins) {
        return Some("this is Python: `%%drgn` begins a cell of it".to_owned());
    }
    None
}

/// Advice on references to values that end with the cell.
fn of_borrow(code: &str) -> Option<String> {
    let line = match code {
        "E0716" | "E0597" => {
            "what a variable refers to must be a variable too: keep the value itself (`let tasks = guest.tasks()?;`), \
             or collect what is made of it (`.collect::<Vec<_>>()`)"
        }
        "E0373" => {
            "a variable keeps a closure as `let f: Box<dyn Fn(i32) -> i32> = Box::new(move |a| a + 1);`; one that uses no variable \
             may be a `fn`"
        }
        _ => return None,
    };
    Some(line.to_owned())
}

/// Advice on values of a type that has no written form, which evcxr needs to keep a variable.
fn of_variable(evalue: &str) -> Option<String> {
    if evalue.contains("is a closure, which cannot be persisted") {
        return of_borrow("E0373");
    }
    if !evalue.contains(NOT_KEPT) {
        return None;
    }
    let ty = evalue.split('`').nth(3).unwrap_or_default();
    let line = if ty.contains("Iterator") || ty.contains("iter::") {
        "an iterator is not kept: collect it, `.collect::<Vec<_>>()`"
    } else if ty.contains("Future") {
        "a future is not kept: `.await` it"
    } else if ty.contains("Fn") || ty.contains('|') {
        return of_borrow("E0373");
    } else {
        "keep the value itself, or what you need of it, in a type that has a name"
    };
    Some(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ename: &str, evalue: &str, code: &str) -> Option<String> {
        let before = CellError::new(ename, evalue);
        let mut after = with(before.clone(), code);
        let line = (after.traceback.len() > 1)
            .then(|| after.traceback.pop())
            .flatten();
        // The error itself is as it was.
        assert_eq!(after, before);
        line
    }

    fn says(ename: &str, evalue: &str, code: &str, wanted: &str) {
        let line = line(ename, evalue, code).unwrap_or_default();
        assert!(line.contains(wanted), "{code}: {line}");
    }

    #[test]
    fn words_of_other_languages_name_their_cell() {
        let no = |what: &str, name: &str| format!("cannot find {what} `{name}` in this scope");
        let drgn = "begin the cell with `%%drgn`";
        says("E0425", &no("value", "prog"), "prog.stack_trace(1)", drgn);
        says("E0425", &no("function", "find_task"), "find_task(2)", drgn);
        let walk = "for task in for_each_task(prog):\n    print(task.pid)";
        says("CompileError", "expected `{`, found `:`", walk, drgn);
        says(
            "CompileError",
            "expected one of",
            "from drgn import cast",
            drgn,
        );
        says(
            "CompileError",
            "expected one of",
            "import os",
            "this is Python",
        );
        says(
            "E0423",
            &no("function", "print"),
            "print(\"x\")",
            "this is Python",
        );
        says(
            "E0425",
            &no("value", "ls"),
            "ls",
            "`%sh ls` runs it in the guest, `!ls`",
        );
        says(
            "CompileError",
            "expected one of",
            "uname -a\n",
            "`%sh uname -a`",
        );
        says("E0425", &no("value", "ps"), "ps", "`%ps` is the command");
        says(
            "E0425",
            &no("value", "exit"),
            "exit",
            "a cell ends by itself",
        );
        says(
            "E0425",
            &no("function", "quit"),
            "quit()",
            "a cell ends by itself",
        );
    }

    #[test]
    fn what_is_not_kept_names_the_way() {
        says(
            "E0716",
            "temporary value dropped while borrowed",
            "let t = &guest.tasks()?;",
            "keep the value itself",
        );
        says(
            "E0373",
            "closure may outlive",
            "let f = |p| guest.task(p);",
            "Box<dyn Fn",
        );
        let closure = "The variable `f` is a closure, which cannot be persisted.\nYou can however";
        says("Error", closure, "let f = |a: i32| a + 1;", "may be a `fn`");
        let iterator =
            "The variable `it` has type `impl Iterator<Item = u8>` which cannot be persisted.\nYou";
        says("Error", iterator, "let it = a();", "collect it");
    }

    #[test]
    fn other_errors_are_left_alone() {
        let unknown = "cannot find value `x` in this scope";
        for (ename, evalue, code) in [
            ("E0425", unknown, "let prog = 1;\nx"),
            ("E0425", unknown, "let ls = 2;\nls + x"),
            ("E0308", "mismatched types", "let from = 1; from + \"\""),
            ("Panic", "no", "prog()"),
            ("Error", "there is no guest", "guest.tasks()?"),
        ] {
            assert_eq!(line(ename, evalue, code), None, "{code}");
        }
    }
}
