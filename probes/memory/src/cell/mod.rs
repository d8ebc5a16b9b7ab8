//! Messages from a cell's process to its front end: values, displays, progress, panics, interrupts.
//!
//! Three front ends, told apart at run time:
//!
//! | front end | told by | what it gets |
//! |---|---|---|
//! | klab's own kernel | [`start`] found `KLAB_CELL` | events in the output stream, at once and in order |
//! | evcxr's REPL, stock evcxr_jupyter | `EVCXR_IS_RUNTIME` | evcxr's `EVCXR_BEGIN_CONTENT` blocks |
//! | any other program | neither | plain text: what it shows as a value on stdout, all else on stderr |
//!
//! A cell needs nothing but `use probes::prelude::*;`: the traits of this module then display every
//! value that has [`Debug`], without the second compilation that evcxr's own fallback costs.

mod block_on;
mod bundle;
mod diff;
pub mod exercise;
mod front;
mod keep;
mod progress;
mod show;
#[doc(hidden)]
pub mod store;
mod streams;
mod timing;
mod watch;

pub use crate::base::{Interrupted, check_interrupt, interrupt_on};
pub use block_on::block_on;
pub use bundle::Bundle;
pub use diff::{Diff, Line, diff};
pub use front::has_front;
pub use front::start;
pub use progress::Progress;
pub use show::{DebugDisplay, Display, ResultDisplay, display, show_view};
pub use timing::Timing;
pub use watch::watch;

#[cfg(doc)]
use std::fmt::Debug;
