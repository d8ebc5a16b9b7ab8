//! Lists of what was read, with what could not be read.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};

use super::{Error, ErrorKind, GuestVirt, Result};

/// Things of one kind in the order in which the kernel has them, and those of them that could not be read. One bad link
/// does not hide the others: a reader shows what it can, and names what it cannot.
///
/// In JSON it is an array: the things, then an object `{"missing": .., "kind": .., "error": ..}` for each that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T> {
    /// The things that were read.
    pub items: Vec<T>,
    /// The things that could not be read.
    pub missing: Vec<Missing>,
}

/// Something that could not be read, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The thing, and the member that was followed: `task 132 (cat), its signal_struct`.
    #[serde(rename = "missing")]
    pub what: String,
    /// The class of the error.
    pub kind: ErrorKind,
    /// The address at which it ended.
    pub at: Option<GuestVirt>,
    /// The error's sentence.
    pub error: String,
}

impl Missing {
    /// A thing that could not be read. What the error itself says to have been reading is said after it.
    pub fn new(what: impl Into<String>, error: &Error) -> Self {
        let mut what = what.into();
        let mut inner = error;
        while let Error::In { what: part, error } = inner {
            if !what.is_empty() {
                what.push_str(", ");
            }
            what.push_str(part);
            inner = error;
        }
        Self {
            what,
            kind: error.kind(),
            at: inner.at(),
            error: inner.to_string(),
        }
    }
}

impl Missing {
    /// The same, as something that looked otherwise each of so many times.
    #[must_use]
    pub(crate) fn torn(self, tries: u32) -> Self {
        Self {
            kind: ErrorKind::Torn,
            error: format!(
                "it changed while it was read ({tries} tries), last: {}",
                self.error
            ),
            ..self
        }
    }

    /// The same as a part of something larger.
    #[must_use]
    pub fn of(mut self, whole: &str) -> Self {
        self.what = match self.what.as_str() {
            "" => whole.to_owned(),
            part => format!("{whole}, {part}"),
        };
        self
    }
}

/// A thing that a list is asked for by its name.
pub trait Named {
    /// What the question is answered with: the thing, or the number that it names.
    type Value<'a>
    where
        Self: 'a;

    /// The name.
    fn name(&self) -> &str;

    /// The answer.
    fn value(&self) -> Self::Value<'_>;
}

/// A thing that begins and ends at an address; a list of such things is in ascending order.
pub trait Span {
    /// The first byte.
    fn start(&self) -> GuestVirt;

    /// The first byte behind it.
    fn end(&self) -> GuestVirt;
}

/// A thing that has a PID.
pub trait HasPid {
    /// The PID.
    fn pid(&self) -> i32;
}

impl<T: Named> Listing<T> {
    /// The first of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<T::Value<'_>> {
        let found = self.items.iter().find(|item| item.name() == name);
        found.map(T::value)
    }

    /// Those of this name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a T> {
        self.items.iter().filter(move |item| item.name() == name)
    }
}

impl<T: Span> Listing<T> {
    /// The one that holds an address; of a gap, none.
    #[must_use]
    pub fn at(&self, at: GuestVirt) -> Option<&T> {
        let index = self.items.partition_point(|item| item.end() <= at);
        self.items.get(index).filter(|item| item.start() <= at)
    }
}

impl<T: HasPid> Listing<T> {
    /// The one of this PID.
    #[must_use]
    pub fn pid(&self, pid: i32) -> Option<&T> {
        self.items.iter().find(|item| item.pid() == pid)
    }
}

/// A list that is a part: what cannot be read as a whole is empty, which is noted.
pub fn parts<T>(missing: &mut Vec<Missing>, what: &str, read: Result<Listing<T>>) -> Vec<T> {
    match read {
        Ok(list) => {
            for one in list.missing {
                let what = format!("{what}: {}", one.what);
                missing.push(Missing { what, ..one });
            }
            list.items
        }
        Err(error) => {
            missing.push(Missing::new(what, &error));
            Vec::new()
        }
    }
}

impl From<&Error> for Missing {
    /// The thing that was being read, by the error's own words.
    fn from(error: &Error) -> Self {
        Self::new("", error)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what.as_str() {
            "" => write!(f, "not shown: {}", self.error),
            what => write!(f, "not shown: {what}: {}", self.error),
        }
    }
}

impl<T> Listing<T> {
    /// A list without anything in it.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            items: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// Adds one thing, or that it could not be read.
    pub fn take<S: Into<String>>(&mut self, item: Result<T>, what: impl FnOnce() -> S) {
        match item {
            Ok(item) => self.items.push(item),
            Err(error) => self.miss(what(), &error),
        }
    }

    /// Notes that something could not be read.
    pub fn miss(&mut self, what: impl Into<String>, error: &Error) {
        self.missing.push(Missing::new(what, error));
    }

    /// Adds another list.
    pub fn append(&mut self, other: Self) {
        self.items.extend(other.items);
        self.missing.extend(other.missing);
    }

    /// Tells whether nothing is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty()
    }

    /// The same list of what each thing is turned into.
    pub fn map<U>(self, turn: impl FnMut(T) -> U) -> Listing<U> {
        Listing {
            items: self.items.into_iter().map(turn).collect(),
            missing: self.missing,
        }
    }
}

impl<T> Listing<T> {
    /// Reads each node by `read`, and notes those that could not be read. `None` if one changed while it was read.
    pub fn each(
        nodes: Listing<GuestVirt>,
        name: impl Fn(GuestVirt) -> String,
        mut read: impl FnMut(GuestVirt) -> Result<Option<T>>,
    ) -> Option<Self> {
        let mut list = Self {
            items: Vec::with_capacity(nodes.len()),
            missing: nodes.missing,
        };
        for at in nodes.items {
            match read(at) {
                Ok(Some(item)) => list.items.push(item),
                Ok(None) => return None,
                Err(error) => list.miss(name(at), &error),
            }
        }
        Some(list)
    }

    /// The things of the list, and what is missing put with what is missing elsewhere.
    pub fn into_items(self, missing: &mut Vec<Missing>) -> Vec<T> {
        missing.extend(self.missing);
        self.items
    }
}

impl Listing<GuestVirt> {
    /// The nodes of a walk up to where it breaks, which is said to be behind the last of them.
    pub fn walk(what: &str, nodes: impl IntoIterator<Item = Result<GuestVirt>>) -> Self {
        let mut list = Self::new();
        for node in nodes {
            match node {
                Ok(at) => list.items.push(at),
                Err(error) => {
                    list.miss_behind(what, &error);
                    break;
                }
            }
        }
        list
    }

    /// Notes that the list breaks behind its last node.
    pub fn miss_behind(&mut self, what: &str, error: &Error) {
        match self.items.last() {
            Some(last) => self.miss(format!("{what} behind {last}"), error),
            None => self.miss(what, error),
        }
    }
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> From<Vec<T>> for Listing<T> {
    fn from(items: Vec<T>) -> Self {
        Self {
            items,
            missing: Vec::new(),
        }
    }
}

impl<T> Deref for Listing<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<T> DerefMut for Listing<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items
    }
}

impl<T> IntoIterator for Listing<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Listing<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

impl<T> FromIterator<T> for Listing<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        items.into_iter().collect::<Vec<T>>().into()
    }
}

impl<T: Serialize> Serialize for Listing<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let len = self.items.len() + self.missing.len();
        let mut array = serializer.serialize_seq(Some(len))?;
        for item in &self.items {
            array.serialize_element(item)?;
        }
        for missing in &self.missing {
            array.serialize_element(missing)?;
        }
        array.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Of as _;

    #[test]
    fn what_could_not_be_read_stands_beside_what_could() {
        let bad: Result<u32> = Err(Error::NotMapped {
            at: GuestVirt(0x123c),
            level: "pgd",
            entry: 0,
        });
        let mut list = Listing::new();
        list.take(Ok(1), || "task 1");
        list.take(bad.of(|| "its signal_struct"), || "task 2 (cat)");
        list.take(Ok(3), || "task 3");
        assert_eq!(*list, [1, 3]);
        assert!(!list.is_whole());
        assert_eq!(list.missing[0].at, Some(GuestVirt(0x123c)));
        let said = list.missing[0].to_string();
        assert!(
            said.starts_with("not shown: task 2 (cat), its signal_struct: 0x"),
            "{said}"
        );
        let json = serde_json::to_value(&list).unwrap();
        assert_eq!(json[1], 3);
        assert_eq!(json[2]["missing"], "task 2 (cat), its signal_struct");
        assert_eq!(json[2]["kind"], "unmapped");
    }

    #[test]
    fn a_whole_list_is_a_plain_array() {
        let list: Listing<u32> = [1, 2].into_iter().collect();
        assert_eq!(serde_json::to_string(&list).unwrap(), "[1,2]");
        assert_eq!(list.map(|n| n + 1).items, [2, 3]);
    }
}
