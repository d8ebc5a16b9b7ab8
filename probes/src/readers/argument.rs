//! Arguments of the readers, from the words of a command.

use crate::guest::Guest;
use crate::memory::GuestVirt;
use crate::mm::page::PageAt;
use crate::{Error, Result};

/// A parameter: how its words are read, and what completes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The number of a process or thread.
    Pid,
    /// Text: a path, the name of a device or module, C.
    Text,
    /// An address: in hexadecimal, a symbol, or a C expression that gives one.
    Address,
    /// A page frame: its number, else an address.
    Frame,
}

/// A type that a reader takes, and what the words for it look like.
pub trait Argument<'a>: Sized {
    /// The kind of parameter that it is read from.
    const KIND: Kind;
    /// True if it may be left out.
    const OPTIONAL: bool = false;

    /// The value that the word means.
    ///
    /// # Errors
    /// When it means none in this guest, or is missing.
    fn read(word: Option<&'a str>, guest: &Guest) -> Result<Self>;

    /// The same in Rust, where `guest` is the cell's word for the guest.
    fn literal(word: Option<&str>, guest: &str) -> String;
}

fn missing() -> Error {
    Error::Invalid("a word is missing".to_owned())
}

impl<'a> Argument<'a> for i32 {
    const KIND: Kind = Kind::Pid;

    fn read(word: Option<&'a str>, _: &Guest) -> Result<Self> {
        let word = word.ok_or_else(missing)?;
        let number = word.parse();
        number.map_err(|_| Error::Invalid(format!("`{word}` is no number of a process")))
    }

    fn literal(word: Option<&str>, _: &str) -> String {
        word.unwrap_or_default().to_owned()
    }
}

impl<'a> Argument<'a> for &'a str {
    const KIND: Kind = Kind::Text;

    fn read(word: Option<&'a str>, _: &Guest) -> Result<Self> {
        word.ok_or_else(missing)
    }

    fn literal(word: Option<&str>, _: &str) -> String {
        format!("{:?}", word.unwrap_or_default())
    }
}

impl<'a> Argument<'a> for GuestVirt {
    const KIND: Kind = Kind::Address;

    fn read(word: Option<&'a str>, guest: &Guest) -> Result<Self> {
        let word = word.ok_or_else(missing)?;
        Self::parse(word).map_or_else(|| guest.place(word), Ok)
    }

    fn literal(word: Option<&str>, guest: &str) -> String {
        let word = word.unwrap_or_default();
        match Self::parse(word) {
            Some(at) => format!("GuestVirt({:#x})", at.0),
            None => format!("{guest}.place({word:?})?"),
        }
    }
}

impl<'a> Argument<'a> for PageAt {
    const KIND: Kind = Kind::Frame;

    fn read(word: Option<&'a str>, guest: &Guest) -> Result<Self> {
        match word.and_then(pfn) {
            Some(pfn) => Ok(Self::Pfn(pfn)),
            None => GuestVirt::read(word, guest).map(Self::Address),
        }
    }

    fn literal(word: Option<&str>, guest: &str) -> String {
        match word.and_then(pfn) {
            Some(pfn) => format!("{pfn:#x}u64"),
            None => GuestVirt::literal(word, guest),
        }
    }
}

impl<'a, T: Argument<'a>> Argument<'a> for Option<T> {
    const KIND: Kind = T::KIND;
    const OPTIONAL: bool = true;

    fn read(word: Option<&'a str>, guest: &Guest) -> Result<Self> {
        word.map(|word| T::read(Some(word), guest)).transpose()
    }

    fn literal(word: Option<&str>, guest: &str) -> String {
        match word {
            Some(_) => format!("Some({})", T::literal(word, guest)),
            None => "None".to_owned(),
        }
    }
}

/// The number of a page frame, where it is one: in decimal, or in hexadecimal and too low for an address of the kernel's.
fn pfn(text: &str) -> Option<u64> {
    let low = |at: GuestVirt| (at.0 >> 52 == 0).then_some(at.0);
    text.parse()
        .ok()
        .or_else(|| GuestVirt::parse(text).and_then(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_number_or_an_address() {
        assert_eq!((pfn("16"), pfn("0x10")), (Some(16), Some(16)));
        assert_eq!(pfn("0xffffffff81000000"), None);
    }
}
