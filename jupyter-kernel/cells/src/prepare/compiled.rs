//! Compiled cells, kept beside the library that they were compiled against.
//!
//! The text of a cell's crate names all that the cell depends on: its own text, what was defined before, the types of the variables.
//! So a lesson that is run again needs no compiler.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::link::Link;
use super::manifest::LEVEL;
use super::text::Work;
use super::waiting;

/// Bytes that are kept; a cell has some 20 KiB, or 500 where it makes much code of generic functions.
const MOST: u64 = 256 << 20;

/// Words of what reads a file or a variable of the environment while it is compiled, so that the same text may mean another cell.
const READS: [&str; 4] = ["include", "incbin", "env!", "#[path"];

/// Tells whether a cell may depend on more than its text.
pub(super) fn reads_files(cell: &str) -> bool {
    let is_name = |c: char| c == '_' || c.is_alphanumeric();
    let mut modules = cell.split("mod ").skip(1);
    READS.iter().any(|word| cell.contains(word))
        || modules.any(|rest| {
            rest.trim_start_matches(is_name)
                .trim_start()
                .starts_with(';')
        })
}

/// Folder of the compiled cells of a library, which is in `root`.
pub(super) fn folder(root: &Path) -> PathBuf {
    root.join("compiled")
}

/// A cell's crate that is to be compiled.
pub(super) struct Cell {
    pub(super) rustc: Command,
    /// The call that makes an object alone, and the object, where that may be [linked](super::link) from here.
    pub(super) object: Option<(Command, PathBuf)>,
    /// The call of rustc, without the session's own folder.
    pub(super) call: String,
    /// What it makes.
    pub(super) library: PathBuf,
}

impl Cell {
    /// Leaves out the optimiser, a third of the compiler's time, unless the user has said how much of it is wanted.
    pub(super) fn hurry(&mut self) {
        let usual = format!("opt-level={LEVEL}");
        if self.call.contains(&usual) {
            let object = self.object.iter_mut().map(|(rustc, _)| rustc);
            for rustc in object.chain([&mut self.rustc]) {
                rustc.args(["-C", "opt-level=0"]);
            }
        }
    }

    /// Compiles `text`, or takes what was made of it before; keeps what it makes in `folder`, where it may be kept.
    pub(super) fn make(
        self,
        text: &str,
        folder: Option<&Path>,
        link: Option<&Link>,
    ) -> io::Result<Output> {
        let kept = folder.map(|folder| folder.join(self.name(text)));
        if let Some(kept) = &kept
            && fs::copy(kept, &self.library).is_ok()
        {
            // The least recently used ones are those that go.
            let _ = File::open(kept).and_then(|file| file.set_modified(SystemTime::now()));
            return Ok(Output {
                status: ExitStatus::default(),
                stdout: Vec::new(),
                stderr: Vec::new(),
            });
        }
        let linked = match (self.object, link) {
            (Some((rustc, object)), Some(link)) => {
                let mut output = waiting::run(rustc)?;
                // What does not compile will not do so the other way; what was stopped is stopped.
                let linked = match output.status.success() {
                    true => link
                        .link(&object, &self.library)
                        .map(|status| output.status = status),
                    false => Ok(()),
                };
                linked.is_ok().then_some(output)
            }
            _ => None,
        };
        let output = match linked {
            Some(output) => output,
            None => waiting::run(self.rustc)?,
        };
        if let Some(kept) = kept
            && output.status.success()
        {
            // A cell that is not kept is compiled again.
            let _ = keep(&self.library, &kept);
        }
        Ok(output)
    }

    /// Name by which what is made of `text` is kept.
    fn name(&self, text: &str) -> String {
        let mut hash = Sha256::new();
        for part in [&self.call, &ordered(text)] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        let bytes = hash.finalize();
        let bytes = bytes.iter().take(16);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}

/// First words of the lines between which evcxr checks and takes the variables, and the line behind which it keeps them.
const BEFORE: [&str; 2] = [
    "pub extern \"C\" fn run_user_code_",
    "match std::panic::catch_unwind(",
];
const BEHIND: &str = "}}";

/// A cell's text with the lines in order by which evcxr checks, takes and keeps the variables: it goes through a `HashMap`, which has another
/// order in each session, and in any order they do the same. What was left out among them ([`super::text`]) leaves no trace; blank
/// lines elsewhere may be a part of a text.
fn ordered(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let from = |line: usize, begins: &str| {
        let rest = lines.iter().skip(line);
        rest.take_while(|line| !line.starts_with(begins)).count() + line
    };
    let begin = from(0, BEFORE[0]);
    let code = from(begin, BEFORE[1]);
    let behind = lines.iter().rposition(|line| *line == BEHIND);
    let behind = behind.unwrap_or(lines.len());
    let mut number = 0;
    lines.retain(|line| {
        let around = (begin..code).contains(&number) && code < behind || number > behind;
        number += 1;
        !around || !line.trim().is_empty()
    });
    let work = |line: &str| Work::of(line).map(|(work, _)| work);
    for run in lines.chunk_by_mut(|one, next| work(one).is_some() && work(one) == work(next)) {
        if run.first().is_some_and(|line| work(line).is_some()) {
            run.sort_unstable();
        }
    }
    lines.join("\n")
}

fn keep(library: &Path, kept: &Path) -> Option<()> {
    let folder = kept.parent()?;
    fs::create_dir_all(folder).ok()?;
    let new = kept.with_extension(std::process::id().to_string());
    fs::copy(library, &new).ok()?;
    fs::rename(new, kept).ok()
}

/// Removes the cells that were not used for longest, until the rest has at most [`MOST`] bytes.
pub(super) fn trim(folder: &Path) {
    let all = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<(SystemTime, u64, PathBuf)> = all
        .filter_map(|entry| {
            let facts = entry.metadata().ok()?;
            Some((facts.modified().ok()?, facts.len(), entry.path()))
        })
        .collect();
    all.sort();
    let mut left: u64 = all.iter().map(|(_, len, _)| len).sum();
    for (_, len, path) in all {
        if left <= MOST {
            return;
        }
        // Another session may remove it, too.
        let _ = fs::remove_file(path);
        left -= len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(folder: &Path, script: &str) -> Cell {
        let library = folder.join("libctx.so");
        let mut rustc = Command::new("sh");
        rustc.args(["-c", script]).current_dir(folder);
        Cell {
            rustc,
            object: None,
            call: "rustc".to_owned(),
            library,
        }
    }

    #[test]
    fn the_same_text_is_compiled_once() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("kept");
        let once = "echo x >> runs; echo made > libctx.so";
        for text in ["a", "a", "b", "a"] {
            let _ = fs::remove_file(folder.path().join("libctx.so"));
            cell(folder.path(), once)
                .make(text, Some(&kept), None)
                .unwrap();
            let made = fs::read_to_string(folder.path().join("libctx.so")).unwrap();
            assert_eq!(made, "made\n");
        }
        let runs = fs::read_to_string(folder.path().join("runs")).unwrap();
        assert_eq!(runs.lines().count(), 2);
        assert_eq!(fs::read_dir(&kept).unwrap().count(), 2);
    }

    #[test]
    fn the_order_of_variables_does_not_matter() {
        let lines = [
            "vars_ok &= evcxr_variable_store.check_variable::<i32>(stringify!(z));",
            "vars_ok &= evcxr_variable_store.check_variable::<u64>(stringify!(y));",
            "let z = evcxr_variable_store.take_variable::<i32>(stringify!(z));",
            "let y = evcxr_variable_store.take_variable::<u64>(stringify!(y));",
            "f(z); f(y);",
        ];
        let [a, b, c, d, e] = lines;
        let one = [a, b, c, d, e].join("\n");
        assert_eq!(ordered(&one), ordered(&[b, a, d, c, e].join("\n")));
        assert_ne!(ordered(&one), ordered(&[a, c, b, d, e].join("\n")));
        assert_ne!(ordered("g();\nf();"), ordered("f();\ng();"));
    }

    #[test]
    fn what_is_not_named_leaves_no_trace() {
        let cell = |old: [&str; 3], code: &str| {
            let each = |line: &str| old.map(|name| line.replace("NAME", name)).concat();
            let (check, take, put) = (
                each("vars_ok &= evcxr_variable_store.check_variable::<u64>(stringify!(NAME));\n"),
                each("let NAME = evcxr_variable_store.take_variable::<u64>(stringify!(NAME));\n"),
                each("evcxr_variable_store.put_variable::<u64>(stringify!(NAME), NAME);\n"),
            );
            let text = format!(
                "{}7(\n{check}{take}{}\n{code}\n}})) {{ \n  Err(_) => {{\n{BEHIND}\n{put}evcxr_variable_store\n}}\n",
                BEFORE[0], BEFORE[1]
            );
            ordered(&super::super::text::of_cell(&text))
        };
        let one = cell(["guest", "a", "long_name"], "a + 1");
        assert_eq!(one, cell(["other", "guest", "a"], "a + 1"));
        assert_ne!(one, cell(["guest", "a", "long_name"], "a + long_name"));
        // A blank line of a text is one.
        assert_ne!(
            cell(["guest", "a", "b"], "\"x\n\ny\""),
            cell(["guest", "a", "b"], "\"x\n \ny\"")
        );
    }

    #[test]
    fn what_fails_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("kept");
        cell(folder.path(), "echo half > libctx.so; false")
            .make("a", Some(&kept), None)
            .unwrap();
        assert!(!kept.exists());
    }
}
