//! PID 1 of a klab guest.
fn main() {}
