//! Owners of I/O memory and I/O ports: trees of `struct resource` (`kernel/resource.c`).

use std::ops::Deref;

use serde::Serialize;

use super::{BOUND, DEPTH, text};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Plan};
use crate::structures::{lacks, settle_all};
use crate::{Error, Missing, Of as _, Result};

/// A range of addresses or ports that has an owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// Address of its `struct resource`.
    pub at: GuestVirt,
    /// Number of regions that it lies in.
    pub depth: usize,
    /// Its first physical address or port.
    pub start: u64,
    /// Its last physical address or port.
    pub end: u64,
    /// Name of the region or of its owner.
    pub name: String,
    /// `IORESOURCE_*`: `IORESOURCE_BUSY` is a driver's own.
    pub flags: u64,
}

/// A tree of resources, each before those that lie in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// The name of the whole: `PCI mem`, `PCI IO`; `None` if it could not be read.
    pub root: Option<String>,
    /// The last address or port that there is.
    pub end: u64,
    /// The resources.
    pub resources: Vec<Resource>,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

lacks!(Resources);

impl Deref for Resources {
    type Target = [Resource];

    fn deref(&self) -> &[Resource] {
        &self.resources
    }
}

#[derive(Debug, PartialEq, Eq, Mirror)]
#[mirror(c = "struct resource")]
struct Raw {
    start: u64,
    end: u64,
    name: GuestVirt,
    flags: u64,
    sibling: GuestVirt,
    child: GuestVirt,
    parent: GuestVirt,
}

/// The I/O ports: `/proc/ioports`.
pub(crate) fn ioports(kernel: &Kernel) -> Result<Resources> {
    read(kernel, "ioport_resource")
}

/// The physical memory map: `/proc/iomem`.
pub(crate) fn iomem(kernel: &Kernel) -> Result<Resources> {
    read(kernel, "iomem_resource")
}

fn read(kernel: &Kernel, symbol: &str) -> Result<Resources> {
    let root = kernel.symbol(symbol)?;
    let plan = Plan::<Raw>::new(kernel)?;
    settle_all(symbol, || {
        let raw = plan.load(root)?;
        let mut missing = Vec::new();
        let mut all = Resources {
            root: text(kernel, raw.name).or_miss(&mut missing, || format!("the name of {symbol}")),
            end: raw.end,
            resources: Vec::new(),
            missing,
        };
        below(kernel, &plan, (root, raw.child), 0, &mut all);
        Ok((plan.load(root)? == raw).then_some(all))
    })
}

/// The resources from `first` on that lie in `parent`, each with those in it.
fn below(
    kernel: &Kernel,
    plan: &Plan<Raw>,
    (parent, first): (GuestVirt, GuestVirt),
    depth: usize,
    all: &mut Resources,
) {
    let bound = |bound| Error::TooLong {
        what: "tree of resources",
        at: parent,
        bound,
    };
    let mut at = first;
    while !at.is_null() {
        let raw = match plan.load(at) {
            _ if depth == DEPTH => Err(bound(DEPTH)),
            _ if all.resources.len() + all.missing.len() >= BOUND => Err(bound(BOUND)),
            read => read,
        };
        let raw = match raw {
            Ok(raw) => raw,
            Err(error) => {
                let what = format!("the resources from {at} on, below {parent}");
                all.missing.push(Missing::new(what, &error));
                return;
            }
        };
        if raw.parent != parent {
            let why = format!("its parent is {}, but it is below {parent}", raw.parent);
            let error = Error::broken("tree of resources", at, why);
            all.missing
                .push(Missing::new(format!("the resource at {at}"), &error));
        }
        match text(kernel, raw.name) {
            Ok(name) => all.resources.push(Resource {
                at,
                depth,
                start: raw.start,
                end: raw.end,
                name,
                flags: raw.flags,
            }),
            Err(error) => {
                let what = format!("the resource at {at}, its name {}", raw.name);
                all.missing.push(Missing::new(what, &error));
            }
        }
        below(kernel, plan, (at, raw.child), depth + 1, all);
        at = raw.sibling;
    }
}
