//! What this library shares with the module of `kmod/`: the same files.

pub(crate) mod ring;
#[path = "../../../kmod/filter.rs"]
pub(crate) mod tuple;
