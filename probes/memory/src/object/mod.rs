//! Typed objects in guest memory: cursors, C expressions, mirrors.

mod constants;
mod ctype;
mod cursor;
mod encode;
mod expr;
mod fields;
mod globals;
mod mirror;
mod plan;
mod register;
mod symbols;
#[cfg(test)]
pub(crate) mod tests;
mod value;
mod view;
mod within;

pub use ctype::CType;
pub use cursor::{MAX_STRING, Object};
pub use encode::NewValue;
pub use fields::{FixedStr, Ptr};
pub use mirror::{Decoder, Mirror, MirrorField, Resolver};
pub use plan::Plan;
pub use probes_derive::Mirror;
pub use symbols::{NamedSymbol, NamedSymbols};
pub use value::{Limits, Value};
pub use view::Objects;
