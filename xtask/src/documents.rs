//! What the documents say of the tree, held against the tree.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::tree;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names `KLAB_..` in `text` that stand between two of `quote`.
fn variables(text: &str, quote: char) -> BTreeSet<String> {
    text.split(quote)
        .filter(|part| {
            part.strip_prefix("KLAB_").is_some_and(|rest| {
                !rest.is_empty() && rest.chars().all(|c| c.is_ascii_uppercase() || c == '_')
            })
        })
        .filter(|part| !part.ends_with('_'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_environment_variable_is_in_the_table() {
    let root = root();
    let table = variables(&read(&root.join("docs/environment.md")), '`');
    let mut used = BTreeSet::new();
    for path in tree::files(&root, &[".rs", ".py"]).unwrap() {
        used.append(&mut variables(&read(&path), '"'));
    }
    assert!(used.len() > 10, "{used:?}");
    let absent: Vec<_> = used.difference(&table).collect();
    assert!(absent.is_empty(), "not in docs/environment.md: {absent:?}");
    let unused: Vec<_> = table.difference(&used).collect();
    assert!(unused.is_empty(), "no program reads {unused:?}");
}

/// What is linked to in `text`: `[..](TARGET)`, without the place in the file.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://") && !target.contains(char::is_whitespace))
        .filter_map(|target| target.split('#').next())
        .filter(|target| !target.is_empty())
}

#[test]
fn every_link_of_a_document_leads_to_a_file() {
    let mut count = 0;
    for path in tree::files(&root(), &[".md"]).unwrap() {
        let folder = path.parent().unwrap();
        for link in links(&read(&path)) {
            count += 1;
            assert!(folder.join(link).exists(), "{}: {link}", path.display());
        }
    }
    assert!(count > 10, "{count} links");
}
