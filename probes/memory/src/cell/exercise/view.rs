//! Verdict on an answer, in one line.

use super::Verdict;
use crate::view::{View, escape};

impl View for Verdict {
    fn text(&self) -> String {
        match self {
            Self::Open { exercise } => format!("○ {exercise}: no answer yet"),
            Self::Right { exercise, answer } => {
                format!("✔ {exercise}: {answer}, and the second reading agrees")
            }
        }
    }

    fn html(&self) -> Option<String> {
        let colour = match self {
            Self::Open { .. } => "#8a6d00",
            Self::Right { .. } => "#1a7f37",
        };
        Some(format!(
            "<div style=\"color:{colour};font-weight:600\">{}</div>",
            escape(&self.text())
        ))
    }
}

crate::displays!(Verdict);
