//! The ground of everything else, which knows nothing of it: errors, listings, addresses, the guest's bytes as text,
//! the interrupt of a cell.

mod addr;
pub mod error;
mod guest_text;
mod interrupt;
mod listing;

pub use addr::{GuestPhys, GuestVirt, PAGE_SIZE};
pub use error::{Error, ErrorKind, Of, Result};
pub use guest_text::{bytes_of, text_of};
pub use interrupt::flag as interrupt_flag;
pub use interrupt::{Interrupted, check_interrupt, interrupt_on};
pub use interrupt::{clear, install};
pub use listing::parts;
pub use listing::{HasPid, Listing, Missing, Named, Span};
