//! Devices, disks and PCI functions as tables.

mod block;
mod device;
mod pci;
