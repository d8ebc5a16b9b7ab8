//! BTF: the layout of every structure and union, against what `pahole` reads from the same bytes.

use std::collections::HashMap;
use std::process::Command;

use probes::kernel::btf::{Btf, Declaration, Kind};
use probes::memory::GuestVirt;

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_those_of_pahole);

/// A member: its name, its first bit, its bits when it is a bit field, its size (of a bit field: of its type).
type Member = (String, u64, Option<u64>, u64);

/// Layout of a structure or union: its members in order, those of nested ones before the nested one itself, and
/// its size, which `pahole` does not say of a union.
#[derive(Debug, Default)]
struct Layout {
    members: Vec<Member>,
    size: Option<u64>,
}

impl Layout {
    fn is(&self, said: &Self) -> bool {
        self.members == said.members && (self.size == said.size || said.size.is_none())
    }
}

pub(crate) fn are_those_of_pahole(kernel: &str) {
    let ground = Ground::bare(kernel, 512 << 20);
    let found = ground.guest.kernel().unwrap();
    let (start, stop) = (
        found.symbol("__start_BTF").unwrap(),
        found.symbol("__stop_BTF").unwrap(),
    );
    let mut bytes = vec![0; (stop.0 - start.0) as usize];
    found.read(GuestVirt(start.0), &mut bytes).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let output = Command::new("pahole")
        .args(["-F", "btf"])
        .arg(file.path())
        .output();
    let output = output.expect("this test needs pahole: apt install pahole");
    let text = String::from_utf8_lossy(&output.stdout);

    let btf = found.btf().unwrap();
    let mut ledger = Ledger::new(format!("types on {kernel}"));
    let mut seen: HashMap<(Kind, String), Vec<Layout>> = HashMap::new();
    for (kind, name, said) in of_pahole(&text) {
        let ours = seen
            .entry((kind, name.clone()))
            .or_insert_with(|| of_btf(btf, kind, &name));
        // Several may share a name; one of them it must be.
        let members = said.members.len();
        match ours.iter().find(|ours| ours.is(&said)) {
            Some(_) => {
                ledger.same(&name, "type", &true, &true);
                for _ in 0..members {
                    ledger.same(&name, "member", &true, &true);
                }
            }
            None => ledger.fault(difference(&name, ours, &said)),
        }
    }
    ledger.end(&[("type", 5000), ("member", 50_000)]);
}

fn difference(name: &str, ours: &[Layout], said: &Layout) -> String {
    let Some(ours) = ours.first() else {
        return format!("{name} is not in BTF as it is read");
    };
    let differ = ours.members.iter().zip(&said.members).find(|(a, b)| a != b);
    format!(
        "{name}: {} members and {:?} bytes, pahole has {} and {:?}; the first that differs: {differ:?}",
        ours.members.len(),
        ours.size,
        said.members.len(),
        said.size
    )
}

fn of_btf(btf: &Btf, kind: Kind, name: &str) -> Vec<Layout> {
    let named = btf.named(name).filter(|ty| ty.kind == kind);
    named
        .map(|ty| of_declaration(&btf.declaration(ty.id).unwrap()))
        .collect()
}

fn of_declaration(declaration: &Declaration) -> Layout {
    let members = declaration.lines.iter().filter_map(|line| {
        let place = line.place?;
        let (bit, width) = place.bits.unwrap_or((0, 0));
        Some((
            member_name(&line.text),
            place.offset * 8 + u64::from(bit),
            place.bits.map(|_| u64::from(width)),
            place.size,
        ))
    });
    Layout {
        members: members.collect(),
        size: declaration.size,
    }
}

/// The structures and unions that `pahole` printed.
fn of_pahole(text: &str) -> Vec<(Kind, String, Layout)> {
    let mut all = Vec::new();
    let mut now: Option<(Kind, String, Layout)> = None;
    // Number of members before each body that is open.
    let mut open = Vec::new();
    for line in text.lines() {
        if let Some(head) = line
            .strip_suffix(" {")
            .filter(|line| !line.starts_with('\t'))
        {
            now = match head.split_once(' ') {
                Some(("struct", name)) => Some((Kind::Struct, name.to_owned(), Layout::default())),
                Some(("union", name)) => Some((Kind::Union, name.to_owned(), Layout::default())),
                _ => None,
            };
        }
        let Some((_, _, layout)) = &mut now else {
            continue;
        };
        if let Some(rest) = line.trim().strip_prefix("/* size: ") {
            let size = rest.split(',').next().unwrap();
            layout.size = Some(size.trim_end_matches(" */").parse().unwrap());
        } else if line.starts_with('}') {
            all.extend(now.take());
        } else if let Some((member, place)) = line.rsplit_once("/*") {
            let before = if member.trim_start().starts_with('}') {
                open.pop()
            } else {
                None
            };
            // The target of a pointer lies elsewhere.
            if let (Some(before), true) = (before, member.contains('*')) {
                layout.members.truncate(before);
            }
            layout.members.extend(placed(member, place));
        } else if line.starts_with('\t') && line.ends_with('{') {
            open.push(layout.members.len());
        }
    }
    all
}

/// A line's member, if its comment is an offset and a size: `24     8 */`, or `24: 3  4 */` for a bit field.
fn placed(member: &str, place: &str) -> Option<Member> {
    let place = place.strip_suffix("*/")?.replace(':', " : ");
    let words: Vec<&str> = place.split_whitespace().collect();
    let number = |word: &str| word.parse::<u64>().ok();
    let member = &without_attributes(member);
    match words[..] {
        [offset, size] => Some((
            member_name(member),
            number(offset)? * 8,
            None,
            number(size)?,
        )),
        [offset, ":", bit, size] => {
            let width = member.trim_end_matches(';').rsplit_once(':')?.1;
            let first = number(offset)? * 8 + number(bit)?;
            Some((
                member_name(member),
                first,
                Some(number(width)?),
                number(size)?,
            ))
        }
        _ => None,
    }
}

/// `} __attribute__((__aligned__(64))) removed;` declares `removed`.
fn without_attributes(member: &str) -> String {
    let mut plain = String::new();
    let mut rest = member;
    while let Some((before, after)) = rest.split_once("__attribute__((") {
        plain += before.trim_end();
        plain.push(' ');
        let mut open = 2;
        let end = after.find(|c| {
            open += i32::from(c == '(') - i32::from(c == ')');
            open == 0
        });
        rest = &after[end.unwrap() + 1..];
    }
    (plain + rest.trim_start()).trim().replace(" ;", ";")
}

/// The name in a declaration: `int (*fn)(void *)` declares `fn`, `char comm[16];` declares `comm`, `};` nothing.
fn member_name(text: &str) -> String {
    let text = text.trim().trim_end_matches(';');
    let text = text.strip_prefix('}').unwrap_or(text);
    let text = match text.split_once("(*") {
        Some((_, name)) => name.split([')', '[', '(']).next().unwrap(),
        None => text.split(['[', ':']).next().unwrap(),
    };
    let name = text.trim_end().rsplit([' ', '*']).next().unwrap();
    name.to_owned()
}
