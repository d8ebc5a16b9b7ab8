//! The way of one packet, stage by stage, as Rust values.

mod sort;
mod stage;
mod way;

use std::ops::Deref;

use serde::Serialize;
use sort::socket_of;
pub(super) use sort::{ENDS, Known, Site};
pub(crate) use stage::context_name;
pub use stage::{Conntrack, Geometry, NetfilterHook, RuleHit, Stage, What};

use crate::Result;
use crate::kmod::reader::{CpuTally, Tally};
use crate::memory::GuestVirt;
use crate::traffic::Frame;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// The way of one packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Path {
    /// Time at which it was first seen, `CLOCK_MONOTONIC` of the guest in nanoseconds; with `head` its identity.
    pub first: u64,
    /// Its memory then.
    pub head: GuestVirt,
    /// Describes the packet by its first bytes.
    pub packet: String,
    /// Stages, in order.
    pub stages: Vec<Stage>,
    /// True if records were lost before it ended: then stages may be missing.
    pub incomplete: bool,
}

impl Deref for Path {
    type Target = [Stage];

    fn deref(&self) -> &[Stage] {
        &self.stages
    }
}

impl Path {
    /// The names of its stages, in order.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.stages
            .iter()
            .map(|stage| stage.name.as_str())
            .collect()
    }

    /// The first stage of this name.
    #[must_use]
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Tells whether its stages have these names among them, in this order.
    #[must_use]
    pub fn passes(&self, names: &[&str]) -> bool {
        let mut stages = self.stages.iter();
        names
            .iter()
            .all(|name| stages.any(|stage| stage.name == *name))
    }

    /// Reason for its drop; `None` if it was not dropped.
    #[must_use]
    pub fn dropped(&self) -> Option<&str> {
        self.stages.iter().find_map(|stage| match &stage.what {
            What::Dropped { reason, .. } => Some(reason.as_str()),
            _ => None,
        })
    }

    /// Nanoseconds from its first stage to its last.
    #[must_use]
    pub fn duration(&self) -> u64 {
        self.stages.last().map_or(0, |stage| stage.ns)
    }
}

/// The packets of a capture, in the order in which they were first seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Paths {
    /// The packets.
    pub paths: Vec<Path>,
    /// Counts of the records.
    pub tally: Tally,
    /// The same by CPU.
    pub cpus: Vec<CpuTally>,
    /// Messages of sockets of this machine alone, which are not among the packets: see [`CaptureOptions::all_families`].
    ///
    /// [`CaptureOptions::all_families`]: super::CaptureOptions::all_families
    pub left_out: LeftOut,
    /// Returns of functions whose calls were not seen, so that nobody knows of which packet they are.
    pub strays: usize,
    /// Nanoseconds from 1970 to the zero of the packets' times, by the guest's own clock.
    pub realtime: i64,
    /// Number of functions that were hooked.
    pub hooked: usize,
    /// Functions that were asked for and are not to be had in this kernel.
    pub absent: Vec<String>,
}

/// Messages that are no packets, as many as were recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Messages of netlink sockets.
    pub netlink: usize,
    /// Messages of unix sockets.
    pub unix: usize,
}

impl Deref for Paths {
    type Target = [Path];

    fn deref(&self) -> &[Path] {
        &self.paths
    }
}

impl Paths {
    /// Packets whose description has this in it at any stage, in whatever case: `192.0.2.1:40000`, `udp`, `SYN`.
    #[must_use]
    pub fn about(&self, text: &str) -> Self {
        let text = text.to_lowercase();
        let has = |line: &str| line.to_lowercase().contains(&text);
        self.only(|path| {
            let of_socket = socket_of(&path.packet).is_some() && has(&path.packet);
            of_socket
                || path
                    .iter()
                    .filter_map(Stage::describe)
                    .any(|line| has(&line))
        })
    }

    /// The way of a frame that was sent: the packets that had its bytes.
    #[must_use]
    pub fn of(&self, frame: &Frame) -> Self {
        let sent = frame.0.get(ETHERNET..).unwrap_or_default();
        let same = |bytes: &[u8]| bytes.len() >= 28 && sent.get(..bytes.len()) == Some(bytes);
        self.only(|path| {
            path.iter().any(|stage| {
                let most = stage.packet.len().min(sent.len());
                same(stage.packet.get(..most).unwrap_or_default())
            })
        })
    }

    /// The way of one frame that was sent.
    ///
    /// # Errors
    /// When it was not seen, or several packets had its bytes.
    pub fn one(&self, frame: &Frame) -> Result<Path> {
        let mut these = self.of(frame).paths;
        match (these.pop(), these.len()) {
            (Some(path), 0) => Ok(path),
            (None, _) => Err(crate::Error::Absent(format!(
                "{frame} was not seen among {} packets",
                self.paths.len()
            ))),
            (_, more) => Err(crate::Error::Invalid(format!(
                "{} packets were {frame}",
                more + 1
            ))),
        }
    }

    fn only(&self, wanted: impl Fn(&Path) -> bool) -> Self {
        Self {
            paths: self
                .paths
                .iter()
                .filter(|path| wanted(path))
                .cloned()
                .collect(),
            ..self.clone()
        }
    }
}
