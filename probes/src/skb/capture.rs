//! Beginning and ending a capture: what is hooked, and the module told so.

use std::collections::{BTreeMap, BTreeSet};

use super::filter::{Filter, Wanted};
use super::functions::{ENTRIES, Functions, SkbFunction, call_sites, hookable};
use super::path::{ENDS, Known, Paths, Site};
use super::reason::Reasons;
use super::stages::{PATH, layer};
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::kmod::device::Armed;
use crate::kmod::reader::{Event, Tally};
use crate::kmod::ring::{self, How, KLAB_FILTER, Tracepoint};
use crate::memory::GuestVirt;
use crate::net::netfilter::HookFunctions;
use crate::net::netfilter::rule_blob::{NftRules, rules};
use crate::{Error, Result};

/// Expressions of nftables that do something, by how their names begin; the others only look.
const STATEMENTS: [&str; 11] = [
    "immediate",
    "counter",
    "nat",
    "masq",
    "redir",
    "reject",
    "queue",
    "tproxy",
    "synproxy",
    "log",
    "limit",
];

/// Functions to hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// Functions of the lesson's path: [`PATH`], and what is registered with netfilter.
    Path,
    /// Every function that takes an `sk_buff`.
    All,
    /// These.
    List(Vec<String>),
}

impl std::str::FromStr for Profile {
    type Err = std::convert::Infallible;

    /// `path`, `all`, or names with commas between them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "path" => Self::Path,
            "all" => Self::All,
            list => Self::List(list.split(',').map(|name| name.trim().to_owned()).collect()),
        })
    }
}

impl Profile {
    /// This, and of all packets only those that the filter lets through.
    #[must_use]
    pub fn only(self, filter: Filter) -> CaptureOptions {
        CaptureOptions {
            profile: self,
            filter,
            all_families: false,
        }
    }
}

/// Options of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureOptions {
    /// The functions.
    pub profile: Profile,
    /// The packets.
    pub filter: Filter,
    /// True if messages of netlink and unix sockets are shown, too: they have an `sk_buff` and never leave the machine.
    /// With [`Profile::List`] they are.
    pub all_families: bool,
}

impl CaptureOptions {
    /// This, and messages of netlink and unix sockets, too.
    #[must_use]
    pub fn all_families(self) -> Self {
        Self {
            all_families: true,
            ..self
        }
    }
}

impl From<Profile> for CaptureOptions {
    fn from(profile: Profile) -> Self {
        profile.only(Filter::default())
    }
}

impl From<&Profile> for CaptureOptions {
    fn from(profile: &Profile) -> Self {
        profile.clone().into()
    }
}

/// A capture that is under way: the module in the guest is armed. Dropped, it ends.
#[derive(Debug)]
pub struct Capture {
    guest: Guest,
    kernel: Kernel,
    armed: Armed,
    events: Vec<Event>,
    sites: Vec<Site>,
    hooks: HookFunctions,
    rules: NftRules,
    wanted: Wanted,
    all_families: bool,
    /// See [`Paths::realtime`].
    realtime: i64,
    absent: Vec<String>,
}

impl Guest {
    /// Hooks the functions of a profile: from now on each call with an `sk_buff` leaves a record. Loads klab's module
    /// first, as [`Guest::load_kmod`] does. One capture at a time.
    ///
    /// # Errors
    /// When the module cannot be had or another capture is under way; when the kernel has none of the functions, or
    /// not the device or namespace of the filter.
    pub fn capture(&self, options: impl Into<CaptureOptions>) -> Result<Capture> {
        let CaptureOptions {
            profile,
            filter,
            all_families,
        } = options.into();
        let wanted = filter.resolve(self)?;
        self.load_kmod()?;
        let kernel = self.kernel()?;
        let functions = hookable(&kernel)?;
        let hooks = HookFunctions::read(&kernel)?;
        let (sites, absent) = choose(&functions, &hooks, &profile);
        if sites.is_empty() {
            return Err(Error::Absent(
                "none of these functions takes an sk_buff and can be hooked: `guest.skb_functions()?` has all that do"
                    .to_owned(),
            ));
        }
        let realtime = crate::core::time::realtime_offset(&kernel)?;
        let rules = rules(&kernel)?;
        let mut all: Vec<ring::Site> = sites.iter().map(Site::to_ring).collect();
        if !matches!(profile, Profile::List(_)) {
            all.extend(statements(&kernel, &rules)?);
        }
        let tracepoints = Tracepoint::ALL
            .iter()
            .fold(0, |bits, id| bits | 1 << *id as u64);
        let filter = (KLAB_FILTER, &wanted.to_ring().to_bytes()[..]);
        let armed = Armed::new(self, &kernel, &all, &[filter], tracepoints)?;
        Ok(Capture {
            guest: self.clone(),
            kernel,
            armed,
            events: Vec::new(),
            sites,
            hooks,
            rules,
            wanted,
            all_families: all_families || matches!(profile, Profile::List(_)),
            realtime,
            absent,
        })
    }

    /// The packets that the guest's kernel handles while `work` runs, and shortly after: until it is quiet.
    ///
    /// # Errors
    /// As [`Guest::capture`]; those of `work`.
    pub fn paths<T>(
        &self,
        options: impl Into<CaptureOptions>,
        work: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<Paths> {
        let mut capture = self.capture(options)?;
        work(self)?;
        capture.settle()?;
        capture.paths()
    }
}

/// Functions to hook, and names that this kernel cannot trace.
fn choose(
    functions: &Functions,
    hooks: &HookFunctions,
    profile: &Profile,
) -> (Vec<Site>, Vec<String>) {
    let mut sites = BTreeMap::new();
    let mut absent = Vec::new();
    let mut names = |names: &mut dyn Iterator<Item = &str>| {
        for name in names {
            let mut found = functions.named(name).peekable();
            if found.peek().is_none() {
                absent.push(name.to_owned());
            }
            for function in found {
                sites.insert(function.at, Site::of(function));
            }
        }
    };
    match profile {
        Profile::Path => names(&mut PATH.iter().flat_map(|(_, names)| names.iter().copied())),
        // Without its end a packet would go on in the next one that has its memory.
        Profile::List(list) => names(&mut list.iter().map(String::as_str).chain(ENDS)),
        Profile::All => {
            sites.extend(
                functions
                    .iter()
                    .map(|function| (function.at, Site::of(function))),
            );
        }
    }
    if !matches!(profile, Profile::List(_)) {
        // One that ftrace cannot hook is not among the functions.
        let on_hooks = |function: &&SkbFunction| hooks.iter().any(|hook| hook.at == function.at);
        sites.extend(
            functions
                .iter()
                .filter(on_hooks)
                .map(|function| (function.at, Site::hook(function))),
        );
    }
    (sites.into_values().collect(), absent)
}

/// The functions that carry out the statements of these rules: `void (struct nft_expr *, struct nft_regs *, struct
/// nft_pktinfo *)` (`include/net/netfilter/nf_tables.h`).
fn statements(kernel: &Kernel, rules: &NftRules) -> Result<Vec<ring::Site>> {
    let evals: BTreeSet<u64> = rules
        .iter()
        .flat_map(|rule| &rule.expressions)
        .filter(|expression| {
            STATEMENTS
                .iter()
                .any(|name| expression.name.starts_with(name))
        })
        .map(|expression| expression.eval.0)
        .collect();
    if evals.is_empty() {
        return Ok(Vec::new());
    }
    let sites = call_sites(kernel)?;
    let can = |at: u64| {
        ENTRIES
            .iter()
            .any(|entry| sites.contains(&GuestVirt(at).offset(*entry).0))
    };
    Ok(evals
        .into_iter()
        .filter(|at| can(*at))
        .map(|address| ring::Site {
            address,
            position: 2,
            how: How::Rule as u8,
            zero: [0; 6],
        })
        .collect())
}

impl Site {
    fn of(function: &SkbFunction) -> Self {
        let how = match function.name.as_str() {
            "skb_clone" | "skb_copy" | "__pskb_copy_fclone" | "skb_copy_expand" | "skb_segment"
            | "ip_frag_next" | "ip6_frag_next" => How::Derive,
            "pskb_expand_head" => How::Resize,
            "skb_gro_receive" => How::Merge,
            name if ENDS.contains(&name) => How::End,
            _ => How::Entry,
        };
        Self {
            function: function.clone(),
            how,
            layer: layer(&function.name),
        }
    }

    fn hook(function: &SkbFunction) -> Self {
        Self {
            function: function.clone(),
            how: How::Return,
            layer: super::Layer::Netfilter,
        }
    }

    fn to_ring(&self) -> ring::Site {
        ring::Site {
            address: self.function.at.0,
            // skb_gro_receive(struct sk_buff *p, struct sk_buff *skb): the second is what becomes part of the first.
            position: match self.how {
                How::Merge => 1,
                _ => self.function.position,
            },
            how: self.how as u8,
            zero: [0; 6],
        }
    }
}

impl Capture {
    /// Number of functions that are hooked.
    #[must_use]
    pub fn hooked(&self) -> usize {
        self.sites.len()
    }

    /// The names that were asked for and are not to be had in this kernel: absent, inlined, or not for ftrace.
    #[must_use]
    pub fn absent(&self) -> &[String] {
        &self.absent
    }

    /// Takes what has come so far out of the rings; a long capture calls it now and then, so that nothing is overwritten.
    ///
    /// # Errors
    /// When the rings are not as the module keeps them.
    pub fn drain(&mut self) -> Result<usize> {
        let before = self.events.len();
        self.armed.reader.drain(false, &mut self.events)?;
        Ok(self.events.len() - before)
    }

    /// Counts of the records so far, as of the last [`Capture::drain`].
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.armed.reader.tally()
    }

    /// Waits until nothing has come for a fifth of a second, at most three seconds.
    ///
    /// # Errors
    /// As [`Capture::drain`].
    pub fn settle(&mut self) -> Result<()> {
        let mut quiet = 0;
        for _ in 0..60 {
            std::thread::sleep(std::time::Duration::from_millis(50));
            quiet = if self.drain()? == 0 { quiet + 1 } else { 0 };
            if quiet == 4 {
                break;
            }
        }
        Ok(())
    }

    /// Ends the capture and sorts what came into packets.
    ///
    /// # Errors
    /// When the module does not answer, or the rings are not as it keeps them.
    pub fn paths(mut self) -> Result<Paths> {
        let missed = self.armed.disarm()?;
        self.armed.reader.drain(true, &mut self.events)?;
        let known = Known {
            kernel: &self.kernel,
            sites: &self.sites,
            hooks: &self.hooks,
            rules: &self.rules,
            wanted: &self.wanted,
            reasons: Reasons::read(&self.kernel)?,
            all_families: self.all_families,
        };
        let mut tally = self.armed.reader.tally();
        tally.missed = missed;
        let mut paths = Paths::sort(self.events, tally, self.armed.reader.whole_until(), &known)?;
        paths.absent = self.absent;
        paths.hooked = self.sites.len();
        paths.cpus = self.armed.reader.cpus().to_vec();
        paths.realtime = self.realtime;
        drop(self.guest);
        Ok(paths)
    }
}
