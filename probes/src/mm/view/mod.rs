//! Address spaces as tables and pictures.

mod heap;
mod map;
mod mm_struct;
