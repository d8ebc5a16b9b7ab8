//! One value in several forms, as Jupyter's mime bundles are.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::view::View;

/// One value in several forms, by mime type; `text/plain` is always there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Bundle(BTreeMap<&'static str, String>);

impl Bundle {
    /// A bundle that has only text.
    pub fn text(text: impl Into<String>) -> Self {
        Self(BTreeMap::from([("text/plain", text.into())]))
    }

    /// Adds another form of the same value.
    #[must_use]
    pub fn with(mut self, mime: &'static str, data: impl Into<String>) -> Self {
        self.0.insert(mime, data.into());
        self
    }

    /// The forms, by mime type.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(mime, data)| (*mime, data.as_str()))
    }

    /// The plain text.
    pub fn plain(&self) -> &str {
        self.0.get("text/plain").map_or("", String::as_str)
    }
}

impl Bundle {
    /// The faces of a view. A view that has a picture is shown by the picture: front ends prefer
    /// HTML to SVG, so the HTML face is left out then.
    #[inline(never)]
    pub(super) fn of(view: &dyn View) -> Self {
        let mut bundle = Self::text(view.text());
        if let Some(svg) = view.svg() {
            bundle = bundle.with("image/svg+xml", svg);
        } else if let Some(html) = view.html() {
            bundle = bundle.with("text/html", html);
        }
        bundle
    }
}

impl<V: View + ?Sized> From<&V> for Bundle {
    fn from(view: &V) -> Self {
        Self::of(&view)
    }
}
