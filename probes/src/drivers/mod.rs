//! Structures of the kernel's folders `drivers/` and `block/`: devices, drivers, disks.

pub mod device;
