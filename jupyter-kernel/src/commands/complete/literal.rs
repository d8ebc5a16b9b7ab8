//! C in the strings of Rust: `guest.eval("init_task.")`, `guest.type_of("task_")`, `#[mirror(c = "struct ")]`.

use probes::Guest;
use probes::memory::GuestVirt;
use probes::object::Object;
use probes::readers::{Kind, READERS, Reader};

use super::{Completed, behind, expression, listed, types};

/// Methods that take a symbol or an expression, besides the readers.
const NAMES: [&str; 13] = [
    "object",
    "symbol",
    "place",
    "watch",
    "breakpoint",
    "break_at",
    "who_writes",
    "last_write",
    "history",
    "set",
    "set_c",
    "call",
    "call_c",
];

/// Kind of completion that a string asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    /// The argument of a reader's method, by its place.
    Argument(&'static str, usize),
    /// A symbol, or an expression.
    Expression,
    /// A type, with its `struct`.
    Type,
    /// A member of what is written before it.
    Member(&'a str),
    /// A member of the type of this name.
    MemberOf(&'a str),
}

/// Kind of completion of the string that begins behind `before`; `None` if it is none of the kernel's.
pub(super) fn asked(before: &str) -> Option<Asked<'_>> {
    let before = before.trim_end();
    if let Some(name) = before.strip_suffix('=') {
        let attribute = &before[before.rfind("#[mirror(")?..];
        if attribute.contains(']') {
            return None;
        }
        return match last_name(name) {
            "c" => Some(Asked::Type),
            "member" | "or" => Some(Asked::MemberOf(mirrored(before)?)),
            _ => None,
        };
    }
    let (call, nth) = call(before)?;
    let method = last_name(call);
    let receiver = call.strip_suffix(method)?.trim_end();
    if method == "Some" && nth == 0 {
        return asked(receiver);
    }
    let receiver = receiver.strip_suffix('.')?;
    let reader = READERS.iter().find(|reader| {
        let text = |kind| kind == Kind::Text;
        reader.method == method && reader.parameters.get(nth).is_some_and(|one| text(one.kind))
    });
    match method {
        "member" => Some(Asked::Member(receiver)),
        "at" if nth == 0 => Some(Asked::Type),
        _ if NAMES.contains(&method) && nth == 0 => Some(Asked::Expression),
        _ => reader.map(|reader| Asked::Argument(reader.method, nth)),
    }
}

/// Completes the beginning of such a string.
pub(super) fn complete(asked: &Asked<'_>, begun: &str, guest: &Guest) -> Completed {
    let start = behind(begun, char::is_whitespace);
    let member = |object: Option<Object>| {
        let names = object.and_then(|object| object.member_names().ok());
        let names = names.into_iter().flatten();
        let names = names.filter(|name| name.starts_with(&begun[start..]));
        Completed {
            start,
            matches: names.map(|name| (name, "member".to_owned())).collect(),
        }
    };
    match *asked {
        Asked::Expression => expression(guest, begun, start),
        Asked::Type => Completed {
            start,
            matches: named(guest, begun, start),
        },
        Asked::Member(of) => member(object(guest, of, of)),
        Asked::MemberOf(ty) => member(guest.at(ty, GuestVirt(0)).ok()),
        Asked::Argument(method, nth) => {
            let reader = READERS.iter().find(|reader| reader.method == method);
            let found = reader.and_then(|reader| argument(guest, reader, nth, begun, start));
            found.unwrap_or_default()
        }
    }
}

fn argument(
    guest: &Guest,
    reader: &'static Reader,
    nth: usize,
    begun: &str,
    start: usize,
) -> Option<Completed> {
    let parameter = reader.parameters.get(nth)?;
    if parameter.name != "of" {
        return Some(super::values(guest, reader, parameter, begun, start));
    }
    // TYPE.MEMBER
    let Some((ty, member)) = begun.split_once('.') else {
        return Some(Completed {
            start,
            matches: types(guest, &begun[start..]),
        });
    };
    let object = guest.at(&format!("struct {ty}"), GuestVirt(0)).ok()?;
    let mut names = object.member_names().ok()?;
    names.retain(|name| name.starts_with(member));
    Some(Completed {
        start: begun.len() - member.len(),
        matches: listed(names, "member"),
    })
}

/// Types with the word that C wants before them, unless it is there already.
fn named(guest: &Guest, begun: &str, start: usize) -> Vec<(String, String)> {
    let found = types(guest, &begun[start..]);
    let has = |word: &str| begun[..start].split_whitespace().any(|one| one == word);
    if ["struct", "union", "enum"].into_iter().any(has) {
        return found;
    }
    let spelled = |(name, kind): (String, String)| {
        let words = ["", "struct ", "union ", "enum "];
        let full = words.map(|word| format!("{word}{name}"));
        let exists = |full: &String| guest.at(full, GuestVirt(0)).is_ok();
        full.into_iter().find(exists).map(|full| (full, kind))
    };
    found
        .into_iter()
        .take(super::MOST)
        .filter_map(spelled)
        .collect()
}

/// The object that an expression of Rust gives, if its C can be read off: calls on the guest, and members of their
/// values. A variable has the value that the `let` in `code` gives it.
fn object(guest: &Guest, rust: &str, code: &str) -> Option<Object> {
    let rust = rust.trim().trim_end_matches('?').trim_end();
    let Some(inner) = rust.strip_suffix(')') else {
        let name = last_name(rust);
        let begin = code.rfind(&format!("let {name} = "))?;
        let made = code[begin..].split_once('=')?.1;
        let made = made.split_once(';')?.0;
        // The code before it may have made its own variables.
        return object(guest, made, &code[..begin]);
    };
    let (call, nth) = call(inner)?;
    let method = last_name(call);
    let receiver = call.strip_suffix(method)?.trim_end().strip_suffix('.')?;
    let argument = inner[call.len()..].trim_start().strip_prefix('(')?;
    let text = || argument.trim().strip_prefix('"')?.strip_suffix('"');
    match method {
        "eval" | "object" if nth == 0 => guest.eval(text()?).ok(),
        "find_task" if nth == 0 => guest.find_task(argument.trim().parse().ok()?).ok(),
        "at" => {
            let ty = argument.trim().strip_prefix('"')?.split_once('"')?.0;
            guest.at(ty, GuestVirt(0)).ok()
        }
        "member" => object(guest, receiver, code)?.member(text()?).ok(),
        "deref" => object(guest, receiver, code)?.deref().ok(),
        _ => None,
    }
}

/// The type that the last `#[mirror(c = "..")]` names.
fn mirrored(before: &str) -> Option<&str> {
    let rest = &before[before.rfind("(c = \"")? + "(c = \"".len()..];
    Some(rest.split_once('"')?.0)
}

/// The call in whose arguments the text ends: the text before its bracket, and the number of whole arguments.
fn call(before: &str) -> Option<(&str, usize)> {
    let (mut depth, mut nth, mut quoted) = (0_usize, 0, false);
    for (at, c) in before.char_indices().rev() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => {}
            ')' | ']' | '}' => depth += 1,
            '(' if depth == 0 => return Some((before[..at].trim_end(), nth)),
            '(' | '[' | '{' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => nth += 1,
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The name at the end of the text.
fn last_name(text: &str) -> &str {
    let text = text.trim_end();
    &text[behind(text, |c| !c.is_alphanumeric() && c != '_')..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_asked_for_by_what_it_is_given_to() {
        let task = "#[derive(Mirror)]\n#[mirror(c = \"struct task_struct\")]\nstruct T { #[mirror(member = ";
        for (before, wanted) in [
            ("guest.eval(", Some(Asked::Argument("eval", 0))),
            (
                "let a = guest . type_of( ",
                Some(Asked::Argument("type_of", 0)),
            ),
            (
                "guest.list(\"modules\", Some(",
                Some(Asked::Argument("list", 1)),
            ),
            ("guest.module(", Some(Asked::Argument("module", 0))),
            ("guest.symbol(", Some(Asked::Expression)),
            ("guest.at(", Some(Asked::Type)),
            ("f(guest.object(", Some(Asked::Expression)),
            ("t.member(", Some(Asked::Member("t"))),
            (
                "guest.eval(\"a(\")?.member(",
                Some(Asked::Member("guest.eval(\"a(\")?")),
            ),
            ("#[mirror(c = ", Some(Asked::Type)),
            (task, Some(Asked::MemberOf("struct task_struct"))),
            ("println!(", None),
            ("eval(", None),
            ("guest.symbol(x, ", None),
            ("let s = ", None),
            ("#[doc = ", None),
            ("서울(", None),
            (")(", None),
            ("", None),
        ] {
            assert_eq!(asked(before), wanted, "{before}");
        }
    }
}
