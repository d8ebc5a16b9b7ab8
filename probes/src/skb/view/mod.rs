//! Packets and their paths as tables and pictures.

pub(super) mod path;
mod sk_buff;
