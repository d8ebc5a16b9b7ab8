//! `#[derive(Mirror)]`.
