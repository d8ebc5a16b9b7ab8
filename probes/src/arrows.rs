//! The rooms of `probes/memory/src` and `probes/src`, and which may use which: ARCHITECTURE.md has the order, the sources must keep it.
//!
//! Only paths are read: those that begin with `crate` or `super`, in imports, in code and in macros, tests included. Calls
//! of methods name no room and are not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The crates with rooms, the ground first: it is a crate of its own, so that cargo too keeps it from what stands on it.
const ROOTS: [&str; 2] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/memory/src"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/src"),
];

/// The path of a module or of what is in it, from the crate's root.
type Names = Vec<String>;

/// The rooms in their order: the first word of each line of the block that begins with "```rooms".
fn order() -> Vec<&'static str> {
    let text = include_str!("../../ARCHITECTURE.md");
    let block = text
        .split("```rooms\n")
        .nth(1)
        .expect("a block of rooms in ARCHITECTURE.md");
    let block = block.split("```").next().unwrap_or_default();
    let lines = block.lines().filter(|line| !line.starts_with(' '));
    lines
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

/// One source file.
struct Source {
    path: PathBuf,
    /// As people name it: `mm/page/folio.rs`.
    file: String,
    module: Names,
    tokens: TokenStream,
}

impl Source {
    fn read(root: &str, path: &Path) -> Self {
        let file = path.strip_prefix(root).unwrap().display().to_string();
        let mut module: Names = file
            .trim_end_matches(".rs")
            .split('/')
            .map(str::to_owned)
            .collect();
        module.pop_if(|last| last == "mod" || last == "lib");
        let text = fs::read_to_string(path).unwrap();
        let tokens = text
            .parse()
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        Self {
            path: path.to_owned(),
            file,
            module,
            tokens,
        }
    }

    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for root in ROOTS {
            let mut folders = vec![PathBuf::from(root)];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_dir() {
                        folders.push(path);
                    } else if path.extension().is_some_and(|end| end == "rs") {
                        all.push(Self::read(root, &path));
                    }
                }
            }
        }
        all.sort_by(|a, b| a.file.cmp(&b.file));
        all
    }

    /// All paths in it that begin with `crate` or `super`.
    fn paths(&self) -> Vec<Names> {
        let mut paths = Vec::new();
        find(&self.module, self.tokens.clone(), &mut paths);
        paths
    }
}

/// The paths in some tokens of a module.
fn find(module: &[String], tokens: TokenStream, paths: &mut Vec<Names>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut inner = None;
    for (i, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(word) if *word == "mod" => {
                inner = tokens.get(i + 1).map(ToString::to_string);
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => inner = None,
            TokenTree::Ident(word) if *word == "crate" => follow(&[], &tokens[i + 1..], paths),
            TokenTree::Ident(word) if *word == "super" && !after_colons(&tokens[..i]) => {
                let mut at = module;
                let mut rest = &tokens[i..];
                while let [TokenTree::Ident(word), further @ ..] = rest
                    && *word == "super"
                {
                    at = &at[..at.len().saturating_sub(1)];
                    rest = further;
                    if let Some(further) = behind_colons(rest)
                        && matches!(further, [TokenTree::Ident(word), ..] if *word == "super")
                    {
                        rest = further;
                    }
                }
                follow(at, rest, paths);
            }
            TokenTree::Group(group) => {
                let mut here = module.to_vec();
                if group.delimiter() == Delimiter::Brace {
                    here.extend(inner.take());
                }
                find(&here, group.stream(), paths);
            }
            _ => {}
        }
    }
}

fn after_colons(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [.., TokenTree::Punct(a), TokenTree::Punct(b)] if a.as_char() == ':' && b.as_char() == ':')
}

fn behind_colons(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    match tokens {
        [TokenTree::Punct(a), TokenTree::Punct(b), rest @ ..]
            if a.as_char() == ':' && b.as_char() == ':' =>
        {
            Some(rest)
        }
        _ => None,
    }
}

/// The paths that go on from `from`: one, or those of a group in braces.
fn follow(from: &[String], mut tokens: &[TokenTree], paths: &mut Vec<Names>) {
    let mut path = from.to_vec();
    while let Some(rest) = behind_colons(tokens) {
        match rest {
            [TokenTree::Ident(name), further @ ..] => {
                path.push(name.to_string());
                tokens = further;
            }
            [TokenTree::Group(group), ..] => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for tree in inner.split(|token| token.to_string() == ",") {
                    if let [TokenTree::Ident(name), rest @ ..] = tree {
                        let mut path = path.clone();
                        path.extend(Some(name.to_string()).filter(|name| name != "self"));
                        follow(&path, rest, paths);
                    }
                }
                return;
            }
            _ => break,
        }
    }
    if path.len() > from.len() || !from.is_empty() {
        paths.push(path);
    }
}

/// Names that each lib.rs re-exports of its own rooms, by the name that it gives. `probes` has those of `klab_memory` by the
/// same names.
fn exports(sources: &[Source]) -> BTreeMap<String, Names> {
    let libs = sources.iter().filter(|source| source.module.is_empty());
    let tokens: Vec<TokenTree> = libs.flat_map(|lib| lib.tokens.clone()).collect();
    let mut paths = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        if token.to_string() == "use" {
            match &tokens[i + 1..] {
                [TokenTree::Ident(first), rest @ ..] if *first == "crate" => {
                    follow(&[], rest, &mut paths);
                }
                [TokenTree::Ident(first), rest @ ..] => {
                    follow(&[first.to_string()], rest, &mut paths);
                }
                _ => {}
            }
        }
    }
    paths.retain(|path: &Names| path.first().is_some_and(|first| first != "klab_memory"));
    let named = |path: Names| Some((path.last()?.clone(), path));
    paths.into_iter().filter_map(named).collect()
}

/// The macros of all files, which the crate's root has too.
fn macros(sources: &[Source]) -> BTreeMap<String, Names> {
    let mut names = BTreeMap::new();
    for source in sources {
        let tokens: Vec<TokenTree> = source.tokens.clone().into_iter().collect();
        for (i, token) in tokens.iter().enumerate() {
            if token.to_string() == "macro_rules"
                && let [_, _, name, ..] = &tokens[i..]
            {
                names.insert(name.to_string(), source.module.clone());
            }
        }
    }
    names
}

/// Each use of something in another place, as the file that uses it, its module, and what is used.
fn uses(sources: &[Source]) -> Vec<(&Source, Names)> {
    let (mut root, rooms) = (macros(sources), order());
    root.append(&mut exports(sources));
    let mut all = Vec::new();
    for source in sources.iter().filter(|source| !source.module.is_empty()) {
        for path in source.paths() {
            let Some(first) = path.first() else { continue };
            let full = match root.get(first) {
                Some(real) if !rooms.contains(&first.as_str()) => {
                    [real.as_slice(), &path[1..]].concat()
                }
                _ => path,
            };
            all.push((source, full));
        }
    }
    all
}

#[test]
fn every_module_is_in_a_declared_room_and_every_room_is_there() {
    let declared = order();
    let mut there = Vec::new();
    for root in ROOTS {
        let mut rooms: Vec<usize> = Vec::new();
        for entry in fs::read_dir(root).unwrap() {
            let name = entry.unwrap().file_name();
            let name = name.to_string_lossy().trim_end_matches(".rs").to_owned();
            if ["lib", "arrows"].contains(&name.as_str()) {
                continue;
            }
            let place = declared.iter().position(|room| *room == name);
            rooms
                .push(place.unwrap_or_else(|| panic!("{root}/{name}: no room of ARCHITECTURE.md")));
        }
        rooms.sort_unstable();
        there.append(&mut rooms);
    }
    // In this order: each room is there once, and those of the first crate come first.
    let all: Vec<usize> = (0..declared.len()).collect();
    assert_eq!(there, all, "the sources, and the rooms of ARCHITECTURE.md");
}

#[test]
fn no_room_uses_a_room_that_is_declared_after_it() {
    let (sources, rooms) = (Source::all(), order());
    let place = |name: &str| rooms.iter().position(|room| *room == name);
    let mut wrong = BTreeSet::new();
    let mut right = 0;
    for (source, path) in uses(&sources) {
        let (from, to) = (&source.module[0], &path[0]);
        match (place(from), place(to)) {
            (Some(here), Some(there)) if there <= here => right += usize::from(there < here),
            _ => {
                let path = path.join("::");
                wrong.insert(format!("{}: `{from}` uses {path}", source.file));
            }
        }
    }
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "against the order:\n{}", wrong.join("\n"));
    assert!(right > 1000, "only {right} paths lead to another room");
}

/// The modules that lib.rs re-exports out of a room (`mm::slab`) are units: the rest of a room is one more.
#[test]
fn no_modules_of_a_room_use_each_other_in_a_circle() {
    let sources = Source::all();
    let units: BTreeSet<Names> = exports(&sources).into_values().collect();
    let unit = |path: &[String]| {
        let pair = path.get(..2).filter(|pair| units.contains(*pair));
        pair.unwrap_or(&path[..1]).join("::")
    };
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (source, path) in uses(&sources) {
        let (from, to) = (unit(&source.module), unit(&path));
        if source.module[0] == path[0] && from != to {
            arrows.entry(from).or_default().insert(to);
        }
    }
    assert!(arrows.len() > 5, "hardly any arrow was found: {arrows:?}");
    // A module that uses nothing that is left is no part of a circle.
    loop {
        let left: BTreeSet<String> = arrows.keys().cloned().collect();
        arrows
            .values_mut()
            .for_each(|to| to.retain(|to| left.contains(to)));
        let before = arrows.len();
        arrows.retain(|_, to| !to.is_empty());
        if arrows.len() == before {
            break;
        }
    }
    assert!(arrows.is_empty(), "circles: {arrows:#?}");
}

#[test]
fn a_view_stands_beside_its_reader_in_a_file_of_its_own() {
    for source in Source::all() {
        let of_view = source.module.iter().any(|name| name == "view");
        let text = fs::read_to_string(&source.path).unwrap();
        assert!(
            of_view
                || !["\nimpl View for", "\nimpl ListView for"]
                    .iter()
                    .any(|line| text.contains(line)),
            "{}: a view, and not in a `view`",
            source.file
        );
    }
}
