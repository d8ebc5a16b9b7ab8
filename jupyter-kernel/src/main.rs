//! The klab program.
fn main() { evcxr::runtime_hook(); }
