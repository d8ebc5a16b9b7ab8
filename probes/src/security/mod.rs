//! `security/`: what guards the kernel.

pub mod keys;
