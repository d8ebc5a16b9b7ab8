//! The names in the text around a citation, which say what it is of.
//!
//! Prose names things in backticks: those between the citation and the one before it are looked at, else those further up
//! in the paragraph, else those behind. In a block of code the names are the words of the line; where a paragraph ends in a
//! colon, the first line of code after it is among what it names.

use super::Citation;

/// Words of C that name nothing.
const KEYWORDS: &[&str] = &[
    "bool", "char", "const", "define", "enum", "extern", "if", "inline", "int", "long", "return",
    "sizeof", "static", "struct", "type", "typedef", "union", "unsigned", "void",
];

/// A paragraph of prose, or a line of code.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// The lines with their numbers, without the marks of comments.
    lines: Vec<(usize, String)>,
    code: bool,
}

/// A part of a block's text, in order.
enum Part {
    Cites(usize, Citation),
    Name(String),
}

/// The blocks of a file: of Markdown, else of the comments of Rust, those that have their lines for themselves.
pub(super) fn blocks(text: &str, markdown: bool) -> Vec<Block> {
    let mut blocks = vec![Block::default()];
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let prose = match markdown {
            true => (!fenced).then_some(trimmed),
            false => comment(trimmed),
        };
        if markdown && trimmed.starts_with("```") {
            fenced = !fenced;
            blocks.push(Block::default());
            continue;
        }
        match prose {
            Some(prose) if !prose.trim().is_empty() => {
                let line = (index + 1, prose.to_owned());
                match blocks.last_mut() {
                    Some(last) if !last.code => last.lines.push(line),
                    _ => blocks.push(Block {
                        lines: vec![line],
                        code: false,
                    }),
                }
            }
            None if fenced => blocks.push(Block {
                lines: vec![(index + 1, trimmed.to_owned())],
                code: true,
            }),
            _ => blocks.push(Block::default()),
        }
    }
    blocks
}

fn comment(line: &str) -> Option<&str> {
    ["///", "//!", "//"]
        .iter()
        .find_map(|mark| line.strip_prefix(mark))
}

impl Block {
    /// The citations of all blocks, each with its line and with the names of what it is of.
    pub(super) fn citations(blocks: &[Self]) -> Vec<(usize, Citation, Vec<String>)> {
        let mut found = Vec::new();
        for (index, block) in blocks.iter().enumerate() {
            let mut after = blocks[index + 1..]
                .iter()
                .filter(|block| !block.lines.is_empty());
            let shown = match after.next() {
                Some(code) if block.announces() && code.code => code.names(),
                _ => Vec::new(),
            };
            found.extend(block.own().into_iter().map(|(line, citation, mut names)| {
                names.extend(shown.iter().cloned());
                (line, citation, names)
            }));
        }
        found
    }

    /// Tells whether what comes next is what it is about.
    fn announces(&self) -> bool {
        let last = self.lines.last();
        !self.code && last.is_some_and(|(_, line)| line.trim_end().ends_with(':'))
    }

    fn names(&self) -> Vec<String> {
        let name = |part| match part {
            Part::Name(name) => Some(name),
            Part::Cites(..) => None,
        };
        self.parts().into_iter().filter_map(name).collect()
    }

    fn own(&self) -> Vec<(usize, Citation, Vec<String>)> {
        let parts = self.parts();
        let mut found = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            if let Part::Cites(line, citation) = part {
                let before = nearest(parts[..at].iter().rev());
                let names = match before.is_empty() {
                    true => nearest(parts[at + 1..].iter()),
                    false => before,
                };
                found.push((*line, citation.clone(), names));
            }
        }
        found
    }

    /// The citations and the names of the block.
    fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut quoted = false;
        for (number, line) in &self.lines {
            for (index, piece) in line.split('`').enumerate() {
                quoted ^= index > 0;
                for word in piece.split(|c: char| c.is_whitespace() || "()[],;\"".contains(c)) {
                    let word = word.trim_end_matches(['.', ':']);
                    if let Some(citation) = Citation::parse(word) {
                        parts.push(Part::Cites(*number, citation));
                    } else if (quoted || self.code) && !word.starts_with('/') {
                        parts.extend(names(word).map(Part::Name));
                    }
                }
            }
        }
        parts
    }
}

/// The names up to the next citation; where there are none, those behind it.
fn nearest<'a>(parts: impl Iterator<Item = &'a Part>) -> Vec<String> {
    let mut found = Vec::new();
    for part in parts {
        match part {
            Part::Name(name) => found.push(name.clone()),
            Part::Cites(..) if found.is_empty() => {}
            Part::Cites(..) => break,
        }
    }
    found
}

/// The identifiers in a word.
fn names(word: &str) -> impl Iterator<Item = String> {
    word.split(|c| !is_of_a_name(c))
        .filter(|name| name.len() > 1 && !name.starts_with(|c: char| c.is_ascii_digit()))
        .filter(|name| !KEYWORDS.contains(name))
        // Kconfig has its names without this.
        .map(|name| name.strip_prefix("CONFIG_").unwrap_or(name).to_owned())
}

const fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Tells whether `line` has `name` as a word of its own.
pub(super) fn has_word(line: &str, name: &str) -> bool {
    line.split(|c| !is_of_a_name(c))
        .any(|word| word.strip_prefix("CONFIG_").unwrap_or(word) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, markdown: bool) -> Vec<(usize, String, Vec<String>)> {
        Block::citations(&blocks(text, markdown))
            .into_iter()
            .map(|(line, citation, names)| (line, citation.to_string(), names))
            .collect()
    }

    #[test]
    fn names_are_those_before_the_citation() {
        let text = "`tasks` of `init_task` (`init/a.c:5@v7.3.4`); a link\nin `struct task_struct` (`include/b.h:6@v7.3.4`, `include/c.h:7@v7.3.4`).";
        let all = found(text, true);
        let names: Vec<_> = all.iter().map(|(_, _, names)| names.join(" ")).collect();
        assert_eq!(names, ["init_task tasks", "task_struct", "task_struct"]);
        assert_eq!((all[1].0, &*all[1].1), (2, "include/b.h:6@v7.3.4"));
    }

    #[test]
    fn code_names_what_is_on_its_line() {
        let text = "Prose with `other`.\n\n```c\nint no;\nstruct list_head {   /* include/linux/types.h:206@v7.3.4 */\n```\n";
        assert_eq!(found(text, true)[0].2, ["list_head"]);
    }

    #[test]
    fn a_colon_names_what_follows() {
        let text =
            "`ip_rcv` ends so (`net/a.c:6@v7.3.4`):\n\n```c\nreturn NF_HOOK(pf);\nint no;\n```\n";
        assert_eq!(found(text, true)[0].2, ["ip_rcv", "NF_HOOK", "pf"]);
    }

    #[test]
    fn comments_of_rust_are_paragraphs() {
        let text = "/// The count (`CONFIG_X`,\n/// `mm/a.c:1@v6.1`).\nlet no = \"mm/b.c:2@v6.1\";\n// mm/c.c:3@v6.1: what is in `readers`.\n";
        let names: Vec<_> = found(text, false).into_iter().map(|one| one.2).collect();
        assert_eq!(names, [["X"], ["readers"]]);
    }
}
