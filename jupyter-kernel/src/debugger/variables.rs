//! Values that unfold: arguments, registers, and what they lead to.

use probes::Result;
use probes::debug::Stopped;
use probes::object::{Limits, Object, Value as Read};
use serde_json::{Value, json};
use vm::Registers;

/// How much of a value is read to show it in one line.
const LINE: Limits = Limits {
    depth: 2,
    elements: 8,
    values: 24,
    string: 128,
};
/// Letters of that line.
const WIDTH: usize = 120;
/// Elements of an array that are shown.
const ELEMENTS: i64 = 256;

/// What unfolds, by the numbers that the front end has for it. They hold until the guest goes on.
#[derive(Debug, Default)]
pub(super) struct Variables {
    held: Vec<Holder>,
    /// True if their types are told.
    typed: bool,
}

#[derive(Debug, Clone)]
enum Holder {
    Named(Vec<(String, Result<Object>)>),
    Registers(Box<Registers>),
    Object(Object),
}

impl Variables {
    pub(super) const fn new(typed: bool) -> Self {
        Self {
            held: Vec::new(),
            typed,
        }
    }

    /// A number for values with names.
    pub(super) fn named(&mut self, values: Vec<(String, Result<Object>)>) -> usize {
        self.hold(Holder::Named(values))
    }

    /// A number for a CPU's registers.
    pub(super) fn registers(&mut self, stopped: &Stopped) -> usize {
        self.hold(Holder::Registers(Box::new(*stopped.registers())))
    }

    /// Numbers begin with 1: 0 unfolds to nothing.
    fn hold(&mut self, holder: Holder) -> usize {
        self.held.push(holder);
        self.held.len()
    }

    /// The values of a number.
    pub(super) fn unfold(&mut self, number: usize) -> Vec<Value> {
        let holder = number
            .checked_sub(1)
            .and_then(|at| self.held.get(at))
            .cloned();
        match holder {
            Some(Holder::Named(values)) => values
                .into_iter()
                .map(|(name, object)| self.shown(&name, object))
                .collect(),
            Some(Holder::Registers(registers)) => of_registers(&registers),
            Some(Holder::Object(object)) => children(&object)
                .into_iter()
                .map(|(name, object)| self.shown(&name, object))
                .collect(),
            None => Vec::new(),
        }
    }

    /// A value as the front end shows it.
    pub(super) fn shown(&mut self, name: &str, object: Result<Object>) -> Value {
        let read = object.and_then(|object| Ok((object.to_value_within(LINE)?, object)));
        let (value, object) = match read {
            Ok(read) => read,
            Err(error) => {
                let value = format!("<{error}>");
                return json!({"name": name, "value": value, "variablesReference": 0});
            }
        };
        let mut shown = json!({
            "name": name,
            "value": line(&value),
            "variablesReference": if unfolds(&object, &value) { self.hold(Holder::Object(object.clone())) } else { 0 },
        });
        if self.typed {
            shown["type"] = json!(object.type_name());
        }
        if let Some(at) = object.address() {
            shown["memoryReference"] = json!(at.to_string());
        }
        shown
    }
}

/// A value on one line.
fn line(value: &Read) -> String {
    let text = value.to_string();
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = line.char_indices().nth(WIDTH) {
        line.truncate(cut);
        line.push_str("..");
    }
    line
}

fn unfolds(object: &Object, value: &Read) -> bool {
    match value {
        Read::Struct(_) | Read::Array(..) => true,
        // A text, and a function's name, are all there is to show of them.
        Read::Pointer { at, target, .. } => at.0 != 0 && target.is_none() && points(object),
        _ => false,
    }
}

/// Tells whether a pointer leads to what has a size.
fn points(object: &Object) -> bool {
    object.deref().is_ok_and(|to| to.size().is_ok())
}

fn children(object: &Object) -> Vec<(String, Result<Object>)> {
    if let Ok(names) = object.member_names() {
        let member = |name: String| {
            let member = object.member(&name);
            (name, member)
        };
        return names.into_iter().map(member).collect();
    }
    match object.to_value_within(LINE) {
        Ok(Read::Array(_, count)) => {
            let count = i64::try_from(count).unwrap_or(ELEMENTS).min(ELEMENTS);
            (0..count)
                .map(|index| (format!("[{index}]"), object.index(index)))
                .collect()
        }
        Ok(Read::Pointer { .. }) => vec![("*".to_owned(), object.deref())],
        _ => Vec::new(),
    }
}

fn of_registers(registers: &Registers) -> Vec<Value> {
    let one = |name: &str, value: u64| json!({"name": name, "value": format!("{value:#018x}"), "variablesReference": 0});
    let mut all: Vec<Value> = registers
        .named()
        .into_iter()
        .map(|(name, value)| one(name, value))
        .collect();
    all.extend(registers.cr3.map(|cr3| one("cr3", cr3)));
    all
}
