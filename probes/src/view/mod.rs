//! One value, three faces: text for terminals and tests, HTML, SVG.

/// What has faces. All of them show the same data: what was read when the value was made.
pub trait View {
    /// The face for terminals, logs and tests.
    fn text(&self) -> String;

    /// A self-contained piece of HTML, without scripts.
    fn html(&self) -> Option<String> {
        None
    }

    /// A self-contained picture.
    fn svg(&self) -> Option<String> {
        None
    }
}
