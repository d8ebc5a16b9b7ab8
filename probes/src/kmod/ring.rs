//! The layouts that this library shares with the module: the same file.

#[allow(clippy::wrong_self_convention)]
#[path = "../../../kmod/ring.rs"]
mod shared;

pub(crate) use shared::*;

pub use shared::Context;
