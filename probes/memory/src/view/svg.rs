//! A small builder of SVG pictures: shapes in, one string out. All text is escaped here.

use std::fmt::Write as _;

use super::escape;

/// Point of a text that its coordinates name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// Its left end.
    Start,
    /// Its middle.
    Middle,
    /// Its right end.
    End,
}

/// Style of a text.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// Height in pixels.
    pub size: f64,
    /// Colour.
    pub fill: &'a str,
    /// Point of the text that the coordinates name.
    pub anchor: Anchor,
    /// True if it is bold.
    pub bold: bool,
    /// Turned clockwise round its point, in degrees.
    pub turn: f64,
}

impl Default for Text<'_> {
    fn default() -> Self {
        Self {
            size: 11.0,
            fill: INK,
            anchor: Anchor::Start,
            bold: false,
            turn: 0.0,
        }
    }
}

/// The colour of text and outlines.
pub const INK: &str = "#1f2933";
/// The colour of lesser text.
pub const FAINT: &str = "#64707d";
/// The colour of what is meant.
pub const ACCENT: &str = "#c2410c";

/// A picture under construction. Coordinates are pixels from the top left.
///
/// It brings its own light background, so that it reads the same in light and dark notebooks.
#[derive(Debug, Clone)]
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    /// An empty picture.
    #[must_use]
    pub fn new(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            body: String::new(),
        }
    }

    /// The width in pixels of `text` at `size`: that of a monospaced font.
    #[must_use]
    pub fn text_width(text: &str, size: f64) -> f64 {
        text.chars().count() as f64 * size * 0.602
    }

    /// A rectangle with round corners.
    pub fn rect(
        &mut self,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        fill: &str,
        stroke: &str,
    ) {
        self.push(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"{:.1}\" fill=\"{fill}\" stroke=\"{stroke}\"/>",
            width.max(0.0),
            height.max(0.0),
            f64::min(3.0, width / 8.0)
        ));
    }

    /// A circle.
    pub fn circle(&mut self, (x, y): (f64, f64), radius: f64, fill: &str, stroke: &str) {
        self.push(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{fill}\" stroke=\"{stroke}\"/>"));
    }

    /// A line of text.
    pub fn text(&mut self, (x, y): (f64, f64), text: &str, style: Text<'_>) {
        let anchor = match style.anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let weight = if style.bold {
            " font-weight=\"bold\""
        } else {
            ""
        };
        let turn = if style.turn == 0.0 {
            String::new()
        } else {
            format!(" transform=\"rotate({:.1} {x:.1} {y:.1})\"", style.turn)
        };
        self.push(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{}\" fill=\"{}\" text-anchor=\"{anchor}\"{weight}{turn} xml:space=\"preserve\">{}</text>",
            style.size,
            style.fill,
            escape(text)
        ));
    }

    /// A line through points; `dash` such as `4 3`, or empty.
    pub fn line(&mut self, points: &[(f64, f64)], stroke: &str, width: f64, dash: &str) {
        self.path(points, stroke, width, dash, "");
    }

    /// A line through points that ends in an arrow head.
    pub fn arrow(&mut self, points: &[(f64, f64)], stroke: &str, width: f64, dash: &str) {
        self.path(points, stroke, width, dash, "");
        let [.., (fx, fy), (x, y)] = points else {
            return;
        };
        let (dx, dy) = (x - fx, y - fy);
        let length = dx.hypot(dy);
        if length < 0.5 {
            return;
        }
        let (ux, uy) = (dx / length, dy / length);
        let head = 6.0;
        self.push(format_args!(
            "<polygon points=\"{x:.1},{y:.1} {:.1},{:.1} {:.1},{:.1}\" fill=\"{stroke}\"/>",
            x - head * ux + 0.45 * head * uy,
            y - head * uy - 0.45 * head * ux,
            x - head * ux - 0.45 * head * uy,
            y - head * uy + 0.45 * head * ux,
        ));
    }

    fn path(&mut self, points: &[(f64, f64)], stroke: &str, width: f64, dash: &str, more: &str) {
        let mut list = String::new();
        for (x, y) in points {
            // Writing to a String does not fail.
            let _ = write!(list, "{x:.1},{y:.1} ");
        }
        let dash = if dash.is_empty() {
            String::new()
        } else {
            format!(" stroke-dasharray=\"{dash}\"")
        };
        self.push(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"{width}\"{dash}{more}/>",
            list.trim_end()
        ));
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        let _ = self.body.write_fmt(element);
        self.body.push('\n');
    }

    /// The picture, with what it shows as its title for readers who cannot see it.
    #[must_use]
    pub fn finish(self, title: &str) -> String {
        let (w, h) = (self.width.ceil(), self.height.ceil());
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
             font-family=\"ui-monospace, DejaVu Sans Mono, Menlo, Consolas, monospace\" style=\"max-width:100%;height:auto\">\n\
             <title>{}</title>\n\
             <rect x=\"0.5\" y=\"0.5\" width=\"{:.1}\" height=\"{:.1}\" rx=\"6\" fill=\"#fcfcfa\" stroke=\"#d5d9de\"/>\n{}</svg>\n",
            escape(title),
            w - 1.0,
            h - 1.0,
            self.body
        )
    }
}

/// `text` cut to `chars` characters, the last one an ellipsis where something is missing.
#[must_use]
pub fn shorten(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(chars.saturating_sub(1)).collect();
    short.push('…');
    short
}
