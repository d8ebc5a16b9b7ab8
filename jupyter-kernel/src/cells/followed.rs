//! What a view leads to: an address that was clicked on, a slider that was moved.
//!
//! The front end's part (`labextension.js`) asks by a comm, beside the cells, and gets `{"error": ..}` where there is no answer.
//!
//! | message | answer |
//! |---|---|
//! | `{"what": ADDRESS, "cell": TEXT}` | what is there: `{"text": .., "html": ..}`; `source` says in what it was looked up |
//! | `{"seek": INSTRUCTION, "guest": NAME}` | `{"record": {..}}`, where the guest stands then ([`super::record`]), or `{"superseded": true}` |

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
    let moment = data.get("seek").and_then(Value::as_u64);
    let mut answer = if let (Some(moment), Some(guest)) = (moment, word("guest")) {
        views.seek(guest, moment, show)
    } else {
        match word("what").map(|address| (address, number(address))) {
            Some((_, Some(address))) => what(address, word("cell").unwrap_or_default()),
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

fn what(address: u64, cell: &str) -> Map<String, Value> {
    let source = source(cell);
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

/// The words by which the command of a cell names what it looks into; none where it looks into the guest of all cells.
pub(super) fn source(cell: &str) -> Vec<String> {
    let commands = Parts::of(cell).commands;
    let line = commands.last().map_or("", |(line, _)| line);
    let mut words = shlex::split(line).unwrap_or_default().into_iter();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let name = word.split('=').next().unwrap_or_default();
        if SOURCES.contains(&name) {
            let takes_next = name == word;
            found.push(word);
            found.extend(takes_next.then(|| words.next()).flatten());
        }
    }
    found
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
            ("%ps", &[][..]),
            ("guest.tasks()?", &[]),
            ("%ps --guest b", &["--guest", "b"]),
            ("%slab --core=/tmp/d | head", &["--core=/tmp/d"]),
            ("%slab --core '/tmp/a b'", &["--core", "/tmp/a b"]),
            ("%log --guest b\n%ps --snapshot s", &["--snapshot", "s"]),
        ] {
            assert_eq!(source(cell), wanted, "{cell}");
        }
    }
}
