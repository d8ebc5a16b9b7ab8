//! The names that cells use: `use probes::prelude::*;`.

pub use std::time::Duration;

pub use crate::cell::exercise::{Verdict, check};
pub use crate::cell::{
    DebugDisplay, Diff, Progress, ResultDisplay, block_on, check_interrupt, diff, display, watch,
};
pub use crate::drgn::Drgn;
pub use crate::guest::Guest;
pub use crate::kernel::Kernel;
pub use crate::memory::{GuestPhys, GuestVirt, PAGE_SIZE};
pub use crate::mm::{AddressMap, Heap, MmStruct, Vma, Vmas};
pub use crate::object::{FixedStr, Mirror, Object, Objects, Plan, Ptr};
pub use crate::sched::{Task, TaskTree, Tasks, for_each_process, for_each_thread};
pub use crate::search::{Hits, Needle};
pub use crate::skb::{Capture, Filter, Netns, Path, Paths, Profile, SkBuff, Stage, What};
pub use crate::structures::{
    container_of, hlist_for_each, hlist_for_each_entry, list_for_each, list_for_each_entry,
    offset_of, per_cpu_ptr, rbtree_for_each, rbtree_for_each_entry, validate_list, validate_rbtree,
};
pub use crate::traffic::{Connection, Frame, Net, Rule, Tcp};
pub use crate::view::{Align, ListRing, RingNode, Table, View};
pub use crate::{Error, ErrorKind, Listing, Missing, Result};
pub use vm::agent::{Made, SocketKind, WorkloadKind};
