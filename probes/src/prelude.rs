//! What a cell needs: `use probes::prelude::*;`.

pub use crate::cell::{DebugDisplay, Progress, ResultDisplay, check_interrupt, display};
pub use crate::view::View;
