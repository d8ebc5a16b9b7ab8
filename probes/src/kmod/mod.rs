//! Files that this library shares with the module of `kmod/`; and what arms it and reads its rings.

#[path = "../../../kmod/call.rs"]
pub(crate) mod call;
pub(crate) mod device;
pub(crate) mod reader;
pub(crate) mod ring;
#[path = "../../../kmod/filter.rs"]
pub(crate) mod tuple;
