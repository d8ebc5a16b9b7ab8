//! The lines of a difference, marked.

use super::Diff;
use crate::view::{View, escape};

impl View for Diff {
    fn text(&self) -> String {
        let lines = self.shown().into_iter();
        lines
            .map(|(sign, text)| format!("{sign} {text}\n"))
            .collect()
    }

    fn html(&self) -> Option<String> {
        let lines: String = self
            .shown()
            .into_iter()
            .map(|(sign, text)| {
                let color = match sign {
                    '-' => "#c0392b33",
                    '+' => "#27ae6033",
                    _ => "transparent",
                };
                format!(
                    "<div style=\"background:{color}\">{sign} {}</div>",
                    escape(&text)
                )
            })
            .collect();
        Some(format!(
            "<div style=\"font-family:monospace;white-space:pre\">{lines}</div>"
        ))
    }
}

crate::displays!(Diff);

#[cfg(test)]
mod tests {
    use super::super::diff;
    use super::*;

    struct Text(&'static str);

    impl View for Text {
        fn text(&self) -> String {
            self.0.to_owned()
        }
    }

    #[test]
    fn what_differs_is_marked_and_a_wider_column_is_no_difference() {
        let before = Text("PID NAME\n1 init\n2 a<b\n3 x\n");
        let after = Text("PID  NAME\n1    init\n3    x\n1000 new\n");
        let diff = diff(&before, &after);
        assert_eq!(
            diff.text(),
            "  PID  NAME\n  (1 line the same)\n- 2 a<b\n  (1 line the same)\n+ 1000 new\n"
        );
        assert!(diff.html().unwrap().contains("- 2 a&lt;b"));
        assert_eq!(diff.lines.len(), 5);
    }
}
