//! One session: evcxr, the process of the cells, and what lies between.
//!
//! evcxr's context lives in a thread of its own ([`worker`]), since compiling and running a cell blocks
//! it. The process of the cells speaks through [`front`]; [`interrupt`] stops it; [`report`] says what
//! went wrong.

mod code;
mod front;
mod interrupt;
mod report;
mod stream;
mod worker;

pub(crate) use worker::Session;
