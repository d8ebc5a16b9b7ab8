// SPDX-License-Identifier: GPL-2.0

//! The one capture that there can be: its owner and its hooks.

use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::global_lock;

use crate::call::{Plan, PLANS};
use crate::ring::{
    Arm, Counters, Filter, How, RingInfo, Site, Tracepoint, MAGIC, MAX_CPUS, MAX_RING, MAX_SITES,
    MIN_RING, POSITIONS, VERSION,
};
use crate::{calls, event, rings};

global_lock! {
    // SAFETY: Initialised by the module before the device is registered.
    pub(crate) unsafe(uninit) static CAPTURE: Mutex<Capture> = Capture::new();
}

extern "C" {
    fn klab_hook_entries(how: u32, position: u32, addresses: *mut c_ulong, count: u32) -> c_int;
    fn klab_hook_exits(how: u32, position: u32, addresses: *mut c_ulong, count: u32) -> c_int;
    fn klab_hook_calls(plan: u32, addresses: *mut c_ulong, count: u32) -> c_int;
    fn klab_hook_points(plan: u32, addresses: *mut c_ulong, count: u32) -> c_int;
    fn klab_hook_tracepoint(id: u32, name: *const c_char, len: usize) -> c_int;
    fn klab_unhook();
    fn klab_missed() -> u64;
    fn klab_now() -> u64;
}

/// Number of positions, or plans, that sites hooked so can have.
fn positions(how: u8) -> u8 {
    if how == How::Call as u8 || how == How::Point as u8 {
        PLANS as u8
    } else {
        POSITIONS
    }
}

pub(crate) struct Capture {
    /// The open file that arms; 0: none.
    armer: u64,
    armed: bool,
    /// `Arm::owner` of the client that armed, and the time of that, in nanoseconds.
    owner: u64,
    since: u64,
    sites: KVVec<Site>,
}

impl Capture {
    const fn new() -> Self {
        Self {
            armer: 0,
            armed: false,
            owner: 0,
            since: 0,
            sites: KVVec::new(),
        }
    }

    /// Refuses `file` while a capture is armed, or another file prepares one.
    fn prepare(&self, file: u64) -> Result {
        if self.armed || self.armer != 0 && self.armer != file {
            return Err(EBUSY);
        }
        Ok(())
    }

    /// Adds functions.
    pub(crate) fn add(&mut self, file: u64, sites: KVVec<Site>) -> Result {
        self.prepare(file)?;
        if self.sites.len().saturating_add(sites.len()) > MAX_SITES {
            return Err(E2BIG);
        }
        for site in &sites {
            // Kernel and modules, and with them their tracepoints, lie in the top 2 GiB: what is recorded is the low half.
            let kernel = site.address >> 32 == 0xffff_ffff;
            if !kernel
                || site.how > How::LAST as u8
                || site.position >= positions(site.how)
                || site.zero != [0; 6]
            {
                return Err(EINVAL);
            }
        }
        self.sites.extend_from_slice(&sites, GFP_KERNEL)?;
        self.armer = file;
        Ok(())
    }

    /// Sets the filter.
    pub(crate) fn filter(&mut self, file: u64, filter: Filter) -> Result {
        self.prepare(file)?;
        let known = filter.flags <= crate::ring::EITHER_WAY && matches!(filter.family, 0 | 4 | 6);
        if filter.version != VERSION || !known || filter.zero != 0 {
            return Err(EINVAL);
        }
        // SAFETY: Not armed, and the lock is held.
        unsafe { event::set_filter(filter) };
        self.armer = file;
        Ok(())
    }

    /// Sets the plans of calls.
    pub(crate) fn plans(&mut self, file: u64, plans: &[Plan]) -> Result {
        self.prepare(file)?;
        if !plans.iter().all(Plan::is_sound) {
            return Err(EINVAL);
        }
        // SAFETY: Not armed, and the lock is held.
        unsafe { calls::set_plans(plans) };
        self.armer = file;
        Ok(())
    }

    /// Begins; on failure nothing is hooked, and sites and filter are forgotten.
    pub(crate) fn arm(&mut self, file: u64, arm: &Arm) -> Result {
        self.prepare(file)?;
        let bytes = if arm.ring == 0 { MAX_RING } else { arm.ring };
        let sized = bytes.is_power_of_two() && (MIN_RING..=MAX_RING).contains(&bytes);
        let known = Tracepoint::ALL
            .iter()
            .fold(0, |all, id| all | 1 << *id as u64);
        if arm.version != VERSION || !sized || arm.tracepoints & !known != 0 {
            return Err(EINVAL);
        }
        self.armer = file;
        self.owner = arm.owner;
        // SAFETY: Only reads a clock.
        self.since = unsafe { klab_now() };
        let hooked = rings::make(bytes as usize).and_then(|()| {
            rings::turn();
            self.armed = true;
            self.hook(arm.tracepoints)
        });
        if hooked.is_err() {
            self.disarm(file)?;
        }
        hooked
    }

    fn hook(&self, tracepoints: u64) -> Result {
        for how in 0..=How::LAST as u8 {
            for position in 0..positions(how) {
                let mut addresses: KVVec<c_ulong> = KVVec::new();
                for site in self
                    .sites
                    .iter()
                    .filter(|site| site.how == how && site.position == position)
                {
                    addresses.push(site.address as c_ulong, GFP_KERNEL)?;
                }
                if addresses.is_empty() {
                    continue;
                }
                let (how_, position) = (u32::from(how), u32::from(position));
                let (at, count) = (addresses.as_mut_ptr(), addresses.len() as u32);
                let at_exit = [How::Return, How::Derive, How::Resize];
                let entry_only = !at_exit.iter().any(|exit| *exit as u8 == how);
                // SAFETY: `at` has `count` addresses, and refused are those that ftrace cannot hook, or that are no tracepoint.
                to_result(unsafe {
                    if how == How::Call as u8 {
                        klab_hook_calls(position, at, count)
                    } else if how == How::Point as u8 {
                        klab_hook_points(position, at, count)
                    } else if entry_only {
                        klab_hook_entries(how_, position, at, count)
                    } else {
                        klab_hook_exits(how_, position, at, count)
                    }
                })?;
            }
        }
        for tracepoint in Tracepoint::ALL {
            if tracepoints & 1 << tracepoint as u64 != 0 {
                let name = tracepoint.name();
                // SAFETY: `name` has `len` bytes.
                to_result(unsafe {
                    klab_hook_tracepoint(tracepoint as u32, name.as_ptr().cast(), name.len())
                })?;
            }
        }
        Ok(())
    }

    /// Ends what `file` armed or prepared; fails if another did.
    pub(crate) fn disarm(&mut self, file: u64) -> Result {
        if self.armer != file {
            return if self.armer == 0 { Ok(()) } else { Err(EBUSY) };
        }
        // SAFETY: Undoes what is registered, which may be nothing; returns when no hook runs any more.
        unsafe { klab_unhook() };
        if self.armed {
            rings::turn();
        }
        self.armed = false;
        self.armer = 0;
        self.sites = KVVec::new();
        // SAFETY: Nothing is registered, and the lock is held.
        unsafe {
            event::set_filter(Filter::ANY);
            calls::forget_plans();
        }
        Ok(())
    }

    /// State of the capture.
    pub(crate) fn counters(&self) -> Counters {
        let mut counters = Counters {
            magic: MAGIC,
            version: VERSION,
            cpus: 0,
            slots: rings::slots(),
            armed: u32::from(self.armed),
            sites: self.sites.len() as u32,
            zero: 0,
            // SAFETY: Only reads counters.
            missed: unsafe { klab_missed() },
            owner: if self.armed { self.owner } else { 0 },
            age: if self.armed {
                // SAFETY: Only reads a clock.
                unsafe { klab_now() }.saturating_sub(self.since)
            } else {
                0
            },
            rings: [RingInfo::NONE; MAX_CPUS],
        };
        for (cpu, info) in counters.rings.iter_mut().enumerate() {
            let Some((header, records)) = rings::of(cpu as u32) else {
                break;
            };
            // SAFETY: The ring exists while the lock is held; its CPU may count meanwhile.
            let now = unsafe { header.read_volatile() };
            *info = RingInfo {
                header: rings::phys(header),
                records: rings::phys(records),
                produced: now.produced,
                seen: now.seen,
                rejected: now.rejected,
                unreadable: now.unreadable,
            };
            counters.cpus = cpu as u32 + 1;
        }
        counters
    }
}
