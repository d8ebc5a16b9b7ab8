//! The guest kernel's first file system: the agent, its tools and modules.
