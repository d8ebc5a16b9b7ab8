//! Namespaces: what of the system a task sees (`include/linux/nsproxy.h`, `include/linux/ns_common.h`).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::net::net_namespaces;
use crate::sched::pid_numbers;
use crate::structures::offset_of;
use crate::{Error, Listing, Named, Of as _, Result};

/// The links of `/proc/PID/ns` that come from the `nsproxy`: name, member, type. Those `_for_children` are what tasks
/// that it starts will be in.
const PROXY: [(&str, &str, &str); 8] = [
    ("cgroup", "cgroup_ns", "struct cgroup_namespace"),
    ("ipc", "ipc_ns", "struct ipc_namespace"),
    ("mnt", "mnt_ns", "struct mnt_namespace"),
    ("net", "net_ns", "struct net"),
    (
        "pid_for_children",
        "pid_ns_for_children",
        "struct pid_namespace",
    ),
    ("time", "time_ns", "struct time_namespace"),
    (
        "time_for_children",
        "time_ns_for_children",
        "struct time_namespace",
    ),
    ("uts", "uts_ns", "struct uts_namespace"),
];
/// Namespaces that are found at most.
const BOUND: usize = 1 << 17;

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Namespace {
    /// Its kind: `net`, `pid`, .., as the link in `/proc/PID/ns` is called.
    pub kind: &'static str,
    /// Its inode number, as that link shows it.
    pub inum: u32,
    /// Address of its structure.
    pub at: GuestVirt,
}

impl Namespace {
    pub(crate) fn read(kernel: &Kernel, kind: &'static str, at: GuestVirt) -> Result<Self> {
        let c = structure(kind);
        let inum = kernel.read_u32(at.offset(offset_of(kernel, c, "ns.inum")?))?;
        // Each kind has its operations: what has others is no namespace of this kind.
        let name = match kind {
            "pid_for_children" => "pidns_for_children_operations".to_owned(),
            "time_for_children" => "timens_for_children_operations".to_owned(),
            kind => format!("{kind}ns_operations"),
        };
        let ops = kernel.read_u64(at.offset(offset_of(kernel, c, "ns.ops")?))?;
        let known = kernel.symbols()?.lookup_all(&name).next();
        let plain = name.replace("_for_children", "");
        let or = kernel.symbols()?.lookup_all(&plain).next();
        if known.is_some() && ![known, or].contains(&Some(GuestVirt(ops))) {
            return Err(Error::Broken {
                what: "namespace",
                at,
                why: format!("its operations are {ops:#x}, not {name}"),
            });
        }
        Ok(Self { kind, inum, at })
    }
}

/// The structure of a kind of namespace.
fn structure(kind: &str) -> &'static str {
    match kind {
        "user" => "struct user_namespace",
        "pid" => "struct pid_namespace",
        _ => PROXY
            .iter()
            .find(|(name, ..)| *name == kind)
            .map_or("struct ns_common", |(_, _, c)| c),
    }
}

/// The namespaces of a task, by the names of `/proc/PID/ns`. Of a zombie only `pid` and `user` are left.
pub type TaskNamespaces = Listing<Namespace>;

impl Named for Namespace {
    type Value<'a> = &'a Self;

    fn name(&self) -> &str {
        self.kind
    }

    fn value(&self) -> &Self {
        self
    }
}

/// A process in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// The process.
    pub pid: i32,
    /// Its name.
    pub comm: String,
}

/// A namespace, and the processes in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamespaceInUse {
    /// The namespace.
    #[serde(flatten)]
    pub namespace: Namespace,
    /// The user namespace that owns it, by inode number; `None` for the first user namespace.
    pub owner: Option<u32>,
    /// The namespace around it, of pid and user namespaces.
    pub parent: Option<u32>,
    /// The processes whose leader is in it. One that only its threads, mounts or open files hold has none.
    pub members: Vec<Member>,
}

/// All namespaces, by kind and inode number.
pub type Namespaces = Listing<NamespaceInUse>;

impl Guest {
    /// The namespaces of the task `pid`: `/proc/PID/ns`.
    ///
    /// # Errors
    /// `Absent` if there is no such task, or it has exited; `Torn` if they keep changing.
    pub fn task_namespaces(&self, pid: i32) -> Result<TaskNamespaces> {
        self.of_task(pid, "the namespaces", |kernel, task| read(kernel, task.at))
    }
}

/// All namespaces that a task is in, that are around or own one of those, or that a network lives in, with the
/// processes in them. One that nothing holds but an open file or a bind mount is missed, network namespaces excepted.
pub(crate) fn namespaces(guest: &Guest) -> Result<Namespaces> {
    let kernel = guest.kernel()?;
    let mut found: BTreeMap<Namespace, Vec<Member>> = BTreeMap::new();
    let mut missing = Vec::new();
    for net in net_namespaces(&kernel)?.into_items(&mut missing) {
        let net = Namespace::read(&kernel, "net", net.at)
            .or_miss(&mut missing, || format!("the struct net {}", net.at));
        found.extend(net.map(|net| (net, Vec::new())));
    }
    let mut processes = guest.tasks()?;
    missing.append(&mut processes.missing);
    for process in processes {
        let name = |what: &str| format!("{what} of task {} ({})", process.pid, process.comm);
        let mut threads = match guest.threads(process.pid) {
            // It exited meanwhile, and has none any more.
            Err(Error::Absent(_)) => continue,
            threads => threads
                .or_miss(&mut missing, || name("the threads"))
                .unwrap_or_default(),
        };
        missing.append(&mut threads.missing);
        for task in threads {
            let namespaces = match guest.task_namespaces(task.pid) {
                Err(Error::Absent(_)) => continue,
                namespaces => namespaces.or_miss(&mut missing, || {
                    format!("the namespaces of task {} ({})", task.pid, task.comm)
                }),
            };
            let namespaces = namespaces.unwrap_or_default();
            let who = format!("task {} ({})", task.pid, task.comm);
            missing.extend(namespaces.missing.into_iter().map(|part| part.of(&who)));
            for mut namespace in namespaces.items {
                let for_children = namespace.kind.strip_suffix("_for_children");
                namespace.kind = for_children.unwrap_or(namespace.kind);
                let members = found.entry(namespace).or_default();
                if task.pid == task.tgid && for_children.is_none() {
                    members.push(Member {
                        pid: task.pid,
                        comm: task.comm.clone(),
                    });
                }
            }
        }
    }
    let mut work: Vec<Namespace> = found.keys().cloned().collect();
    let mut related = BTreeMap::new();
    while let Some(namespace) = work.pop() {
        let [owner, parent] = relatives(&kernel, &namespace)
            .or_miss(&mut missing, || {
                let Namespace { kind, inum, at } = &namespace;
                format!("the owner of the {kind} namespace {inum} at {at}")
            })
            .unwrap_or_default();
        for one in [&owner, &parent].into_iter().flatten() {
            if !found.contains_key(one) {
                found.insert(one.clone(), Vec::new());
                work.push(one.clone());
            }
        }
        if found.len() > BOUND {
            return Err(Error::TooLong {
                what: "set of namespaces",
                at: namespace.at,
                bound: BOUND,
            });
        }
        related.insert(namespace, (owner, parent));
    }
    let all = found.into_iter().map(|(namespace, members)| {
        let (owner, parent) = related.remove(&namespace).unwrap_or_default();
        NamespaceInUse {
            owner: owner.map(|one| one.inum),
            parent: parent.map(|one| one.inum),
            namespace,
            members,
        }
    });
    let items = all.collect();
    Ok(Listing { items, missing })
}

fn read(kernel: &Kernel, task: GuestVirt) -> Result<TaskNamespaces> {
    let pointer = |at: GuestVirt, c: &str, member: &str| -> Result<GuestVirt> {
        let at = at.offset(offset_of(kernel, c, member)?);
        kernel.read_u64(at).map(GuestVirt)
    };
    let mut all = Listing::new();
    let proxy = pointer(task, "struct task_struct", "nsproxy")?;
    if !proxy.is_null() {
        for (kind, member, _) in PROXY {
            match pointer(proxy, "struct nsproxy", member).of(|| format!("its nsproxy {proxy}")) {
                Ok(at) if at.is_null() => {}
                Ok(at) => all.take(Namespace::read(kernel, kind, at), || {
                    format!("its {kind} namespace {at}")
                }),
                // A kernel without this kind.
                Err(error) if matches!(error.innermost(), Error::NoMember { .. }) => {}
                Err(error) => all.miss(format!("its {kind} namespace"), &error),
            }
        }
    }
    let numbers = pid_numbers(kernel, task).or_miss(&mut all.missing, || "its pid namespace");
    if let Some(pid) = numbers.iter().flatten().last() {
        all.items.push(Namespace {
            kind: "pid",
            inum: pid.inum,
            at: pid.ns,
        });
    }
    let cred = pointer(task, "struct task_struct", "real_cred")?;
    let user = pointer(cred, "struct cred", "user_ns").of(|| format!("its real_cred {cred}"));
    let user = user.and_then(|user| Namespace::read(kernel, "user", user));
    all.take(user, || "its user namespace");
    all.sort_by_key(|namespace| namespace.kind);
    Ok(all)
}

/// The user namespace that owns a namespace, and the namespace around it.
fn relatives(kernel: &Kernel, namespace: &Namespace) -> Result<[Option<Namespace>; 2]> {
    let c = structure(namespace.kind);
    let other = |member: &str, kind: &'static str| -> Result<Option<Namespace>> {
        let offset = match offset_of(kernel, c, member) {
            Ok(offset) => offset,
            Err(Error::NoMember { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let at = GuestVirt(kernel.read_u64(namespace.at.offset(offset))?);
        match at.is_null() {
            true => Ok(None),
            false => Namespace::read(kernel, kind, at).map(Some),
        }
    };
    Ok(match namespace.kind {
        "user" => {
            let parent = other("parent", "user")?;
            [parent.clone(), parent]
        }
        "pid" => [other("user_ns", "user")?, other("parent", "pid")?],
        _ => [other("user_ns", "user")?, None],
    })
}
