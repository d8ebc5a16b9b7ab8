//! The faces of lists. What a list could not read is shown below it, by construction: no view of a list can leave it out.

use super::{View, missing_html, missing_text};
use crate::{Listing, Missing};

/// What [`View`] is for one value, for a list of such values.
pub trait ListView: Sized {
    /// The face for terminals, logs and tests.
    fn text(list: &Listing<Self>) -> String;

    /// A self-contained piece of HTML.
    fn html(_list: &Listing<Self>) -> Option<String> {
        None
    }

    /// Parts of the things themselves that could not be read; the text says the same.
    fn missing(_list: &Listing<Self>) -> Vec<Missing> {
        Vec::new()
    }
}

impl<T: ListView> View for Listing<T> {
    fn text(&self) -> String {
        let mut text = T::text(self);
        if !text.is_empty() && !text.ends_with('\n') && !self.missing.is_empty() {
            text.push('\n');
        }
        text + &missing_text(&self.missing)
    }

    fn html(&self) -> Option<String> {
        Some(T::html(self)? + &missing_html(&self.missing))
    }

    fn missing(&self) -> Vec<Missing> {
        let mut missing = T::missing(self);
        missing.extend_from_slice(&self.missing);
        missing
    }
}

/// `lists! { Task => table }`: the faces of a list of `Task` are those of what `table(&list)` makes.
#[macro_export]
macro_rules! lists {
    ($($ty:ty => $made:ident),+ $(,)?) => {$(
        impl $crate::view::ListView for $ty {
            fn text(list: &$crate::Listing<Self>) -> String {
                $crate::view::View::text(&$made(list))
            }

            fn html(list: &$crate::Listing<Self>) -> Option<String> {
                $crate::view::View::html(&$made(list))
            }
        }
    )+};
}
