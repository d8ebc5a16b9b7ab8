//! The way of a packet through the kernel: which functions held its `struct sk_buff`, in order.
//!
//! The module of `kmod/` hooks functions and writes a record for each call into rings in the guest's RAM, which are
//! read here through the mapping. What to hook, what a record means and which records are of one packet is decided
//! here: [`functions`](SkbFunction) by BTF, [`Capture`] to begin and end, [`Paths`] for what was seen.

mod capture;
mod filter;
pub(crate) mod functions;
mod identity;
mod path;
mod pcapng;
mod reason;
mod sk_buff;
mod stages;
mod stop;
mod view;

pub use capture::{Capture, CaptureOptions, Profile};
pub use filter::{Filter, Netns};
pub use functions::{Functions, SkbFunction};
pub(crate) use path::context_name;
pub use path::{Conntrack, Geometry, LeftOut, NetfilterHook, Path, Paths, RuleHit, Stage, What};
pub use sk_buff::SkBuff;
pub use stages::{Layer, PATH};
pub use stop::{Stop, Stopped};

pub use crate::kmod::reader::{CpuTally, Tally};
pub use crate::kmod::ring::Context;
