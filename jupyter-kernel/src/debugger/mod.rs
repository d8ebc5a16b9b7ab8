//! The guest under a debugger, for all cells of a notebook and for the front end's debugger panes.
//!
//! | module | is |
//! |---|---|
//! | `kept` | the one guest that this process keeps stopped, which the commands and the panes share |
//! | `adapter` | the requests of the Debug Adapter Protocol, as Jupyter carries them |
//! | `breakpoints` | breakpoints by function, and by line of a cell or of a function's instructions |
//! | `threads` | CPUs and tasks as threads, their frames |
//! | `variables` | arguments, registers and objects, which unfold |
//! | `source` | a function's instructions, as the text of a frame |
//! | `cell` | the name that a front end gives a cell's text |

pub(crate) mod adapter;
mod breakpoints;
mod cell;
pub(crate) mod kept;
mod source;
mod threads;
mod variables;
