//! Display of a cell's last expression.
//!
//! evcxr turns the last expression `E` of a cell into `(E).evcxr_display()` and, if that does not
//! compile, compiles the cell again with `{:?}`. Three candidates of that name make the first try
//! compile. Rust's method lookup chooses among them in this order:
//!
//! 1. [`ResultDisplay`], by value: a `Result` of a [`View`];
//! 2. the inherent method that [`displays!`](crate::displays) gives to a type that is a [`View`];
//! 3. [`DebugDisplay`], by reference: all that has [`Debug`].
//!
//! An `Err` as the value of a cell is an error of the cell, as `?` would have made it: a notebook
//! that runs without a reader must not pass over it.

use std::fmt::{self, Debug};

use super::Bundle;
use super::front::{self, Event};
use crate::Listing;
use crate::view::{ListRing, ListView, Table, View};

/// Shows all that has [`Debug`].
pub trait DebugDisplay {
    /// Shows `self` as the value of the cell.
    fn evcxr_display(&self);
}

impl<T: Debug + ?Sized> DebugDisplay for T {
    fn evcxr_display(&self) {
        show_debug(&self, std::any::type_name::<T>());
    }
}

/// Shows what has [`Debug`]. It is one function for all types, since what is made for a type is compiled in the cell.
#[inline(never)]
fn show_debug(value: &dyn Debug, type_name: &str) {
    if type_name == "()" {
        return;
    }
    let text = format!("{value:?}");
    // The type is known only as `Debug`, so its name is all there is to tell an `Err` by.
    if let Some(inner) = text
        .strip_prefix("Err(")
        .and_then(|rest| rest.strip_suffix(')'))
        && type_name.starts_with("core::result::Result<")
    {
        front::send(&Event::Error { evalue: inner });
    } else {
        let lines = is_text(type_name).then(|| lines(&text)).flatten();
        front::send(&Event::Result {
            data: &Bundle::text(lines.unwrap_or(text)),
        });
    }
}

/// Tells whether this is the name of a type of text.
fn is_text(type_name: &str) -> bool {
    let name = type_name.trim_start_matches('&');
    ["str", "alloc::string::String"].contains(&name)
}

/// Unescapes a literal of several lines, so that they can be read.
fn lines(literal: &str) -> Option<String> {
    let inner = literal.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.trim_end_matches("\\n").contains("\\n") {
        return None;
    }
    let (mut text, mut chars) = (String::new(), inner.chars());
    while let Some(c) = chars.next() {
        text.push(if c == '\\' {
            match chars.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                'u' => {
                    let hex: String = chars.by_ref().take_while(|c| *c != '}').collect();
                    char::from_u32(u32::from_str_radix(hex.strip_prefix('{')?, 16).ok()?)?
                }
                other => other,
            }
        } else {
            c
        });
    }
    Some(text)
}

/// Shows a [`View`] that a fallible call returned, or reports the error.
pub trait ResultDisplay {
    /// Shows the view as the value of the cell, or fails the cell.
    fn evcxr_display(self);
}

impl<V: View, E: fmt::Display> ResultDisplay for Result<V, E> {
    fn evcxr_display(self) {
        match self {
            Ok(view) => show_view(&view),
            Err(error) => fail(&error),
        }
    }
}

#[inline(never)]
fn fail(error: &dyn fmt::Display) {
    front::send(&Event::Error {
        evalue: &error.to_string(),
    });
}

/// Shows a view as the value of the cell.
pub fn show_view<V: View + ?Sized>(view: &V) {
    show(&view);
}

#[inline(never)]
fn show(view: &dyn View) {
    front::send(&Event::Result {
        data: &Bundle::of(view),
    });
}

/// Shows a view now, while the cell runs. The handle replaces it in place.
///
/// ```no_run
/// # use klab_memory::cell::{display, Bundle};
/// let shown = display(Bundle::text("0 of 10"));
/// shown.update(Bundle::text("1 of 10"));
/// ```
pub fn display(what: impl Into<Bundle>) -> Display {
    let shown = Display {
        id: front::next_id(),
    };
    front::send(&Event::Display {
        id: &shown.id,
        update: false,
        data: &what.into(),
    });
    shown
}

/// Something shown by [`display`] that can be replaced where it stands.
#[derive(Debug)]
pub struct Display {
    id: String,
}

impl Display {
    /// Replaces what is shown.
    pub fn update(&self, what: impl Into<Bundle>) {
        front::send(&Event::Display {
            id: &self.id,
            update: true,
            data: &what.into(),
        });
    }
}

/// Lets values of these types, which must be [`View`]s, show themselves as the value of a cell.
#[macro_export]
macro_rules! displays {
    ($($view:ty),+ $(,)?) => {$(
        impl $view {
            #[doc(hidden)]
            pub fn evcxr_display(&self) {
                $crate::cell::show_view(self);
            }
        }
    )+};
}

/// `faces! { RunQueues => table }`: the faces of a value are those of what `table(&value)` makes.
#[macro_export]
macro_rules! faces {
    ($($ty:ty => $made:ident),* $(,)?) => {
        $(
            impl $crate::view::View for $ty {
                fn text(&self) -> String {
                    $made(self).text()
                }

                fn html(&self) -> Option<String> {
                    $made(self).html()
                }

                fn missing(&self) -> Vec<$crate::Missing> {
                    $crate::view::View::missing(&$made(self))
                }
            }
        )*

        $crate::displays!($($ty),*);
    };
}

displays!(ListRing, Table);

impl<T: ListView> Listing<T> {
    #[doc(hidden)]
    pub fn evcxr_display(&self) {
        show_view(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_text_of_lines_is_itself(text in "\\PC{0,40}\n.{1,40}[^\n]") {
            proptest::prop_assert_eq!(lines(&format!("{text:?}")), Some(text));
        }
    }

    #[test]
    fn one_line_keeps_its_quotes() {
        assert_eq!(lines("\"one\""), None);
        assert_eq!(lines("\"one\\n\""), None);
        assert!(is_text(std::any::type_name::<&String>()) && !is_text("alloc::vec::Vec<u8>"));
    }
}
