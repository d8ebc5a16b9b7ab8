//! The layouts that this library shares with the module: the same file.

#[allow(clippy::wrong_self_convention)]
#[path = "../../../kmod/ring.rs"]
mod shared;

pub(super) use shared::*;

#[cfg(test)]
pub(crate) use shared::PACKET;

pub use shared::Context;
