//! What the kernel's folders `drivers/` and `block/` have: devices, drivers, disks.

pub mod device;
