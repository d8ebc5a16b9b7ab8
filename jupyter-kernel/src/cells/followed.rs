//! What a view leads to: an address that was clicked on, a slider that was moved.
//!
//! The front end's part (`labextension.js`) asks by a comm, beside the cells, and gets `{"error": ..}` where there is no answer.
//!
//! | message | answer |
//! |---|---|
//! | `{"what": ADDRESS, "cell": TEXT}` | what is there: `{"text": .., "html": ..}`; `source` says in what it was looked up |
//! | `{"record": GUEST, "seek": INSTRUCTION}` | `{"record": {..}}`, where the guest stands then ([`super::record`]); without `seek` it stays there |

use std::sync::Arc;

use klab_protocol::{Bundle, Sink, Stop};
use serde_json::{Map, Value};

use super::line::{self, Parts};
use super::record::Views;
use crate::commands;

/// Target of the comms.
pub(super) const TARGET: &str = "klab";
/// Options by which a command names what it looks into.
const SOURCES: [&str; 4] = ["--guest", "--core", "--snapshot", "--kernel-at"];

/// Answers one message.
pub(super) fn answer(data: &Map<String, Value>, views: &Views, show: &Sink) -> Map<String, Value> {
    let word = |name: &str| data.get(name).and_then(Value::as_str);
    let mut answer = if let Some(guest) = word("record") {
        views.seek(guest, data.get("seek").and_then(Value::as_u64), show)
    } else {
        match word("what").map(|address| (address, number(address))) {
            Some((_, Some(address))) => what(address, word("cell")),
            Some((address, None)) => error(format!("`{address}` is no address")),
            None => error("the message asks for nothing that is known".to_owned()),
        }
    };
    if let Some(id) = data.get("id") {
        answer.insert("id".to_owned(), id.clone());
    }
    answer
}

/// The number that 1 to 16 hexadecimal digits stand for, with or without `0x`.
fn number(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let is_number = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| is_number)
}

fn what(address: u64, cell: Option<&str>) -> Map<String, Value> {
    let Some(source) = cell.and_then(source_of_all) else {
        return error(format!(
            "it is not known which guest this view is of; the cell may have changed since: `%what {address:#x} --guest NAME` says what is there"
        ));
    };
    let Ok(options) = shlex::try_join(source.iter().map(String::as_str)) else {
        return error("the cell names a file with a zero byte".to_owned());
    };
    let line = format!("%what {address:#x} {options}");
    let nowhere: Sink = Arc::new(|_| {});
    let mut answer = match line::run(&line, "", &Stop::default(), &nowhere) {
        Ok(data) => shown(data),
        Err(failed) => error(failed.evalue),
    };
    let source = match source.is_empty() {
        true => format!("--guest {}", commands::default_guest()),
        false => options,
    };
    answer.insert("source".to_owned(), source.into());
    answer
}

/// Words of Rust by which a cell may look into something else than the guest of all cells.
const OTHERS: [&str; 5] = ["attach", "Guest", "in_snapshot", "fork", "open"];

/// The words by which all commands of a cell name what they look into, none for the guest of all cells; `None` if that is not one thing, or is not known.
fn source_of_all(cell: &str) -> Option<Vec<String>> {
    let Parts { commands, rust } = Parts::of(cell);
    let rust = rust.unwrap_or_default();
    if OTHERS.iter().any(|word| rust.contains(word)) {
        return None;
    }
    let of_rust = (!rust.trim().is_empty()).then(Vec::new);
    let lines = commands.iter().map(|(line, _)| source(line));
    let mut all = lines.chain(of_rust.map(Some));
    let first = all.next().unwrap_or_else(|| Some(Vec::new()))?;
    all.all(|next| next.as_ref() == Some(&first))
        .then_some(first)
}

/// The words by which a command names what it looks into; `None` if they cannot be told.
pub(super) fn source(line: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut words = shlex::split(line).map(Vec::into_iter);
    if words.is_none() && SOURCES.iter().any(|option| line.contains(option)) {
        return None;
    }
    while let Some(word) = words.as_mut().and_then(Iterator::next) {
        let name = word.split('=').next().unwrap_or_default();
        if SOURCES.contains(&name) {
            let takes_next = name == word;
            found.push(word);
            let next = || words.as_mut().and_then(Iterator::next);
            found.extend(takes_next.then(next).flatten());
        }
    }
    Some(found)
}

fn shown(mut data: Bundle) -> Map<String, Value> {
    let forms = [
        ("text", "text/plain"),
        ("html", "text/html"),
        ("html", "image/svg+xml"),
    ];
    let forms = forms.into_iter();
    forms
        .filter_map(|(name, mime)| Some((name.to_owned(), data.remove(mime)?)))
        .collect()
}

fn error(sentence: String) -> Map<String, Value> {
    Map::from_iter([("error".to_owned(), sentence.into())])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_number_is_looked_up() {
        for (text, wanted) in [
            ("0xffff888003a4c000", Some(0xffff_8880_03a4_c000)),
            ("ffffffff81000000", Some(0xffff_ffff_8100_0000)),
            ("0x", None),
            ("+1", None),
            ("1 --core /dev/mem", None),
            ("0x1ffff888003a4c000", None),
        ] {
            assert_eq!(number(text), wanted, "{text}");
        }
        let nowhere: Sink = Arc::new(|_| {});
        let asked = json!({"what": "x; y", "id": 3});
        let answered = answer(asked.as_object().unwrap(), &Views::default(), &nowhere);
        assert_eq!(answered["id"], 3);
        assert!(answered["error"].as_str().unwrap().contains("`x; y`"));
    }

    #[test]
    fn it_is_looked_up_where_the_view_came_from() {
        for (cell, wanted) in [
            ("%ps", Some(&[][..])),
            ("guest.tasks()?", Some(&[])),
            ("%p a == '\\''", Some(&[])),
            ("%ps --guest b", Some(&["--guest", "b"])),
            ("%slab --core=/tmp/d | head", Some(&["--core=/tmp/d"])),
            ("%slab --core '/tmp/a b'", Some(&["--core", "/tmp/a b"])),
            ("%log --guest b\n%ps --guest b", Some(&["--guest", "b"])),
            // Two, or one that is not known.
            ("%log --guest b\n%ps", None),
            ("%ps --guest b\nguest.tasks()?", None),
            ("%p c == '\\'' --guest b", None),
            ("Guest::attach(\"b\")?.tasks()?", None),
        ] {
            let wanted: Option<Vec<String>> =
                wanted.map(|words| words.iter().map(|word| (*word).to_owned()).collect());
            assert_eq!(source_of_all(cell), wanted, "{cell}");
        }
        assert!(what(1, None).contains_key("error"));
    }
}
