//! Control groups: all groups, the tasks in them, and the groups of a task (`include/linux/cgroup-defs.h`,
//! `kernel/cgroup/cgroup.c`).
//!
//! ```no_run
//! # use probes::Guest;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! for group in guest.cgroup(1)?.iter() {
//!     println!("{}:{}:{}", group.hierarchy, group.controllers.join(","), group.path);
//! }
//! # Ok(())
//! # }
//! ```

mod view;

use serde::Serialize;

use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::object::{FixedStr, Mirror, Plan};
use crate::structures::{array, enumerator, offset_of, twice, whole_list};
use crate::{Error, Listing, Missing, Of as _, Result};

/// Groups of one hierarchy, hierarchies, and groups that one task is in, as far as we read.
const BOUND: usize = 1 << 20;
/// Names from a group to its root: the kernel lets paths be as long as `PATH_MAX`.
const DEPTH: usize = 2048;
/// The longest name of a group: `NAME_MAX`.
const NAME_MAX: usize = 255;
/// `CSS_ONLINE` of `cgroup_subsys_state.flags`, where BTF does not name it.
const CSS_ONLINE: i64 = 2;

/// A control group that a task is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskCgroup {
    /// The number of its hierarchy; 0 is version 2's.
    pub hierarchy: i32,
    /// The controllers bound to a hierarchy of version 1.
    pub controllers: Vec<String>,
    /// The name of the hierarchy, where it has one.
    pub name: String,
    /// The group's path within it.
    pub path: String,
    /// True if the group was removed since.
    pub deleted: bool,
    /// Address of its `struct cgroup`.
    pub at: GuestVirt,
}

/// The control groups of a task, one a hierarchy, in the order of `/proc/PID/cgroup`.
pub type TaskCgroups = Listing<TaskCgroup>;

/// A control group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cgroup {
    /// Address of its `struct cgroup`.
    pub at: GuestVirt,
    /// Depth in the tree; 0 is the root.
    pub depth: u32,
    /// Its path within the hierarchy.
    pub path: String,
    /// Its number, which is its directory's inode number: `kn->id`.
    pub id: u64,
    /// The processes in it, without those of the groups below it: `cgroup.procs`.
    pub procs: Vec<i32>,
    /// Threads in it; `None` if some of them could not be read.
    pub tasks: Option<usize>,
    /// Controllers that it enables for its children: `cgroup.subtree_control`.
    pub subtree_control: Vec<String>,
    /// Groups below it.
    pub descendants: u32,
    /// True if all its tasks are frozen.
    pub frozen: bool,
    /// True if it is not removed yet.
    pub online: bool,
    /// Bytes of memory that are charged to it, with those below it; `None` where nothing counts that.
    pub memory: Option<u64>,
    /// Tasks that are charged to it, with those below it; `None` where nothing counts that.
    pub pids: Option<u64>,
}

/// A hierarchy of control groups: a `cgroup_root`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hierarchy {
    /// Address of its `struct cgroup_root`.
    pub at: GuestVirt,
    /// Its number; 0 is version 2's.
    pub id: i32,
    /// Its name, where it has one.
    pub name: String,
    /// The controllers that are bound to it.
    pub controllers: Vec<String>,
    /// Its groups, each before those below it.
    pub cgroups: Vec<Cgroup>,
    /// Parts that could not be read, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// All hierarchies.
pub type Hierarchies = Listing<Hierarchy>;

#[derive(Debug, Mirror)]
#[mirror(c = "struct cgroup")]
struct RawCgroup {
    flags: u64,
    nr_descendants: u32,
    kn: GuestVirt,
    subtree_control: u32,
    root: GuestVirt,
    #[mirror(member = "self.flags")]
    css_flags: u32,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct cgroup_root")]
struct Root {
    subsys_mask: u32,
    hierarchy_id: i32,
    name: FixedStr<64>,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct kernfs_node")]
struct KernfsNode {
    #[mirror(member = "__parent", or = "parent")]
    parent: GuestVirt,
    name: GuestVirt,
    id: u64,
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct task_struct")]
struct Member {
    pid: i32,
    tgid: i32,
}

impl Guest {
    /// The control groups of the task `pid`: `/proc/PID/cgroup`, by the first cgroup namespace.
    ///
    /// # Errors
    /// `Absent` if there is no such task, or the kernel has no control groups; `Torn` if they keep changing.
    pub fn cgroup(&self, pid: i32) -> Result<TaskCgroups> {
        self.of_task(pid, "the control groups", |kernel, task| {
            let member = offset_of(kernel, "struct task_struct", "cgroups")?;
            let set = GuestVirt(kernel.read_u64(task.at.offset(member))?);
            Reader::new(kernel)?.of_set(set)
        })
    }
}

/// All control groups of all hierarchies, with the processes in them.
pub(crate) fn cgroups(kernel: &Kernel) -> Result<Hierarchies> {
    let reader = Reader::new(kernel)?;
    let roots = reader.roots()?;
    let mut all = Hierarchies::new();
    all.missing = reader.missing.clone();
    all.missing.extend(roots.missing);
    for root in roots.items {
        let what = format!("the control groups at {root}");
        let hierarchy = twice(&what, || reader.hierarchy(root));
        all.take(hierarchy, || what);
    }
    Ok(all)
}

/// The path of a `kernfs_node` from the root of its file system: `kernfs_path()`.
///
/// # Errors
/// `Unmapped` if a node or its name is not in RAM; `Broken` if the parents do not end.
pub fn kernfs_path(kernel: &Kernel, node: GuestVirt) -> Result<String> {
    let mut names = Vec::new();
    let mut at = node;
    while names.len() < DEPTH {
        let node: KernfsNode = kernel.load(at)?;
        if node.parent.is_null() {
            names.reverse();
            return Ok(format!("/{}", names.join("/")));
        }
        names.push(kernel.read_cstr(node.name, NAME_MAX + 1)?);
        at = node.parent;
    }
    Err(Error::TooLong {
        what: "path",
        at: node,
        bound: DEPTH,
    })
}

struct Reader<'k> {
    kernel: &'k Kernel,
    cgroup: Plan<RawCgroup>,
    member: Plan<Member>,
    /// The controllers by number: their name, and the one that version 1 has for them.
    controllers: Vec<(String, String)>,
    /// Those whose names could not be read.
    missing: Vec<Missing>,
    default: GuestVirt,
    /// Bits of `cgroup.flags` and `cgroup_subsys_state.flags`.
    frozen: u64,
    online: u32,
}

impl<'k> Reader<'k> {
    fn new(kernel: &'k Kernel) -> Result<Self> {
        let mut missing = Vec::new();
        Ok(Self {
            kernel,
            cgroup: Plan::new(kernel)?,
            member: Plan::new(kernel)?,
            controllers: controllers(kernel, &mut missing)?,
            missing,
            default: kernel.symbol("cgrp_dfl_root")?,
            frozen: enumerator(kernel, "CGRP_FROZEN")?.map_or(0, |bit| 1 << (bit & 63)),
            online: enumerator(kernel, "CSS_ONLINE")?.unwrap_or(CSS_ONLINE) as u32,
        })
    }

    /// `for_each_root()`
    fn roots(&self) -> Result<Listing<GuestVirt>> {
        let head = self.kernel.symbol("cgroup_roots")?;
        let member = offset_of(self.kernel, "struct cgroup_root", "root_list")?;
        let visible = match self.kernel.symbols()?.lookup("cgrp_dfl_visible") {
            Some(at) => self.kernel.read_u8(at)? != 0,
            None => true,
        };
        let what = "the list of cgroup_roots";
        let mut roots = whole_list(self.kernel, head, member, BOUND, what);
        roots.items.retain(|root| visible || *root != self.default);
        Ok(roots)
    }

    fn name(&self, root: GuestVirt, mask: u32) -> Vec<String> {
        let name = |(_, (name, legacy)): (usize, &(String, String))| {
            if root == self.default { name } else { legacy }.clone()
        };
        let set = self.controllers.iter().enumerate();
        set.filter(|(bit, _)| mask >> bit & 1 == 1)
            .map(name)
            .collect()
    }

    /// The groups of the `css_set` at `set`, one a hierarchy: `proc_cgroup_show()`.
    fn of_set(&self, set: GuestVirt) -> Result<TaskCgroups> {
        let kernel = self.kernel;
        let links = offset_of(kernel, "struct css_set", "cgrp_links")?;
        let member = offset_of(kernel, "struct cgrp_cset_link", "cgrp_link")?;
        let cgrp = offset_of(kernel, "struct cgrp_cset_link", "cgrp")?;
        let mut groups = Listing::new();
        let what = format!("the cgrp_links of the css_set at {set}");
        let links = whole_list(kernel, set.offset(links), member, BOUND, &what);
        groups.missing = links.missing;
        for link in links.items {
            let group = || {
                let at = GuestVirt(kernel.read_u64(link.offset(cgrp))?);
                let group = self.cgroup.load(at).of(|| format!("its cgrp {at}"))?;
                Ok((at, group))
            };
            groups.take(group(), || format!("the cgrp_cset_link at {link}"));
        }
        let roots = self.roots()?;
        let mut all = TaskCgroups::new();
        all.missing = self.missing.clone();
        all.missing.extend(groups.missing);
        all.missing.extend(roots.missing);
        for root in roots.items {
            let group = self.of_root(set, root, &groups.items);
            let group = group.or_miss(&mut all.missing, || format!("the cgroup_root at {root}"));
            all.items.extend(group.flatten());
        }
        Ok(all)
    }

    /// The one of a `css_set`'s groups that is of the hierarchy `root`.
    fn of_root(
        &self,
        set: GuestVirt,
        root: GuestVirt,
        groups: &[(GuestVirt, RawCgroup)],
    ) -> Result<Option<TaskCgroup>> {
        let kernel = self.kernel;
        // The first css_set has no link to version 2's root.
        let found = groups.iter().find(|(_, group)| group.root == root);
        let (at, group) = match found {
            Some((at, group)) => (*at, group),
            None if root == self.default => {
                let own = offset_of(kernel, "struct css_set", "dfl_cgrp")?;
                let at = GuestVirt(kernel.read_u64(set.offset(own))?);
                (at, &self.cgroup.load(at).of(|| format!("its cgrp {at}"))?)
            }
            None => return Ok(None),
        };
        let raw: Root = kernel.load(root)?;
        let two = root == self.default;
        Ok(Some(TaskCgroup {
            hierarchy: raw.hierarchy_id,
            controllers: if two {
                Vec::new()
            } else {
                self.name(root, raw.subsys_mask)
            },
            name: raw.name.to_str().into_owned(),
            path: kernfs_path(kernel, group.kn).of(|| format!("cgroup {at}, its kn"))?,
            deleted: group.css_flags & self.online == 0,
            at,
        }))
    }

    fn hierarchy(&self, at: GuestVirt) -> Result<Hierarchy> {
        let kernel = self.kernel;
        let raw: Root = kernel.load(at)?;
        let first = at.offset(offset_of(kernel, "struct cgroup_root", "cgrp")?);
        let own = offset_of(kernel, "struct cgroup", "self")?;
        let children = offset_of(kernel, "struct cgroup", "self.children")?;
        let sibling = offset_of(kernel, "struct cgroup_subsys_state", "sibling")?;
        let mut cgroups = Listing::new();
        let mut work = vec![(0, first)];
        while let Some((depth, at)) = work.pop() {
            if cgroups.len() >= BOUND || depth as usize >= DEPTH {
                return Err(Error::TooLong {
                    what: "hierarchy of control groups",
                    at: first,
                    bound: BOUND,
                });
            }
            let what = || format!("the cgroup at {at}");
            let mut lacks = Vec::new();
            cgroups.take(self.group(at, depth, &raw, &mut lacks), what);
            cgroups
                .missing
                .extend(lacks.into_iter().map(|part| part.of(&what())));
            let what = format!("the children of the cgroup at {at}");
            let below = whole_list(kernel, at.offset(children), sibling, BOUND, &what);
            cgroups.missing.extend(below.missing);
            let below = below.items.into_iter().rev();
            work.extend(below.map(|css| (depth + 1, css.back(own))));
        }
        Ok(Hierarchy {
            at,
            id: raw.hierarchy_id,
            name: raw.name.to_str().into_owned(),
            controllers: self.name(at, raw.subsys_mask),
            cgroups: cgroups.items,
            missing: cgroups.missing,
        })
    }

    fn group(
        &self,
        at: GuestVirt,
        depth: u32,
        root: &Root,
        missing: &mut Vec<Missing>,
    ) -> Result<Cgroup> {
        let group = self.cgroup.load(at)?;
        let node: KernfsNode = self
            .kernel
            .load(group.kn)
            .of(|| format!("its kn {}", group.kn))?;
        let members = self.members(at)?;
        let tasks = members.is_whole().then_some(members.len());
        let members = members.into_items(missing);
        let mut procs: Vec<i32> = members
            .iter()
            .filter(|member| member.pid == member.tgid)
            .map(|member| member.tgid)
            .collect();
        procs.sort_unstable();
        let mut charged = |controller: &str, c: &str, member: &str| {
            let id = self
                .controllers
                .iter()
                .position(|(name, _)| name == controller);
            let id = id.filter(|id| root.subsys_mask >> id & 1 == 1)?;
            let charged = self.charged(at, id as u64, c, member);
            let charged = charged.or_miss(missing, || format!("what {controller} charges to it"));
            charged.flatten()
        };
        let memory = charged("memory", "struct mem_cgroup", "memory.usage.counter");
        Ok(Cgroup {
            at,
            depth,
            path: kernfs_path(self.kernel, group.kn)?,
            id: node.id,
            procs,
            tasks,
            subtree_control: self.name(group.root, group.subtree_control),
            descendants: group.nr_descendants,
            frozen: group.flags & self.frozen != 0,
            online: group.css_flags & self.online != 0,
            // Nothing is charged to the root (try_charge() returns at once): its counters stay what they were at boot.
            memory: memory
                .filter(|_| depth > 0)
                .map(|pages| pages.wrapping_mul(PAGE_SIZE)),
            pids: match depth {
                0 => None,
                _ => charged("pids", "struct pids_cgroup", "counter.counter"),
            },
        })
    }

    /// A counter of the controller `id` in the group: its `cgroup_subsys_state` is the first member of its own structure.
    fn charged(&self, at: GuestVirt, id: u64, c: &str, member: &str) -> Result<Option<u64>> {
        let (subsys, _, stride) = array(self.kernel, "struct cgroup", "subsys")?;
        let css = GuestVirt(self.kernel.read_u64(at.offset(subsys + stride * id))?);
        if css.is_null() {
            return Ok(None);
        }
        let of = css.back(offset_of(self.kernel, c, "css")?);
        let counter = of.offset(offset_of(self.kernel, c, member)?);
        self.kernel.read_u64(counter).map(Some)
    }

    /// The tasks of all `css_set`s that have this group. One `css_set` or task that cannot be read hides no other.
    fn members(&self, at: GuestVirt) -> Result<Listing<Member>> {
        let kernel = self.kernel;
        let offset = |c: &str, member: &str| offset_of(kernel, c, member);
        let links = at.offset(offset("struct cgroup", "cset_links")?);
        let member = offset("struct cgrp_cset_link", "cset_link")?;
        let cset = offset("struct cgrp_cset_link", "cset")?;
        let node = offset("struct task_struct", "cg_list")?;
        let lists = [
            ("tasks", offset("struct css_set", "tasks")?),
            ("mg_tasks", offset("struct css_set", "mg_tasks")?),
        ];
        let mut members = Listing::new();
        let links = whole_list(kernel, links, member, BOUND, "its cset_links");
        for link in links.into_items(&mut members.missing) {
            let set = kernel.read_u64(link.offset(cset)).map(GuestVirt);
            let what = || format!("the cgrp_cset_link at {link}");
            let Some(set) = set.or_miss(&mut members.missing, what) else {
                continue;
            };
            for (list, head) in lists {
                let what = format!("{list} of the css_set at {set}");
                let tasks = whole_list(kernel, set.offset(head), node, BOUND, &what);
                for task in tasks.into_items(&mut members.missing) {
                    members.take(self.member.load(task), || format!("the task at {task}"));
                }
                if members.len() > BOUND {
                    return Err(Error::TooLong {
                        what: "list of tasks",
                        at: set,
                        bound: BOUND,
                    });
                }
            }
        }
        Ok(members)
    }
}

/// The names in `cgroup_subsys[]`.
fn controllers(kernel: &Kernel, missing: &mut Vec<Missing>) -> Result<Vec<(String, String)>> {
    let (_, count, stride) = array(kernel, "struct cgroup", "subsys")?;
    let first = kernel.symbol("cgroup_subsys")?;
    let c = "struct cgroup_subsys";
    let members = (
        offset_of(kernel, c, "name")?,
        offset_of(kernel, c, "legacy_name")?,
    );
    let names = |i: u64| {
        let subsys = GuestVirt(kernel.read_u64(first.offset(stride * i))?);
        let name = |member: u64| {
            let name = kernel.read_u64(subsys.offset(member))?;
            kernel.read_cstr(GuestVirt(name), 64)
        };
        Ok((name(members.0)?, name(members.1)?))
    };
    let named = |i: u64| {
        let what = || format!("the name of controller {i}");
        let unknown = || (format!("controller {i}"), format!("controller {i}"));
        names(i).or_miss(missing, what).unwrap_or_else(unknown)
    };
    Ok((0..count.min(32) as u64).map(named).collect())
}
