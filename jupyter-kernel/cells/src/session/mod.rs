//! One session: evcxr, the process of the cells, and the link between them.
//!
//! evcxr's context lives in a thread of its own ([`worker`]), since compiling and running a cell blocks
//! it. The process of the cells speaks through [`front`]; [`interrupt`] stops it; [`report`] makes
//! the errors.

mod code;
mod front;
mod interrupt;
mod report;
mod stream;
mod worker;

pub(crate) use worker::Session;
