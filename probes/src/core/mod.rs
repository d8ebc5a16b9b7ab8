//! Structures of the kernel's own folders `kernel/` and `init/`, but for the scheduler and control groups: modules,
//! interrupts, locks, timers, tracing, the log, and the rest that all other parts of the kernel use.

pub mod audit;
pub mod bpf;
pub mod init;
pub mod initcall;
pub mod irq;
pub mod locking;
pub mod module;
pub mod printk;
pub mod rcu;
pub mod time;
pub mod trace;
pub mod workqueue;
