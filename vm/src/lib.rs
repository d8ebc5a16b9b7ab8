//! One machine: a kernel, its initramfs, QEMU with its sockets and RAM file, its ready state.
//!
//! Nothing here knows a kernel structure: it moves bytes and processes.

pub mod agent;
mod error;
pub mod initramfs;
pub mod kernels;
pub mod paths;
mod progress;

pub use error::{Error, Result};
pub use kernels::{Kernel, KernelChoice};
pub use progress::{Progress, Silent};
