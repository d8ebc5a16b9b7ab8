//! Typed objects in guest memory: cursors, C expressions, mirrors.

mod mirror;
mod plan;
#[cfg(test)]
mod tests;

pub use mirror::{Decoder, FixedStr, Mirror, MirrorField, Ptr, Resolver};
pub use plan::Plan;
pub use probes_derive::Mirror;
