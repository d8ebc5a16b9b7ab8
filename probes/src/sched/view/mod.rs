//! Tasks, run queues and kernel stacks as tables and pictures.

mod runq;
mod stacks;
mod tasks;
