//! Frames between the host and the agent.
