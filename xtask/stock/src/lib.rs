//! No code: this crate holds the stock evcxr REPL and the stock evcxr Jupyter kernel in the workspace's lock.
//!
//! Tests and the bench run klab beside them. Built with a lock of their own they would build rust-analyzer again
//! (minutes); as dependencies of a member, `cargo build --release -p evcxr_repl --bins` takes klab's.
