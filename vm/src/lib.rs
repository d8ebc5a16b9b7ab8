//! Frames between the host and the agent.
pub mod agent;
pub mod initramfs;
