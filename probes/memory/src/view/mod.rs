//! One value, three faces: text for terminals and tests, HTML, SVG.
//!
//! The view of a thing stands beside its reader, as `view.rs`: here is only what views are made of. Views render plain
//! values that were read before; none reads the guest. Everything that comes from the guest is
//! escaped: control characters in text ([`clean`]), markup in HTML and SVG ([`escape`]).

mod escape;
mod list;
mod ring;
pub mod sections;
pub mod svg;
mod table;

pub use table::{missing_html, missing_text};

pub use escape::{bytes, clean, escape};
pub use list::ListView;
pub use ring::{ListRing, RingNode};
pub use svg::{Anchor, Svg, Text};
pub use table::{Align, Table};

use crate::Missing;

/// A value with faces. All of them show the same data: what was read when the value was made.
pub trait View {
    /// The face for terminals, logs and tests.
    fn text(&self) -> String;

    /// A self-contained piece of HTML. Its one script is that of a long table.
    fn html(&self) -> Option<String> {
        None
    }

    /// A self-contained picture.
    fn svg(&self) -> Option<String> {
        None
    }

    /// Parts that could not be read; the text says the same. A command ends with exit code 1 if there are any.
    fn missing(&self) -> Vec<Missing> {
        Vec::new()
    }
}

impl<V: View + ?Sized> View for &V {
    fn text(&self) -> String {
        (**self).text()
    }

    fn html(&self) -> Option<String> {
        (**self).html()
    }

    fn svg(&self) -> Option<String> {
        (**self).svg()
    }

    fn missing(&self) -> Vec<Missing> {
        (**self).missing()
    }
}

/// A value, or `?` for one that could not be read: why stands below the table.
pub fn or_unknown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| value.to_string())
}

/// The sum of numbers of bytes. Where one of them is not known it is at least that of the others.
pub fn sum_of_bytes(numbers: impl IntoIterator<Item = Option<u64>>) -> String {
    let (mut sum, mut unknown) = (0u64, false);
    for number in numbers {
        match number {
            Some(number) => sum = sum.saturating_add(number),
            None => unknown = true,
        }
    }
    match unknown {
        false => bytes(sum),
        true => format!("at least {}", bytes(sum)),
    }
}
