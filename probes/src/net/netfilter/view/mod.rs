//! Rules, hooks and connections as tables.

mod hooks;
mod nf_tables;
mod rule_blob;
